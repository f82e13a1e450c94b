from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktriage.cache import cache_root
from ktriage.jobs.demo import example_folder
from ktriage.jobs.mail_parts import keyword_text
from ktriage.people.addresses import Mailmap, addresses_in, split_address, split_addresses
from ktriage.people.maintainers import Maintainers, read_sections
from ktriage.people.recipients import Recipients
from ktriage.people.tree import People

TEXT = """\
List of maintainers
===================
	M: *Mail* patches to: FullName <address@domain>

Maintainers List
----------------

NETWORKING [TCP]
M:	Eve Dunn <eve@net.org>
R:	Nora Cole <nora@net.org>
L:	netdev@lists.org
L:	insiders@lists.org (subscribers-only)
S:	Maintained
F:	net/ipv4/tcp*.c
F:	include/net/tcp.h

NETWORKING
M:	"Dave O. Mill" <dave@net.org>
M:	Eve Dunn <eve@elsewhere.org>
L:	netdev@lists.org
S:	Supported
F:	net/
X:	net/wireless/
K:	\\bnet_device\\b

# a comment
WIRELESS
M:	Wren One <wren@net.org>, Ann Two <ann@net.org>
S:	Odd Fixes
F:	net/wireless
N:	wifi[0-9]?

DOTTED
M:	Dot <dot@net.org>
F:	lib/a.c
F:	lib/c+x

THE REST
M:	The Chief <chief@net.org>
L:	everything@lists.org
S:	Buried alive in reporters
F:	*
F:	*/
"""
DIRECTORIES = {"net", "net/wireless", "lib"}


@pytest.fixture
def maintainers() -> Maintainers:
    return Maintainers(TEXT, DIRECTORIES.__contains__)


def names(maintainers: Maintainers, path: str, content: bytes | None = None) -> list[str]:
    return [match.section.name for match in maintainers.match(path, content)]


def test_sections_and_their_status():
    sections = read_sections(TEXT)
    assert [s.name for s in sections] == ["NETWORKING [TCP]", "NETWORKING", "WIRELESS", "DOTTED", "THE REST"]
    assert [s.status for s in sections[:3]] == ["Maintained", "Supported", "Odd Fixes"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # The more specific section first; a pattern without a slash at its end stays in its directory.
        ("net/ipv4/tcp_ulp.c", ["NETWORKING [TCP]", "NETWORKING", "THE REST"]),
        ("net/ipv4/tcp/ulp.c", ["NETWORKING", "THE REST"]),
        ("include/net/tcp.h", ["NETWORKING [TCP]", "THE REST"]),
        ("include/net/tcp.hpp", ["NETWORKING [TCP]", "THE REST"]),
        # Excluded from one, and a directory named without its slash in the other.
        ("net/wireless/deep/down.c", ["WIRELESS", "THE REST"]),
        ("drivers/wifi7.c", ["WIRELESS", "THE REST"]),
        # A dot is a dot, a plus is a regular expression's.
        ("lib/a.c", ["DOTTED", "THE REST"]),
        ("lib/axc", ["THE REST"]),
        ("lib/ccx", ["DOTTED", "THE REST"]),
        ("README", ["THE REST"]),
    ],
)
def test_which_sections_take_a_file(maintainers, path, expected):
    assert names(maintainers, path) == expected


def test_keywords_come_last_and_need_the_content(maintainers):
    assert names(maintainers, "lib/other.c") == ["THE REST"]
    assert names(maintainers, "lib/other.c", b"struct net_device *dev;") == ["THE REST", "NETWORKING"]
    assert names(maintainers, "lib/other.c", b"struct my_net_devices;") == ["THE REST"]


def test_people_of_a_file_each_once_with_reasons():
    people = People(
        Maintainers(TEXT, DIRECTORIES.__contains__), Mailmap("Nora Now <nora@now.org> <nora@net.org>")
    )
    found = people.collect({"net/ipv4/tcp_ulp.c": None, "net/ipv4/tcp.c": None})
    assert [(r.address, r.field) for r in found.all()] == [
        ("eve@net.org", "to"),
        ("dave@net.org", "to"),
        ("nora@now.org", "cc"),
        ("netdev@lists.org", "cc"),
        ("everything@lists.org", "cc"),
    ]
    assert found.all()[0].reasons[0] == "maintains NETWORKING [TCP] (net/ipv4/tcp_ulp.c and 1 more)"


def test_who_asked_to_be_left_out_still_hears_of_what_they_maintain():
    people = People(Maintainers(TEXT), Mailmap(), ("eve@net.org", "signer@net.org"))
    found = Recipients(unless_listed=people.ignored)
    for address in people.ignored:
        found.add("", address, "to", "signed it off")
    assert [left.address for left in found.left_out] == ["eve@net.org", "signer@net.org"]
    people.collect({"include/net/tcp.h": None}, into=found)
    assert "eve@net.org" in {r.address for r in found.all()}
    assert "signer@net.org" not in {r.address for r in found.all()}
    assert [left.address for left in found.left_out] == ["signer@net.org"]


