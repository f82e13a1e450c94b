"""Kernels built from revisions and kept apart from the folder that the next build changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ktriage.cache import cache_root
from ktriage.errors import MachineryError, UserError
from ktriage.history.repository import Repository
from ktriage.kernel import Built, Checkout, Config, Recipe, build_as_it_stands, build_revision, checkers_for
from ktriage.kernel.built import prune
from ktriage.kernel.compiler import compiler_version, make_arguments, program, tools
from ktriage.kernel.make import errors_of, stop_makes
from ktriage.kernel.tree import _is_here, check_tools

RECIPE = Recipe(Config("tinyconfig", ("CONFIG_A=y\n",)), jobs=1)
INIT = "int answer = %s;\nvoid _start(void) { for (;;) answer++; }\n"


def build(repo, revision: str = "HEAD", recipe: Recipe = RECIPE, **options) -> Built:
    repository = Repository(repo.path)
    return build_revision(Checkout(repository), repository.resolve(revision), recipe, **options)


def test_a_kernel_outlives_the_next_build(small_kernel) -> None:
    first = build(small_kernel)
    assert first.kernel and first.fresh
    image = first.kernel.image.read_bytes()
    assert image.startswith(b"\x7fELF")
    assert (first.folder / "System.map").read_text()
    assert first.used["release"] == "6.1.0-small"
    assert "gcc" in first.used["compiler"]
    small_kernel.commit("second", {"init.c": INIT % "43"})
    second = build(small_kernel)
    assert second.kernel and second.kernel.image != first.kernel.image
    assert second.signature != first.signature
    assert first.kernel.image.read_bytes() == image
    assert "CC      init.o" in second.log.read_text()
    assert "CC      more.o" not in second.log.read_text()
    assert sum(path.is_dir() for path in (cache_root() / "tree").iterdir()) == 1


def test_revisions_that_no_build_tells_apart_share_one(small_kernel) -> None:
    first = build(small_kernel)
    small_kernel.commit("words", {"Documentation/admin.rst": "More.\n", "MAINTAINERS": "Me\n"})
    second = build(small_kernel)
    assert second.folder == first.folder
    assert not second.fresh
    small_kernel.commit("comment", {"init.c": INIT % "42" + "/* so */\n"})
    third = build(small_kernel)
    assert third.fresh
    assert third.signature == first.signature


def test_what_does_not_build_is_kept_as_such(small_kernel) -> None:
    small_kernel.commit("broken", {"init.c": INIT % "undeclared"})
    broken = build(small_kernel)
    assert broken.kernel is None and broken.signature is None and broken.fresh
    assert broken.error and broken.error.startswith("init.c:1:14: error: 'undeclared' undeclared")
    assert broken.errors[0] in broken.log.read_text()
    again = build(small_kernel)
    assert again.error == broken.error
    assert not again.fresh


def test_patches_make_another_kernel(small_kernel) -> None:
    plain = build(small_kernel)
    (small_kernel.path / "init.c").write_text(INIT % "7")
    patch = small_kernel.git("diff") + "\n"
    patched = build(small_kernel, patches=(patch,))
    assert patched.signature != plain.signature
    assert len(patched.used["patches"]) == 1
    small_kernel.git("reset", "-q", "--hard")
    small_kernel.commit("the same", {"init.c": INIT % "7"})
    same = build(small_kernel)
    assert same.folder == patched.folder
    assert same.used["patches"] == []
    wrong = build(small_kernel, patches=(patch,))
    assert wrong.error and wrong.error.startswith("a patch does not apply: error: patch failed: init.c:1")


def test_what_a_tree_does_not_have(small_kernel) -> None:
    recipe = replace(RECIPE, config=Config("tinyconfig", ("CONFIG_A=y\nCONFIG_NONSENSE=y\n",)))
    # The small tree's olddefconfig drops nothing; what it left out is taken from it.
    with (small_kernel.path / "Makefile").open("a") as file:
        file.write("\nolddefconfig: drop\ndrop:\n\tsed -i /NONSENSE/d $(KCONFIG_CONFIG)\n")
    small_kernel.commit("drops", {})
    with pytest.raises(UserError, match="NONSENSE=y became n: this tree has no such symbol"):
        build(small_kernel, recipe=recipe)
    lenient = build(small_kernel, recipe=replace(recipe, lenient=True))
    assert lenient.kernel
    assert lenient.used["absent"] == ["NONSENSE"]
    with pytest.raises(UserError, match="this tree has no such symbol: CONFIG_NONSENSE"):
        build(small_kernel, recipe=recipe)


def test_a_build_that_takes_too_long_is_not_kept(small_kernel) -> None:
    recipe = replace(RECIPE, timeout=0.5)
    with (small_kernel.path / "Makefile").open("a") as file:
        file.write("\t@sleep 1000\n")
    small_kernel.commit("slow", {})
    for _ in range(2):
        slow = build(small_kernel, recipe=recipe)
        assert slow.error == "the build took over 0.5 s"
        assert slow.fresh


def test_a_disk_that_is_full_says_where(small_kernel, tmp_path: Path, monkeypatch, small_disk) -> None:
    place = small_disk("300k", tmp_path / "disk")
    monkeypatch.setenv("KTRIAGE_CACHE", str(place))
    monkeypatch.setattr("ktriage.kernel.checkout.NEEDED_BYTES", 0)
    with (small_kernel.path / "Makefile").open("a") as file:
        file.write("\thead -c 1M /dev/zero > $(O)/big\n")
    small_kernel.commit("big", {})
    with pytest.raises(MachineryError, match=f"No space left on device: {place}"):
        build(small_kernel)
    assert not any((place / "built").glob("*.draft"))


def test_builds_are_stopped_those_that_wait_for_their_turn_too(small_kernel, tmp_path: Path) -> None:
    started = tmp_path / "started"
    with (small_kernel.path / "Makefile").open("a") as file:
        file.write(f"\t@echo $$$$ > {started}.draft; mv {started}.draft {started}; exec sleep 1000\n")
    one = small_kernel.commit("slow", {})
    other = small_kernel.commit("other", {"init.c": INIT % "1"})
    errors: list[str] = []

    def go(commit: str) -> None:
        try:
            build(small_kernel, commit)
        except MachineryError as error:
            errors.append(error.message)

    threads = [threading.Thread(target=go, args=(commit,)) for commit in (one, other)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    stop_makes()
    for thread in threads:
        thread.join(30)
    assert errors == ["the build was stopped"] * 2
    assert not Path(f"/proc/{int(started.read_text())}").exists()
    assert not any((cache_root() / "built").glob("*.draft"))


CHILD = """
import sys
from pathlib import Path
from ktriage.history.repository import Repository
from ktriage.kernel import Checkout, Config, Recipe, build_revision
repository = Repository(Path(sys.argv[1]))
recipe = Recipe(Config("tinyconfig", ("CONFIG_A=y\\n",)), jobs=1)
build_revision(Checkout(repository), repository.resolve("HEAD"), recipe)
"""


def test_after_ctrl_c_nothing_runs_and_the_next_build_is_right(small_kernel, tmp_path: Path) -> None:
    started = tmp_path / "started"
    slow = f"\t@echo $$$$ > {started}.draft; mv {started}.draft {started}; exec sleep 1000\n"
    makefile = (small_kernel.path / "Makefile").read_text()
    small_kernel.commit("slow", {"Makefile": makefile + slow})
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(small_kernel.path)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        compiler = int(started.read_text())
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(30) != 0
    assert not Path(f"/proc/{compiler}").exists()
    assert not any((cache_root() / "built").glob("*.draft"))
    small_kernel.commit("mended", {"Makefile": makefile})
    assert build(small_kernel).kernel


def test_a_folder_as_it_stands(small_kernel) -> None:
    (small_kernel.path / "init.c").write_text(INIT % "8")
    first = build_as_it_stands(small_kernel.path, RECIPE)
    assert first.kernel
    again = build_as_it_stands(small_kernel.path, RECIPE)
    assert again.folder == first.folder
    (small_kernel.path / "init.c").write_text(INIT % "9")
    assert build_as_it_stands(small_kernel.path, RECIPE).signature != first.signature
    (small_kernel.path / ".config").touch()
    with pytest.raises(UserError, match="was built in place"):
        build_as_it_stands(small_kernel.path, replace(RECIPE, config=Config("allnoconfig", ())))


def test_old_kernels_make_room(small_kernel) -> None:
    kept = build(small_kernel).folder
    prune(0)
    assert kept.is_dir()
    then = time.time() - 86400
    os.utime(kept, (then, then))
    prune(1 << 30)
    assert kept.is_dir()
    prune(0)
    assert not kept.exists()
    assert build(small_kernel).fresh


def test_a_tool_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for tool in ("gcc", "make", "flex", "ld", "objcopy", "perl", "setpriv"):
        (tmp_path / tool).write_text("#!/bin/sh\ncase $* in *gelf.h*) exit 1;; esac\necho compiler 1\n")
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / ".config").write_text("CONFIG_DEBUG_INFO_BTF=y\n# CONFIG_MODULE_SIG is not set\n")
    _is_here.cache_clear()
    compiler_version.cache_clear()
    try:
        with pytest.raises(UserError) as caught:
            check_tools("gcc", tmp_path / ".config")
    finally:
        _is_here.cache_clear()
        compiler_version.cache_clear()
    assert str(caught.value) == (
        "the kernel can't be built here without bc (bc), bison (bison), gelf.h (libelf-dev), "
        "pahole (dwarves) (apt-get install bc bison dwarves libelf-dev)"
    )


@pytest.mark.parametrize(
    ("compiler", "called", "told", "needed"),
    [
        ("gcc-12", "gcc-12", ["CC=gcc-12"], {}),
        ("clang", "clang", ["CC=clang"], {}),
        ("LLVM=1", "clang", ["LLVM=1"], {"ld.lld": "lld"}),
        ("LLVM=-14", "clang-14", ["LLVM=-14"], {"ld.lld-14": "lld-14"}),
        ("LLVM=/opt/x/", "/opt/x/clang", ["LLVM=/opt/x/"], {"/opt/x/ld.lld": "lld"}),
    ],
)
def test_what_make_is_told_of_the_compiler(
    monkeypatch, tmp_path: Path, compiler: str, called: str, told: list[str], needed: dict[str, str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (program(compiler), make_arguments(compiler)) == (called, told)
    assert needed.items() <= tools(compiler).items()
    (tmp_path / "ccache").write_text("#!/bin/sh\n")
    (tmp_path / "ccache").chmod(0o755)
    cached = [*(one for one in told if one == compiler), f"CC=ccache {called}"]
    assert make_arguments(compiler) == cached


def test_a_compiler_that_is_none() -> None:
    with pytest.raises(UserError, match=r"LLVM=yes is no compiler .*LLVM=-14"):
        compiler_version("LLVM=yes")
    with pytest.raises(UserError, match=r"no compiler clang-3 on this machine .*clang-3"):
        compiler_version("LLVM=-3")


def test_errors_of_a_log() -> None:
    log = """\
  CC      lib/error-inject.o
  CC [M]  fs/fatal.o
