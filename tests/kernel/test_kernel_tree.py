"""Trees built out of tree: a small one with a kernel's makefile targets; in the long run, a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ktriage.errors import MachineryError, UserError
from ktriage.kernel.config import GUEST, Config
from ktriage.kernel.signature import image_signature
from ktriage.kernel.tree import build_folder, build_tree, packaged_source
from ktriage.machine import End, GuestSpec, Plan, prepare, run

MAKEFILE = """\
tinyconfig olddefconfig:
	@mkdir -p $(O) && touch $(KCONFIG_CONFIG) && sort -o $(KCONFIG_CONFIG) $(KCONFIG_CONFIG)
modules: $(O)/vmlinux
	@mkdir -p $(O)/include/config && echo 6.1.0-small > $(O)/include/config/kernel.release
bzImage: $(O)/vmlinux
	@mkdir -p $(O)/arch/x86/boot && cp $(O)/vmlinux $(O)/arch/x86/boot/bzImage
$(O)/vmlinux: init.c
	@echo "  CC      init.o"
	$(CC) $(KCFLAGS) -g -O2 -ffreestanding -nostdlib -static -Wl,--build-id -o $@ $(CURDIR)/init.c
"""
SOURCE = "int answer = %s;\nvoid _start(void) { for (;;) answer++; }\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small tree; what is built of it goes to a cache of its own."""
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "linux"
    (place / "scripts/kconfig").mkdir(parents=True)
    (place / "scripts/kconfig/merge_config.sh").touch()
    (place / "Kconfig").write_text('config A\n\tbool "A"\n')
    (place / "Makefile").write_text(MAKEFILE)
    (place / "init.c").write_text(SOURCE % "42")
    return place


CONFIG = Config("tinyconfig", ("CONFIG_A=y\n",))


def test_a_tree_is_built_beside_itself(tree: Path) -> None:
    before = sorted(tree.rglob("*"))
    build = build_tree(tree, CONFIG, jobs=1)
    assert build.error is None
    assert build.kernel
    assert build.kernel.release == "6.1.0-small"
    assert build.kernel.image.is_file()
    assert build.kernel.headers == build.folder == build_folder(tree, CONFIG)
    assert "CC      init.o" in build.log.read_text()
    assert sorted(tree.rglob("*")) == before
    assert f"{tree}/init.c".encode() not in build.kernel.image.read_bytes()


def test_what_did_not_change_is_not_built_again(tree: Path) -> None:
    first = build_tree(tree, CONFIG, jobs=1)
    second = build_tree(tree, CONFIG, jobs=1)
    assert "CC" not in second.log.read_text()
    assert second.signature == first.signature


def test_the_signature_is_of_what_the_kernel_does(tree: Path) -> None:
    first = build_tree(tree, CONFIG, jobs=1).signature
    (tree / "init.c").write_text("/* a comment */\n" + SOURCE % "42")
    assert build_tree(tree, CONFIG, jobs=1).signature == first
    (tree / "init.c").write_text(SOURCE % "43")
    assert build_tree(tree, CONFIG, jobs=1).signature != first
    assert build_tree(tree, Config("tinyconfig", ()), jobs=1).folder != build_folder(tree, CONFIG)


def test_a_tree_that_does_not_build_is_an_answer(tree: Path) -> None:
    (tree / "init.c").write_text(SOURCE % "undeclared")
    build = build_tree(tree, CONFIG, jobs=1)
    assert build.kernel is None
    assert build.signature is None
    assert build.error
    assert build.error.startswith("init.c:1:14: error: 'undeclared' undeclared")
    (tree / "init.c").write_text(SOURCE % "1")
    assert build_tree(tree, CONFIG, jobs=1).kernel