def test_who_wants_no_mail_at_all():
    people = People(Maintainers(TEXT), Mailmap())
    found = people.collect({"include/net/tcp.h": None}, into=Recipients(["EVE@net.org"]))
    assert "eve@net.org" not in {r.address for r in found.all()}


def test_a_list_whose_line_begins_with_no_address():
    people = People(Maintainers("A\nM:\tOne <one@a.org>\nL:\tA List <list@a.org>\nF:\t*\n"), Mailmap())
    assert [r.address for r in people.collect({"x": None}).all()] == ["one@a.org"]


def test_several_addresses_in_a_line():
    assert split_addresses("Wren One <wren@net.org>, Ann Two <ann@net.org>") == [
        ("Wren One", "wren@net.org"),
        ("Ann Two", "ann@net.org"),
    ]
    assert split_address('"Dave O. Mill" <dave@net.org>') == ("Dave O. Mill", "dave@net.org")
    assert split_address("nobody") == ("", "")


def test_mailmap_forms():
    text = """# comment
Proper Name <one@x.org>
<new@x.org> <old@x.org>
Right Name <right@x.org> <wrong@x.org>
Other Name <other@x.org> Wrong Name <shared@x.org>
"""
    mailmap = Mailmap(text)
    assert mailmap.map("p", "one@x.org") == ("Proper Name", "one@x.org")
    assert mailmap.map("N", "OLD@x.org") == ("N", "new@x.org")
    assert mailmap.map("N", "wrong@x.org") == ("Right Name", "right@x.org")
    assert mailmap.map("wrong name", "shared@x.org") == ("Other Name", "other@x.org")
    assert mailmap.map("Someone", "shared@x.org") == ("Someone", "shared@x.org")


def test_addresses_in_a_binding():
    content = b"maintainers:\n  - Jan K. Novak <jan@x.org>\n  - Some Long Name Here <here@x.org>\n  nfc@1 {\n"
    assert list(addresses_in(content)) == [("Jan K. Novak", "jan@x.org"), ("Name Here", "here@x.org")]


@given(
    st.text(alphabet="MFXNKLRS:\t */.?+[](){}|ab\n", max_size=300),
    st.text(max_size=40),
    st.binary(max_size=60),
)
def test_any_maintainers_file_is_read(text, path, content):
    people = People(Maintainers(text, lambda _: False), Mailmap(text))
    assert isinstance(people.collect({path: content}), Recipients)


@pytest.fixture(scope="module")
def tree() -> Path:
    """A kernel's source with the script: the one that the environment names, or Debian's from the cache."""
    if shutil.which("perl") is None:
        pytest.skip("get_maintainer.pl needs perl")
    named = os.environ.get("KTRIAGE_LINUX_TREE")
    found = Path(named) if named else next(cache_root().glob("source/linux-source-*/linux-source-*"), None)
    if found is None:
        pytest.skip("KTRIAGE_LINUX_TREE names no kernel's source, and none is in the cache")
    return found


def script(tree: Path, *arguments: str | Path) -> set[str]:
    """Return the addresses that the kernel's own script has."""
    command = ["perl", "scripts/get_maintainer.pl", "--no-git-fallback", "--no-rolestats", "--no-fixes"]
    said = subprocess.run([*command, *arguments], cwd=tree, check=True, capture_output=True).stdout
    lines = said.decode("utf-8", "replace").splitlines()
    return {split_address(line)[1].lower() for line in lines} - {""}


def test_same_people_as_the_kernels_own_script_for_files(tree):
    people = People.of_folder(tree)
    every = sorted(str(p.relative_to(tree)) for p in tree.glob("[ndk]*/**/*.[ch]"))
    chosen = [*every[:: len(every) // 30], "drivers/nvme/host/tcp.c", "include/acpi/platform/aclinux.h"]
    for path in chosen:
        ours = {r.address.lower() for r in people.collect({path: (tree / path).read_bytes()}).all()}
        # Where one person has two addresses in sections that are as specific, the script says either.
        assert any(ours == script(tree, "-f", path) for _ in range(12)), path


def test_same_people_as_the_kernels_own_script_for_patches(tree):
    people = People.of_folder(tree)
    patches = sorted(example_folder("kernel-tree").glob("history/*.patch"))
    assert len(patches) > 40
    for path in patches[::4]:
        message, _, diff = path.read_text(encoding="utf-8").partition("\n---\n")
        files = dict.fromkeys(re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE), keyword_text(message, diff))
        ours = {r.address.lower() for r in people.collect(files).all()}
        assert any(ours == script(tree, path) for _ in range(12)), path.name
