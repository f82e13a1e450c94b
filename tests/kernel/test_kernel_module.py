"""Modules built for real against a packaged kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktriage.errors import MachineryError, UserError
from ktriage.kernel import FolderSources, Kernel, RevisionSources, build_module, packaged_kernel
from ktriage.kernel import module as module_file
from ktriage.kernel.debian import resolve
from ktriage.kernel.make import first_error

SOURCE = """#include <linux/module.h>
static int __init hello_init(void) { WARN_ON(%s); return 0; }
module_init(hello_init);
MODULE_LICENSE("GPL");
"""
MAKEFILE = "obj-m := hello.o\n"


@pytest.fixture
def history(repo) -> dict[str, str]:
    """Return the commits of a small module's history."""
    return {
        "first": repo.commit("first", {"hello.c": SOURCE % "0", "Makefile": MAKEFILE}),
        "documents": repo.commit("documents", {"README.md": "It greets.\n", "docs/a.rst": "a\n"}),
        "comment": repo.commit("comment", {"hello.c": SOURCE % "0" + "/* so */\n"}),
        "broken": repo.commit("broken", {"hello.c": SOURCE % "undeclared"}),
        "changed": repo.commit("changed", {"hello.c": SOURCE % "1"}),
        "gone": repo.commit("gone", {"Makefile": "obj-m := other.o\n", "other.c": SOURCE % "0"}),
    }


def test_builds_are_kept_by_what_they_are_made_of(repo, history, kernel: Kernel) -> None:
    def build(name: str):
        return build_module(RevisionSources(repo.path, history[name]), kernel=kernel, name="hello")

    first, documents, comment, changed = (build(n) for n in ("first", "documents", "comment", "changed"))
    assert first.module
    assert first.error is None
    assert documents.folder == first.folder
    assert not documents.fresh
    assert comment.folder != first.folder
    assert comment.signature == first.signature
    assert changed.signature != first.signature


def test_a_failed_build_is_an_answer_with_its_log(repo, history, kernel: Kernel) -> None:
    build = build_module(RevisionSources(repo.path, history["broken"]), kernel=kernel, name="hello")
    assert build.module is None
    assert build.signature is None
    assert build.error
    assert build.error.startswith("hello.c:2:")
    assert "undeclared" in build.log.read_text()


def test_patches_go_on_top(repo, history, kernel: Kernel) -> None:
    patch = repo.git("diff", "--no-color", history["broken"], history["first"]) + "\n"
    sources = RevisionSources(repo.path, history["broken"])
    mended = build_module(sources, kernel=kernel, name="hello", patches=(patch,))
    assert mended.module
    twice = build_module(sources, kernel=kernel, name="hello", patches=(patch, patch))
    assert twice.error
    assert "does not apply" in twice.error


def test_a_folder_as_it_stands(repo, history, kernel: Kernel) -> None:
    del history
    repo.commit("back", {"Makefile": MAKEFILE, "hello.c": SOURCE % "0"})
    (repo.path / "hello.c").write_text(SOURCE % "2")
    build = build_module(FolderSources(repo.path), kernel=kernel, name="hello")
    assert build.module
    assert (build.folder / "hello.c").read_text() == SOURCE % "2"


def test_what_is_wrong_is_said(repo, history, kernel: Kernel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"makes no hello\.ko .modules it makes: other\.ko"):
        build_module(RevisionSources(repo.path, history["gone"]), kernel=kernel, name="hello")
    with pytest.raises(UserError, match="no Makefile or Kbuild"):
        build_module(RevisionSources(repo.path, history["documents"], "docs"), kernel=kernel, name="hello")
    with pytest.raises(UserError, match="nothing at 0000"):
        build_module(RevisionSources(repo.path, "0" * 40), kernel=kernel, name="hello")
    with pytest.raises(UserError, match="no such folder"):
        build_module(FolderSources(tmp_path / "nothing"), kernel=kernel, name="hello")
    with pytest.raises(UserError, match="no headers"):
        build_module(FolderSources(repo.path), kernel=Kernel(kernel.image, kernel.release), name="hello")


def test_a_full_disk_is_not_the_revisions_fault(
    repo, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler that the headers name, but its assembler's temporary files have nowhere to go.
    commit = repo.commit("full", {"hello.c": SOURCE % "0 /* full */", "Makefile": MAKEFILE})
    monkeypatch.setenv("KCFLAGS", "")
    (repo.path / "Makefile").write_text(MAKEFILE + "$(error No space left on device)\n")
    del commit
    with pytest.raises(MachineryError, match="cut short: No space left on device"):
        build_module(FolderSources(repo.path), kernel=kernel, name="hello")


def test_a_build_that_takes_too_long_has_failed(repo, kernel: Kernel) -> None:
    repo.commit("slow", {"hello.c": SOURCE % "0 /* slow */", "Makefile": MAKEFILE + "$(shell sleep 30)\n"})
    build = build_module(FolderSources(repo.path), kernel=kernel, name="hello", timeout=1.0)
    assert build.error == "the build took over 1 s"


def test_first_error_of_a_log() -> None:
    log = "  CC [M]  a.o\na.c:1:2: warning: x\na.c:3:4: error: y\nmake: *** [a.o] Error 1\n"
    assert first_error(log) == "a.c:3:4: error: y"
    assert first_error("make: *** No rule to make target 'x'.  Stop.\n").startswith("make: *** No rule")
    assert first_error("") == "make failed without a word"
    assert module_file.DOCUMENT.search("README") and not module_file.DOCUMENT.search("readme.c")


def test_packages_are_resolved(kernel: Kernel) -> None:
    name, version = resolve("linux-image-cloud-amd64")
    assert name == kernel.package
    assert version == kernel.version
    assert resolve(f"{name}={version}") == (name, version)
    for wrong in ("linux-image-nothing", "bash", "linux-image-cloud-amd64=0.1", f"{name}=0.1"):
        with pytest.raises(UserError, match="no kernel package"):
            resolve(wrong)


def test_without_a_mirror_the_last_answer_holds(
    kernel: Kernel, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("apt-cache", "apt-get"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 100\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert resolve("linux-image-cloud-amd64") == (kernel.package, kernel.version)
    assert packaged_kernel("linux-image-cloud-amd64", headers=True).headers == kernel.headers
    with pytest.raises(UserError, match="no kernel package"):
        resolve("linux-image-amd64=0.1")


def test_a_kernel_is_whole(kernel: Kernel) -> None:
    assert kernel.image.is_file()
    assert kernel.modules and (kernel.modules / "modules.dep").is_file()
    assert kernel.headers and (kernel.headers / "Module.symvers").is_file()


def test_without_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="kernel packages come from Debian"):
        packaged_kernel("linux-image-cloud-amd64")
