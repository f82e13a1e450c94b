"""Worktrees that belong to one process, and that go away with it whatever becomes of it.

A process that is killed can't tidy up. So each session's worktrees lie in a folder of their own, beside a
file that the session holds a lock on for as long as it lives; whoever opens the same repository next removes
the folders whose lock is free. The user's checkout, index and branches are never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ktriage.errors import MachineryError, UserError
from ktriage.history.git import GitError, git

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from ktriage.history.repository import Repository


def cache_directory() -> Path:
    """Return where worktrees lie unless told otherwise: the XDG cache directory's ``ktriage/worktrees``."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "ktriage" / "worktrees"


Step = tuple[Literal["cherry-pick", "revert", "patch"], str]
"""What to do with a commit, or the text of a patch."""


_SPARSE = tuple(
    word
    for setting in ("core.sparseCheckout=true", "core.sparseCheckoutCone=false", "index.sparse=false")
    for word in ("-c", setting)
)
"""For a worktree with a sparse-checkout file of its own, without a word of it in the repository's config."""


class Worktrees:
    """Makes worktrees of a repository and removes them when it is closed.

    Opening it removes what dead sessions left behind.
    """

    def __init__(self, repository: Repository, root: Path | None = None) -> None:
        self.repository = repository
        name = hashlib.sha256(os.fsencode(repository.common)).hexdigest()[:16]
        self._home = (root or cache_directory()) / name
        self.session = uuid.uuid4().hex[:12]
        self.path = self._home / self.session
        # The last session to end removes their common folder, perhaps just now.
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                # Named like a lock only once it is one: nobody may take it for that of a dead session.
                self._lock = _lock(self.path.with_suffix(".new"), create=True)
                self.path.with_suffix(".new").rename(self.path.with_suffix(".lock"))
                break
            except FileNotFoundError:
                continue
        self.pruned = self._prune()

    def __enter__(self) -> Worktrees:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, name: str, commit: str) -> Path:
        """Make the worktree ``name`` with ``commit`` checked out, and return where it is."""
        path = self.path / name
        git(self.repository.path, "worktree", "add", "--quiet", "--force", "--detach", str(path), commit)
        return path

    def copy(self, source: Path, name: str) -> Path:
        """Make the worktree ``name`` as a copy of another one, with all that was built in it."""
        head = git(source, "rev-parse", "HEAD").strip()
        path = self.path / name
        git(self.repository.path, *("worktree", "add", "--quiet", "--force", "--detach", "--no-checkout"),
            str(path), head)  # fmt: skip
        for entry in source.iterdir():
            if entry.name == ".git":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.copytree(entry, path / entry.name, symlinks=True)
            else:
                shutil.copy2(entry, path / entry.name, follow_symlinks=False)
        git(path, "reset", "--quiet")
        return path

    def switch(self, path: Path, commit: str) -> None:
        """Check ``commit`` out in a worktree made here. Files that git does not know of stay."""
        git(path, "checkout", "--quiet", "--force", "--detach", commit)

    def apply(self, path: Path, patch: str) -> None:
        """Apply a patch's text in a worktree, until another revision is checked out there.

        Raises ``UserError`` where it does not apply.
        """
        try:
            # With the index, so that files that the patch adds go away with it.
            git(path, "apply", "--index", "--whitespace=nowarn", "-", stdin=patch)
        except GitError as error:
            raise UserError(f"the patch does not apply: {error.message}") from error

    def compose(self, on: str, steps: Sequence[Step]) -> str | None:
        """Return the patch that does all of this on top of ``on``, one step after the other: put a commit's
        change there, take one back, or apply a patch's text. None where a step does not go in cleanly, and
        where nothing changes.
        """  # noqa: D205 (what it returns and when it returns nothing belong together)
        # Files that are alike are easily taken for renamed ones, so that comes second. The strategy that is
        # the usual one since git 2.34 can't be told to leave renames alone.
        plain = ("--strategy=recursive", "-Xno-renames")
        return self._composed(on, steps, *plain) or self._composed(on, steps)

    def _composed(self, on: str, steps: Sequence[Step], *how: str) -> str | None:
        path = self._scratch(on)
        try:
            for what, which in steps:
                if what == "patch":
                    git(path, "apply", "--3way", "--index", "--whitespace=nowarn", "-", stdin=which)
                    continue
                parents = git(path, "rev-list", "--parents", "-n1", which).split()[1:]
                mainline = ["-m", "1"] if len(parents) > 1 else []
                git(path, "-c", "rerere.enabled=false", what, "--no-commit", *how, *mainline, which)
            return git(path, "diff", "--cached", "--binary", "--no-renames", "HEAD") or None
        except GitError:
            return None

    def _scratch(self, commit: str) -> Path:
        """Return a clean worktree at the commit, kept for such work.

        It is sparse: only files that conflict or are patched are ever written, so that a tree of 80,000 files
        takes as long as one of ten.
        """
        path = self.path / "scratch"
        if not path.exists():
            git(self.repository.path, *("worktree", "add", "--quiet", "--force", "--detach", "--no-checkout"),
                str(path), commit)  # fmt: skip
            info = Path(git(path, "rev-parse", "--absolute-git-dir").strip()) / "info"
            info.mkdir(exist_ok=True)
            (info / "sparse-checkout").write_text("/.nothing-is-checked-out\n")
            git(path, *_SPARSE, "read-tree", "-mu", "HEAD")
            return path
        git(path, *_SPARSE, "reset", "--quiet", "--hard")
        git(path, "clean", "--quiet", "-fdx")
        git(path, *_SPARSE, "checkout", "--quiet", "--force", "--detach", commit)
        return path

    def remove(self, path: Path) -> None:
        """Remove a worktree made here, with all that is in it."""
        _remove(self.repository, path)

    def close(self) -> None:
        """Remove all worktrees of this session."""
        if self._lock >= 0:
            _remove_session(self.repository, self.path)
            self.path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1
            with contextlib.suppress(OSError):
                self._home.rmdir()

    def _prune(self) -> int:
        """Remove the worktrees of sessions that are dead, and return how many sessions that were."""
        count = 0
        for file in self._home.glob("*.lock"):
            try:
                lock = _lock(file, create=False)
            except (BlockingIOError, FileNotFoundError):
                continue  # it lives, or someone else was faster
            _remove_session(self.repository, file.with_suffix(""))
            file.unlink(missing_ok=True)
            os.close(lock)
            count += 1
        return count


def _lock(path: Path, *, create: bool) -> int:
    """Open and lock a file. Raises ``BlockingIOError`` where someone else holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0), 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def _remove_session(repository: Repository, path: Path) -> None:
    if path.is_dir():
        for worktree in path.iterdir():
            _remove(repository, worktree)
        shutil.rmtree(path, ignore_errors=True)


def _remove(repository: Repository, path: Path) -> None:
    # "worktree prune" would do, but might take worktrees of the user's that are not mounted just now.
    for _ in range(2):
        try:
            git(repository.path, "worktree", "remove", "--force", "--force", str(path))
            break
        except GitError:
            # Killed half way through "worktree add", it is neither whole nor gone. git removes both.
            shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        raise MachineryError(f"{path}: this worktree can't be removed", path=str(path))


if __name__ == "__main__":
    # Remove what dead sessions left in a repository.
    from ktriage.history.repository import Repository

    with Worktrees(Repository(Path(sys.argv[1]))):
        pass