a.c: In function 'f':
a.c:1:2: error: one
a.c:2:2: error: two
make[1]: *** [scripts/Makefile.build:250: a.o] Error 1
make: *** [Makefile:2013: .] Error 2
"""
    assert errors_of(log) == ["a.c:1:2: error: one", "a.c:2:2: error: two"]
    assert errors_of(log, 1) == ["a.c:1:2: error: one"]
    assert errors_of("ld: x.o: undefined reference to `f'\n") == ["ld: x.o: undefined reference to `f'"]
    assert errors_of("  CC      a.o\n") == ["make failed without a word"]


@pytest.mark.parametrize(
    ("title", "symbol"),
    [
        ("KASAN: slab-use-after-free Read in unix_gc", "KASAN"),
        ("possible deadlock in tcp_sendmsg", "PROVE_LOCKING"),
        ("memory leak in inet_create", "DEBUG_KMEMLEAK"),
        ("BUG: sleeping function called from invalid context in f", "DEBUG_ATOMIC_SLEEP"),
        ("INFO: task hung in f", "DETECT_HUNG_TASK"),
        ("UBSAN: shift-out-of-bounds in f", "UBSAN_SHIFT"),
    ],
)
def test_what_a_crash_needs_to_show(title: str, symbol: str) -> None:
    assert f"CONFIG_{symbol}=y\n" in checkers_for((title,))
    assert checkers_for(("WARNING in module_put", "general protection fault in f")) == ""
