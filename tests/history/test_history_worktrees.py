from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.history.worktrees import Worktrees


def known(repo):
    return [line.split(" ", 1)[1] for line in repo.git("worktree", "list", "--porcelain").splitlines()
            if line.startswith("worktree ")]  # fmt: skip


def test_worktrees_come_and_go_and_leave_the_checkout_alone(merged, tmp_path):
    repo, names = merged
    (repo.path / "f").write_text("mine\n")
    before = repo.git("status", "--porcelain=v2", "--branch")
    with Worktrees(Repository(repo.path), tmp_path / "trees") as trees:
        path = trees.add("one", names["s1"])
        assert (path / "g").read_text() == "1\n"
        (path / "built").write_text("object code")
        trees.switch(path, names["s2"])
        assert (path / "g").read_text() == "2\n"
        assert (path / "built").exists()
        copy = trees.copy(path, "two")
        assert (copy / "built").read_text() == "object code"
        assert (
            subprocess.run(
                ["git", "status", "--porcelain", "-uno"], cwd=copy, capture_output=True, check=True
            ).stdout
            == b""
        )
        assert len(known(repo)) == 3
    assert known(repo) == [str(repo.path)]
    assert not any(path.is_dir() and any(path.iterdir()) for path in (tmp_path / "trees").glob("*/*"))
    assert repo.git("status", "--porcelain=v2", "--branch") == before


def test_patches_that_revert(merged, tmp_path):
    repo, names = merged
    with Worktrees(Repository(repo.path), tmp_path / "trees") as trees:
        patch = trees.compose(names["c"], [("revert", names["b"])])
        path = trees.add("check", names["c"])
        trees.apply(path, patch)
        assert not (path / "h").exists()
        with pytest.raises(UserError, match="does not apply"):
            trees.apply(path, patch)
        assert "deleted file" in trees.compose(names["c"], [("revert", names["merge"])])
        assert trees.compose(names["c"], [("revert", names["s1"])]) is None  # s2 changed the same line
        assert len(known(repo)) == 3, "one to work in, and the user's"
        both = trees.compose(names["c"], [("revert", names["b"]), ("cherry-pick", names["b"])])
        assert both is None, "there and back again"


KILLED = """
import os, signal, sys
from pathlib import Path
from ktriage.history.repository import Repository
from ktriage.history.worktrees import Worktrees
trees = Worktrees(Repository(Path(sys.argv[1])), Path(sys.argv[2]))
trees.add("left", "main")
(trees.path / "half").mkdir()
print("up", flush=True)
sys.stdin.read() if sys.argv[3] == "wait" else os.kill(os.getpid(), signal.SIGKILL)
"""


def start(repo, root, how):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(repo.path), str(root), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_what_a_killed_session_left_is_removed_and_a_living_one_is_not(merged, tmp_path):
    repo, _ = merged
    root = tmp_path / "trees"
    living = start(repo, root, "wait")
    assert living.stdout.readline() == b"up\n"
    killed = start(repo, root, "die")
    assert killed.wait() == -signal.SIGKILL
    assert len(known(repo)) == 3
    with Worktrees(Repository(repo.path), root) as trees:
        assert trees.pruned == 1
        assert len(known(repo)) == 2
        assert sum(path.is_dir() for path in root.glob("*/*")) == 2
    living.kill()
    living.communicate()
    with Worktrees(Repository(repo.path), root) as trees:
        assert trees.pruned == 1
    assert known(repo) == [str(repo.path)]


def test_composing_checks_nothing_out(merged, tmp_path):
    """A kernel has 80,000 files, of which a change touches a few."""
    repo, names = merged
    with Worktrees(Repository(repo.path), tmp_path / "trees") as trees:
        for on, change in ((names["c"], names["b"]), (names["merge"], names["b"])):
            assert trees.compose(on, [("revert", change)])
            files = {path.name for path in (trees.path / "scratch").rglob("*") if path.is_file()}
            assert files == {".git"}
    assert "sparse" not in (repo.path / ".git/config").read_text().lower()
