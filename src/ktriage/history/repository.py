"""A repository: its revisions, ranges of its history, and what a commit says and does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ktriage.errors import UserError
from ktriage.history.git import GitError, git

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class CommitGraph:
    """The commits of a range, parents before children.

    The parents of ``commits[i]`` within the range are ``indices[indptr[i]:indptr[i+1]]``; ``outside`` has
    the others, as (i, commit).
    """

    commits: tuple[str, ...]
    indptr: Ints
    indices: Ints
    outside: tuple[tuple[int, str], ...] = ()

    def parents(self, i: int) -> tuple[int, ...]:
        """Return the places of commit i's parents, without those outside the range."""
        return tuple(self.indices[self.indptr[i] : self.indptr[i + 1]].tolist())


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit says of itself. ``author`` is "Name <address>", ``date`` the author's, in ISO 8601."""

    commit: str
    parents: tuple[str, ...]
    author: str
    email: str
    date: str
    subject: str
    body: str


class Repository:
    """A git repository on this machine, opened by any path inside of it.

    Raises ``UserError`` where there is none. Nothing here changes the user's checkout.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}")
        try:
            common = git(path, "rev-parse", "--path-format=absolute", "--git-common-dir").strip()
        except GitError as error:
            hint = "git config --global --add safe.directory says that it is trusted"
            dubious = "dubious ownership" in str(error.data["stderr"])
            what = "owned by someone else" if dubious else "not a git repository"
            raise UserError(f"{path}: {what}", hint=hint if dubious else None) from error
        self.path = path.resolve()
        self.common = Path(common)

    def resolve(self, revision: str) -> str:
        """Return the full hash of the commit that ``revision`` names. Raises ``UserError``."""
        shallow = "this clone is shallow: git fetch --unshallow gets the rest" if self.shallow else None
        unknown = UserError(f"{self.path}: unknown revision {revision!r}", hint=shallow, revision=revision)
        if not revision or revision.startswith("-") or "\0" in revision:
            raise unknown
        try:
            return git(self.path, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").strip()
        except GitError:
            raise unknown from None

    def is_ancestor(self, old: str, new: str) -> bool:
        """Return whether ``old`` is ``new`` or an ancestor of it."""
        try:
            git(self.path, "merge-base", "--is-ancestor", old, new)
        except GitError as error:
            if error.data["code"] == 1:
                return False
            raise
        return True

    @property
    def shallow(self) -> bool:
        """Whether history is cut off somewhere, as by ``git clone --depth``."""
        return (self.common / "shallow").exists()

    def merge_bases(self, one: str, other: str) -> tuple[str, ...]:
        """Return the best common ancestors of two commits; several after criss-cross merges."""
        return self._bases("--all", one, other)

    def octopus_base(self, commits: tuple[str, ...]) -> str:
        """Return the best common ancestor of all these commits, empty where there is none."""
        return next(iter(self._bases("--octopus", *commits)), "")

    def _bases(self, *args: str) -> tuple[str, ...]:
        try:
            return tuple(git(self.path, "merge-base", *args).split())
        except GitError as error:
            if error.data["code"] == 1:
                return ()
            raise

    def range(self, good: str, bad: str, *, first_parent: bool = False) -> CommitGraph:
        """Return the commits that ``bad`` has and ``good`` has not. Raises ``UserError`` where good is not
        an ancestor of bad, and where the two are the same commit.
        """  # noqa: D205 (what it returns and raises belong together)
        if good == bad:
            raise UserError(f"good and bad are the same commit, {good[:12]}")
        if not self.is_ancestor(good, bad):
            if self.is_ancestor(bad, good):
                raise UserError(
                    f"bad ({bad[:12]}) is an ancestor of good ({good[:12]})", hint="were they mixed up?"
                )
            raise UserError(
                f"good ({good[:12]}) is not an ancestor of bad ({bad[:12]})",
                hint=f"git merge-base {good[:12]} {bad[:12]} names a commit to test as good",
            )
        return self.between(good, bad, first_parent=first_parent)

    def between(self, old: str, new: str, *, first_parent: bool = False) -> CommitGraph:
        """Return the commits that ``new`` has and ``old`` has not."""
        options = ["--first-parent"] if first_parent else []
        text = git(self.path, "rev-list", "--topo-order", "--reverse", "--parents", *options, new, f"^{old}")
        return _graph(text, first_parent=first_parent)

    def commit(self, revision: str) -> Commit:
        """Return what the commit says."""
        form = "%H%x00%P%x00%an <%ae>%x00%ae%x00%aI%x00%s%x00%b"
        fields = readable(git(self.path, "show", "--no-patch", f"--format={form}", revision)).split("\0")
        names, rest = fields[:6], "\0".join(fields[6:])
        return Commit(names[0], tuple(names[1].split()), names[2], names[3], names[4], names[5], rest.strip())

    def subjects(self, commits: tuple[str, ...]) -> tuple[str, ...]:
        """Return the subject lines of the commits, in their order."""
        if not commits:
            return ()
        text = git(
            self.path,
            "log",
            "--no-walk=unsorted",
            "--stdin",
            "--format=%H %s",
            stdin="\n".join(commits) + "\n",
        )
        found = dict(line.split(" ", 1) for line in readable(text).split("\n") if line)
        return tuple(found.get(commit, "") for commit in commits)

    def files(self, revision: str) -> tuple[str, ...]:
        """Return the files that a commit changes against its first parent, old names included."""
        text = git(
            self.path,
            *("show", "--format=", "-z", "--no-renames", "--name-only", "-m", "--first-parent", revision),
        )
        return tuple(dict.fromkeys(name for name in text.split("\0") if name))

    def touched(self, good: str, bad: str) -> dict[str, tuple[str, ...]]:
        """Return the files that each commit of the range changes; merges have none."""
        text = git(
            self.path,
            *("log", "--no-merges", "--no-renames", "--name-only", "-z", "--format=%x01%H", bad, f"^{good}"),
        )
        found: dict[str, tuple[str, ...]] = {}
        for part in text.split("\x01")[1:]:
            commit, _, names = part.partition("\0")
            found[commit.strip()] = tuple(name.strip("\n") for name in names.split("\0") if name.strip("\n"))
        return found

    def diff(self, revision: str) -> str:
        """Return the commit's patch against its first parent."""
        return git(self.path, "show", "--format=", "-m", "--first-parent", "--binary", revision)


def readable(text: str) -> str:
    """Return a text with U+FFFD in place of bytes that are not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _graph(text: str, *, first_parent: bool) -> CommitGraph:
    """Read what ``rev-list --parents --reverse`` prints."""
    lines = [line.split() for line in text.splitlines()]
    place = {words[0]: i for i, words in enumerate(lines)}
    indptr, indices, outside = [0], [], []
    for i, words in enumerate(lines):
        parents = words[1:2] if first_parent else words[1:]
        for parent in parents:
            if parent in place:
                indices.append(place[parent])
            else:
                outside.append((i, parent))
        indptr.append(len(indices))
    return CommitGraph(tuple(place), np.array(indptr, np.int32), np.array(indices, np.int32), tuple(outside))
