"""A checkout that moves from revision to revision: right files, nothing touched that did not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktriage.cache import cache_root
from ktriage.errors import MachineryError, UserError
from ktriage.history.repository import Repository
from ktriage.kernel import Checkout, check_revision


@pytest.fixture
def checkout(small_kernel) -> Checkout:
    return Checkout(Repository(small_kernel.path))


def files(place: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of each file below ``place``."""
    return {
        str(path.relative_to(place)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in place.rglob("*")
        if path.is_file()
    }


def move(checkout: Checkout, commit: str, patches: tuple[str, ...] = ()) -> dict[str, tuple[bytes, int]]:
    tree, complaint = checkout.tree_of(commit, patches)
    assert tree, complaint
    with checkout.held():
        return files(checkout.move(tree))


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_only_what_differs_is_written(small_kernel, checkout: Checkout) -> None:
    first = small_kernel.git("rev-parse", "HEAD")
    second = small_kernel.commit("second", {"more.c": "int less;\n", "net/new.c": "int new;\n"})
    before = move(checkout, first)
    after = move(checkout, second)
    assert changed(before, after) == {"more.c", "net/new.c"}
    again = move(checkout, first)
    assert changed(before, again) == {"more.c"}
    assert again["more.c"][0] == before["more.c"][0]
    assert changed(again, move(checkout, first)) == set()


def test_the_repository_is_left_alone(small_kernel, checkout: Checkout) -> None:
    (small_kernel.path / "more.c").write_text("mine\n")
    objects = {path for path in (small_kernel.path / ".git").rglob("*") if path.is_file()}
    status = small_kernel.git("status", "--porcelain", "-b")
    patch = small_kernel.git("diff") + "\n"
    move(checkout, "HEAD", (patch,))
    assert small_kernel.git("status", "--porcelain", "-b") == status
    assert small_kernel.git("worktree", "list").count("\n") == 0
    assert {path for path in (small_kernel.path / ".git").rglob("*") if path.is_file()} == objects


def test_a_patch_that_stays_is_not_applied_anew(small_kernel, checkout: Checkout) -> None:
    (small_kernel.path / "more.c").write_text("int patched;\n")
    (small_kernel.path / "added.c").write_text("int added;\n")
    small_kernel.git("add", "-A")
    patch = small_kernel.git("diff", "--cached") + "\n"
    small_kernel.git("reset", "-q", "--hard")
    first = small_kernel.git("rev-parse", "HEAD")
    second = small_kernel.commit("second", {"init.c": "int init;\n"})
    patched = move(checkout, first, (patch,))
    assert patched["more.c"][0] == b"int patched;\n"
    assert patched["added.c"][0] == b"int added;\n"
    assert changed(patched, move(checkout, second, (patch,))) == {"init.c"}
    plain = move(checkout, second)
    assert plain["more.c"][0] == b"int more;\n"
    assert "added.c" not in plain


def test_a_patch_that_does_not_apply(checkout: Checkout) -> None:
    patch = "--- a/nothing.c\n+++ b/nothing.c\n@@ -1 +1 @@\n-a\n+b\n"
    tree, complaint = checkout.tree_of("HEAD", (patch,))
    assert tree is None
    assert complaint == "a patch does not apply: error: nothing.c: does not exist in index"
    assert list(checkout.home.glob("index.*")) == []


def test_what_somebody_left_behind_is_put_right(small_kernel, checkout: Checkout) -> None:
    first = small_kernel.git("rev-parse", "HEAD")
    before = move(checkout, first)
    (checkout.tree / "init.c").write_text("half writ")
    (checkout.tree / "Kconfig").unlink()
    (checkout.home / "index.lock").touch()
    after = move(checkout, first)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("Documentation/admin.rst", True),
        ("MAINTAINERS", True),
        ("tools/testing/selftests/x.c", True),
        ("arch/arm/a.S", True),
        ("arch/x86/x.S", False),
        ("arch/Kconfig", False),
        ("tools/objtool/check.c", False),
        ("Documentation/Kconfig", False),
        ("net/core/dev.c", False),
        ("include/linux/kernel.h", False),
    ],
)
def test_what_no_build_reads_makes_no_other_code(
    small_kernel, checkout: Checkout, name: str, same: bool
) -> None:
    first = small_kernel.git("rev-parse", "HEAD")
    second = small_kernel.commit("second", {name: "changed\n"})
    codes = [checkout.code_of(checkout.tree_of(commit)[0]) for commit in (first, second)]
    assert (codes[0] == codes[1]) is same


def test_what_is_no_kernel_source(repo) -> None:
    commit = repo.commit("text", {"README": "text\n"})
    with pytest.raises(UserError, match="holds no kernel source"):
        check_revision(Repository(repo.path), commit)


def test_no_room(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktriage.kernel.checkout.NEEDED_BYTES", 1 << 60)
    tree, _ = checkout.tree_of("HEAD")
    assert tree
    with (
        checkout.held(),
        pytest.raises(MachineryError, match=f"no room for a checkout of .* in {cache_root()}"),
    ):
        checkout.move(tree)