def test_a_build_that_takes_too_long_is_an_answer(tree: Path) -> None:
    with (tree / "Makefile").open("a") as file:
        file.write("\t@sleep 1000\n")
    build = build_tree(tree, CONFIG, jobs=1, timeout=0.5)
    assert build.error == "the build took over 0.5 s"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("echo 'ld: final link failed: No space left on device' >&2; exit 1", "No space left on device"),
        ("echo 'gcc: fatal error: Killed signal terminated program cc1' >&2; exit 1", "ended a compiler"),
        ("kill -KILL $$$$", "Killed"),
        ("kill -KILL $$PPID", "killed by signal 9"),
    ],
)
def test_what_the_machine_ends_says_nothing_of_the_tree(tree: Path, recipe: str, message: str) -> None:
    with (tree / "Makefile").open("a") as file:
        file.write(f"\t@{recipe}\n")
    with pytest.raises(MachineryError, match=message):
        build_tree(tree, CONFIG, jobs=1)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Kconfig:3: syntax error", "make olddefconfig failed: Kconfig:3: syntax error$"),
        ("fixdep: write: No space left on device", "the build was cut short: No space left on device: /"),
    ],
)
def test_what_ends_the_configuration_is_told(tree: Path, said: str, message: str) -> None:
    with (tree / "Makefile").open("a") as file:
        file.write(f"\nolddefconfig: fails\nfails:\n\t@echo '{said}' >&2; exit 1\n")
    with pytest.raises(MachineryError, match=message):
        build_tree(tree, CONFIG, jobs=1)


def test_tools_that_a_full_disk_left_half_made_are_made_anew(tree: Path) -> None:
    makefile = (tree / "Makefile").read_text()
    tools = """
$(O)/vmlinux: tools/objtool
tools/objtool:
	@mkdir -p $(O)/tools/objtool && cd $(O)/tools/objtool && test -e table.c || { echo 'int' > table.c; %s }
	@grep -q 'int whole;' $(O)/tools/objtool/table.c
.PHONY: tools/objtool
"""
    (tree / "Makefile").write_text(makefile + tools % "echo 'awk: No space left on device'; exit 1;")
    with pytest.raises(MachineryError, match="No space left on device"):
        build_tree(tree, CONFIG, jobs=1)
    (tree / "Makefile").write_text(makefile + tools % "echo 'int whole;' > table.c;")
    assert build_tree(tree, CONFIG, jobs=1).error is None


def test_a_disk_that_is_full(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk) -> None:
    monkeypatch.setenv("KTRIAGE_CACHE", str(small_disk("16k", tmp_path / "small")))
    with pytest.raises(MachineryError, match="No space left on device"):
        build_tree(tree, CONFIG, jobs=1)


CHILD = """
import sys
from pathlib import Path
from ktriage.kernel.config import Config
from ktriage.kernel.tree import build_tree
build_tree(Path(sys.argv[1]), Config("tinyconfig", ("CONFIG_A=y\\n",)), jobs=1)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_compiler_outlives_its_parent(tree: Path, tmp_path: Path, how: signal.Signals) -> None:
    started = tmp_path / "started"
    with (tree / "Makefile").open("a") as file:
        file.write(f"\t@echo $$$$ > {started}.draft; mv {started}.draft {started}; exec sleep 1000\n")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tree)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        compiler = int(started.read_text())
    finally:
        child.send_signal(how)
        child.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{compiler}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{compiler}").exists()
    # What make was about to write is gone: the next build does not take it for whole.
    assert not (build_folder(tree, CONFIG) / "vmlinux").exists()


def test_what_is_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_text("text")
    with pytest.raises(UserError, match="is no kernel"):
        image_signature(tmp_path / "vmlinux")
    with pytest.raises(UserError, match="no compiler nonesuch-gcc"):
        build_folder(tmp_path, CONFIG, "nonesuch-gcc")


@pytest.mark.matrix
@pytest.mark.vm
@pytest.mark.timeout(7200)
def test_a_real_tree_is_built_and_boots(tmp_path: Path) -> None:
    config = Config("tinyconfig", (GUEST,))
    tree = packaged_source()
    build = build_tree(tree, config)
    assert build.kernel, build.error
    again = build_tree(tree, config)
    assert again.signature == build.signature
    assert "  CC  " not in again.log.read_text()
    guest = prepare(GuestSpec(build.kernel.image))
    left = run(guest, Plan(("step it",), {"ktriage/it": b"uname -r; id -u"}), tmp_path, timeout=60)
    assert left.end is End.DONE
    assert (tmp_path / "output.log").read_text() == f"{build.kernel.release}\n0\n"


def test_the_same_build_takes_turns(tree: Path) -> None:
    """Two processes that build the same at once: the second waits and finds it done."""
    children = [subprocess.Popen([sys.executable, "-c", CHILD, str(tree)], env=os.environ) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    assert build_tree(tree, CONFIG, jobs=1).kernel
