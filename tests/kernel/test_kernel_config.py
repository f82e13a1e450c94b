"""Configurations of a real kernel tree: what was asked for is there, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktriage.cache import cache_root
from ktriage.errors import UserError
from ktriage.kernel.checkers import checkers_for
from ktriage.kernel.config import (
    GUEST,
    NEEDED,
    PLAIN,
    READABLE,
    RECORDING,
    SMALL,
    Config,
    configure,
    parse_config,
)
from ktriage.kernel.kconfig import evaluate, read_kconfig, split_and, why_dropped
from ktriage.kernel.tree import packaged_source

KCONFIG = """\
config EXPERT
	bool "Experts only"
	help
		config NOT_ONE
		It says:

			depends on NOTHING

config ARCH
	def_bool y
	select HAVE_IT if !EXPERT

config HAVE_IT
	bool

if EXPERT && \\
   ARCH
choice
	prompt "Allocator"
config SLUB
	bool "SLUB"
config SLOB # small
	bool "SLOB"
	depends on $(cc-option,-Os)
endchoice
endif

menu "Checkers"
	depends on EXPERT
source "lib/Kconfig.$(SRCARCH)"
endmenu
"""
MORE = """\
menuconfig KASAN
	bool "KASAN"
	depends on (SLUB && SYSFS) || (SLAB && !DEBUG_SLAB)
	depends on HAVE_IT
config KASAN_KIND
	string "Kind" if KASAN = y
"""

SLABS = "(SLUB && SYSFS) || (SLAB && !DEBUG_SLAB) (SLUB=n, SYSFS=n, SLAB=n, DEBUG_SLAB=n)"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a tree that has nothing but Kconfig files."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "Kconfig").write_text(KCONFIG)
    (tmp_path / "lib/Kconfig.x86").write_text(MORE)
    return tmp_path


@pytest.mark.parametrize(
    ("symbol", "wanted", "values", "why"),
    [
        ("KASAN", "y", {"EXPERT": "y", "HAVE_IT": "y", "SLOB": "y"}, f"it needs {SLABS}"),
        ("KASAN", "y", {"SLUB": "y", "SYSFS": "y"}, "it needs EXPERT (EXPERT=n) and HAVE_IT (HAVE_IT=n)"),
        ("SLUB", "y", {"EXPERT": "y", "ARCH": "y", "SLOB": "y"}, "it is one of a choice, and SLOB is taken"),
        ("SLUB", "y", {"EXPERT": "y"}, "it needs ARCH (ARCH=n)"),
        ("HAVE_IT", "y", {}, "it can't be set, only selected, by ARCH"),
        ("HAVE_IT", "n", {"ARCH": "y"}, "it is selected by ARCH"),
        ("ARCH", "n", {}, "it is always set here"),
        ("NOT_ONE", "y", {}, "this tree has no such symbol"),
    ],
)  # fmt: skip
def test_why_a_symbol_is_dropped(small: Path, symbol: str, wanted: str, values: dict, why: str) -> None:
    assert why_dropped(read_kconfig(small), symbol, wanted, values) == why


@pytest.mark.parametrize(
    ("expression", "level"),
    [
        ("A", 2), ("M", 1), ("N", 0), ("UNKNOWN", 0), ("!A", 0), ("!M", 1), ("A && M", 1), ("N || M", 1),
        ("!(A && N) && A", 2), ("A=y", 2), ("M = y", 0), ("M!=n", 2), ('S = "text"', 2), ("S", 2),
        ("$(cc-option,-fno-x) && A", 2), ("N && A || A", 2), ("y", 2), ("GCC_VERSION >= 120000", 2),
    ],
)  # fmt: skip
def test_expressions(expression: str, level: int) -> None:
    values = {"A": "y", "M": "m", "N": "n", "S": '"text"'}
    assert evaluate(expression, {**values, "S": "text"} if expression == "S" else values) == level


def test_terms_are_split_where_they_are_joined() -> None:
    assert split_and("A && (B || C && D) && !E") == ["A", "(B || C && D)", "!E"]
    assert split_and("A && B || C") == ["A && B || C"]


def test_a_fragment_that_is_none_names_its_line() -> None:
    assert parse_config('# a comment\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\n') == {
        "A": "y",
        "B": "n",
        "C": '"x y"',
    }
    with pytest.raises(UserError, match="line 2 of a kernel configuration is no CONFIG_NAME=value: KASAN=y"):
        parse_config("CONFIG_A=y\nKASAN=y\n")


@pytest.fixture(scope="module")
def tree() -> Path:
    """Return Debian's kernel source, where it was unpacked before: it is big."""
    if not any((cache_root() / "source").glob("linux-source-6.1_*/linux-source-6.1/Kconfig")):
        pytest.skip("no kernel source in the cache; make test-all fetches it")
    return packaged_source()


def test_what_is_asked_for_is_there(tree: Path, tmp_path: Path) -> None:
    asked = GUEST + "CONFIG_SLUB=y\nCONFIG_DEBUG_KERNEL=y\nCONFIG_KASAN=y\n# CONFIG_WIRELESS is not set\n"
    values = configure(tree, tmp_path / "out", Config("small", (asked, "CONFIG_NR_CPUS=4\n")))
    assert parse_config((tmp_path / "out/.config").read_text()) == values
    assert values["KASAN_GENERIC"] == "y"
    assert values["NR_CPUS"] == "4"
    assert "WIRELESS" not in values or values["WIRELESS"] == "n"


def test_what_is_dropped_is_named_with_the_reason(tree: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_text("CONFIG_64BIT=y\nCONFIG_EXPERT=y\nCONFIG_SLOB=y\n# CONFIG_SHMEM is not set\n")
    asked = "CONFIG_DEBUG_KERNEL=y\nCONFIG_KASAN=y\nCONFIG_TMPFS=y\nCONFIG_NONSENSE=y\nCONFIG_TTY=y\n"
    with pytest.raises(UserError) as caught:
        configure(tree, tmp_path / "out", Config(base, (asked,)))
    dropped = {one.symbol: str(one) for one in caught.value.data["dropped"]}
    assert set(dropped) == {"KASAN", "TMPFS", "NONSENSE"}
    assert dropped["TMPFS"] == "TMPFS=y became n: it needs SHMEM (SHMEM=n)"
    assert dropped["NONSENSE"] == "NONSENSE=y became n: this tree has no such symbol"
    assert "SLUB=n" in dropped["KASAN"]
    assert dropped["KASAN"] in str(caught.value)
    assert not (tmp_path / "out/.config").exists()


TOGETHER = (
    "KASAN: slab-use-after-free Read in f", "KFENCE: use-after-free read in f",
    "UBSAN: shift-out-of-bounds in f", "memory leak in f", "possible deadlock in f",
    "BUG: sleeping function called from invalid context in f", "INFO: task hung in f",
    "BUG: soft lockup in f", "BUG: workqueue lockup", "WARNING: ODEBUG bug in f",
    "BUG: spinlock bad magic in f", "BUG: corrupted list in f", "list_add corruption",
)  # fmt: skip
KCSAN = ("KCSAN: data-race in f / g",)


@pytest.mark.parametrize("base", ["small", "tinyconfig"])
def test_what_was_there_does_not_count(tree: Path, tmp_path: Path, base: str) -> None:
    config = Config(base, ("CONFIG_TLS=y\n",), needs=(NEEDED,), wishes=(SMALL, READABLE))
    first = configure(tree, tmp_path / "out", config)
    text = (tmp_path / "out/.config").read_text()
    assert (first["SLUB"], first["UNWINDER_ORC"]) == ("y", "y")
    (tmp_path / "out/.config").write_text("CONFIG_EXPERT=y\nCONFIG_SLOB=y\nCONFIG_USB=y\n")
    assert configure(tree, tmp_path / "out", config) == first
    assert (tmp_path / "out/.config").read_text() == text


def test_tinyconfig_is_the_trees_own(tree: Path, tmp_path: Path) -> None:
    checked = checkers_for(("KASAN: use-after-free Read in f",))
    config = Config("tinyconfig", ("CONFIG_TIMERFD=y\n",), needs=(NEEDED, checked), wishes=(SMALL,))
    values = configure(tree, tmp_path / "out", config)
    # It has none of the defaults, and what it chooses gives way to what is asked for.
    assert (values["TIMERFD"], values["SIGNALFD"], values["KASAN"], values["SLUB"]) == ("y", "n", "y", "y")
    slob = Config("tinyconfig", ("CONFIG_SLOB=y\n",), needs=(NEEDED, checked), wishes=(SMALL,))
    with pytest.raises(UserError, match="SLUB=y became n: it is one of a choice, and SLOB is taken; KASAN=y"):
        configure(tree, tmp_path / "out", slob)


@pytest.mark.parametrize("needs", [checkers_for(TOGETHER), checkers_for(KCSAN), RECORDING])
def test_what_crashes_and_recordings_need_can_be_had(tree: Path, tmp_path: Path, needs: str) -> None:
    values = configure(tree, tmp_path / "out", Config("small", (), needs=(NEEDED, needs), wishes=(SMALL,)))
    assert {name: values.get(name) for name in parse_config(needs)} == parse_config(needs)


def test_the_same_is_asked_for_and_the_same_comes_out(tree: Path, tmp_path: Path) -> None:
    config = Config("small", (), needs=(NEEDED,), wishes=(SMALL,))
    values = configure(tree, tmp_path / "out", config)
    before = (tmp_path / "out/.config").stat()
    assert configure(tree, tmp_path / "out", config) == values
    assert (tmp_path / "out/.config").stat().st_mtime_ns == before.st_mtime_ns
    assert not list((tmp_path / "out").glob(".config.*"))


def test_a_configuration_of_ones_own_keeps_what_it_has(tree: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_text("CONFIG_64BIT=y\nCONFIG_TTY=y\nCONFIG_VT=y\nCONFIG_INPUT=y\nCONFIG_DEBUG_INFO_BTF=y\n")
    values = configure(tree, tmp_path / "out", Config(base, (), needs=(NEEDED,), wishes=(PLAIN,)))
    assert (values["VT"], values["INPUT"]) == ("y", "y")
    assert values.get("DEBUG_INFO_BTF", "n") == "n"
    assert values["VIRTIO_BLK"] == "y"


def test_what_is_asked_for_wins_over_what_is_needed(tree: Path, tmp_path: Path) -> None:
    asked = ("CONFIG_NONESUCH=y\n# CONFIG_KEXEC is not set\n",)
    config = Config("small", asked, needs=(NEEDED, "CONFIG_OF_ANOTHER_AGE=y\n"), wishes=(SMALL,))
    with pytest.raises(UserError, match="NONESUCH=y became n: this tree has no such symbol") as caught:
        configure(tree, tmp_path / "out", config)
    assert len(caught.value.data["dropped"]) == 1
    values = configure(tree, tmp_path / "out", config, lenient=True)
    assert values.get("KEXEC", "n") == "n"


@pytest.mark.parametrize(
    ("base", "message"),
    [("rm -rf", "no base of a configuration"), (Path("/nonexistent"), "no such kernel configuration")],
)
def test_a_base_that_is_none(tree: Path, tmp_path: Path, base: str | Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configure(tree, tmp_path, Config(base, ()))


def test_what_is_no_kernel_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no kernel source in"):
        configure(tmp_path, tmp_path / "out", Config())
    for name in ("Kconfig", "scripts/kconfig/merge_config.sh", ".config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"was built in place.*mrproper"):
        configure(tmp_path, tmp_path / "out", Config())
