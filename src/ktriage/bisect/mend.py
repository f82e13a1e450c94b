"""Revisions that can't be tested, made testable: a change is put on top of them.

The change is one that the user gave, or that of the commit which made the build work again. That commit is
looked for where the answer hangs on it: forward from the revision that does not build to the nearest one
after it that does, halving what lies between. A change that made one revision testable is tried on all
others between the break and the commit that ended it.

A commit of the range that was put on top of an older revision may be the culprit itself, and then the crash
is there too. The engine is told so (``Nodes.applied``): such a run says as much of that commit as of the
revision's own.

All that is known here follows from the runs, so that a bisection which is resumed knows it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect.types import Fix
from ktriage.history.git import GitError, git
from ktriage.history.worktrees import Worktrees

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ktriage.bisect.drive import Drive
    from ktriage.bisect.types import Run
    from ktriage.history.worktrees import Step

    Bools = NDArray[np.bool_]

Names = tuple[str, ...]

# So many changes that did not help are tried, and so many commits of a branch that was merged.
_MISSES = 6
_BRANCH = 4


@dataclass(slots=True)
class Mender:
    """What is put on top of which revision. Revisions are full hashes."""

    drive: Drive
    fixes: dict[str, Fix] = field(default_factory=dict)
    """By name: the user's, and what was found."""
    found: list[str] = field(default_factory=list)
    _plain: dict[str, bool] = field(default_factory=dict)
    _tried: dict[str, dict[Names, bool]] = field(default_factory=dict)
    _patches: dict[tuple[str, Names], str | None] = field(default_factory=dict)
    _ranges: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _why: str = ""
    _worktrees: Worktrees | None = None

    def __post_init__(self) -> None:
        self.fixes |= {fix.name: fix for fix in self.drive.options.fixes}

    def close(self) -> None:
        """Let go of what was used to put changes together."""
        if self._worktrees is not None:
            self._worktrees.close()
            self._worktrees = None

    def saw(self, run: Run, *, works: bool) -> bool:
        """Take in a run that said whether its revision can be tested. Return whether a commit of the range
        was on top of it for the first time.
        """  # noqa: D205 (one sentence)
        if not run.patches:
            self._plain.setdefault(run.commit, works)
            return False
        self._tried.setdefault(run.commit, {}).setdefault(run.patches, works)
        for name in run.patches:
            if name not in self.fixes:
                self.fixes[name] = Fix(name, commit=name.split()[-1])
                self.found.append(name)
        return works and any(
            self.drive.nodes.in_range(commit) and run.commit not in self.drive.nodes.applied.get(commit, ())
            for commit in self._commits(run.patches)
        )

    def applied(self) -> dict[str, list[str]]:
        """Return, by commit of the range, the revisions that it made testable."""
        result: dict[str, list[str]] = {}
        for revision, tries in self._tried.items():
            for names, works in tries.items():
                for commit in self._commits(names) if works else ():
                    if self._counts(commit, revision):
                        result.setdefault(commit, []).append(revision)
        return result

    def _counts(self, commit: str, revision: str) -> bool:
        """Return whether the engine has to know that a revision was run with this commit on top."""
        nodes = self.drive.nodes
        return nodes.in_range(commit) and nodes.in_range(revision) and commit != revision

    def _commits(self, names: Names) -> list[str]:
        return [fix.commit for fix in (self.fixes[name] for name in names) if fix.commit]

    def on_top(self, revision: str) -> Names:
        """Return what to put on top of a revision for its next run."""
        if self._plain.get(revision):
            return ()
        for names, works in self._tried.get(revision, {}).items():
            if works:
                return names
        return next(self._ways(revision), ())

    def patch(self, revision: str, names: Names) -> str | None:
        """Return the text of these changes, to be put on top of the revision; None where they don't go."""
        key = (revision, names)
        if names[0].startswith("tree "):
            return git(self.drive.repository.path, "diff", "--binary", "--no-renames", revision, names[0][5:])
        if key not in self._patches:
            if self._worktrees is None:
                self._worktrees = Worktrees(self.drive.repository)
            self._patches[key] = self._worktrees.compose(revision, list(map(self._step, names)))
        return self._patches[key]

    def _step(self, name: str) -> Step:
        fix = self.fixes.get(name)
        if fix is not None and fix.text is not None:
            return "patch", fix.text
        what, commit = name.split()
        return "revert" if what == "revert" else "cherry-pick", commit

    def refresh(self) -> None:
        """Let the search try revisions again that something new may make testable."""
        untestable, commits = self.drive.search.untestable, self.drive.nodes.commits
        for v in untestable.broken:
            if next(self._ways(commits[v]), None) is not None:
                untestable.forget(v)

    def _ways(self, revision: str) -> Iterator[Names]:
        """Yield what may still make a revision testable that can't be tested, or lies among such."""
        always = tuple(
            fix.name
            for fix in self.fixes.values()
            if fix.only and self._covers(fix, revision) and self._goes(fix, revision)
        )
        tried = self._tried.get(revision, {})
        ways = [always] if always else []
        if self._plain.get(revision) is False or (revision not in self._plain and self._among(revision)):
            others = [name for name in self.fixes if self._may_help(name, revision)]
            ways += [(*always, name) for name in others]
            ways += [(*always, *others)] if 1 < len(others) <= 3 else []
        for names in ways:
            if names not in tried and self.patch(revision, names) is not None:
                yield names

    def _may_help(self, name: str, revision: str) -> bool:
        fix = self.fixes[name]
        if fix.only or fix.commit == revision or not self._goes(fix, revision):
            return False
        known = self._plain.get(revision) is False
        worked = any(name in _working(tries) for tries in self._tried.values())
        if fix.commit and self.drive.contains(revision, fix.commit):
            return False
        if name in self.found:
            return worked and self.drive.contains(fix.commit or "", revision)
        return known or worked

    def _goes(self, fix: Fix, revision: str) -> bool:
        """Return whether the fix may be put there: no commit of the range below the range, which is to be
        free of them all.
        """  # noqa: D205 (one sentence)
        nodes = self.drive.nodes
        return fix.commit is None or nodes.in_range(revision) or not nodes.in_range(fix.commit)

    def _covers(self, fix: Fix, revision: str) -> bool:
        assert fix.only is not None
        if fix.only not in self._ranges:
            old, new = fix.only
            self._ranges[fix.only] = frozenset(
                git(self.drive.repository.path, "rev-list", new, f"^{old}").split()
            )
        return revision in self._ranges[fix.only]

    def _among(self, revision: str) -> bool:
        """Return whether the last that was tested before this revision can't be."""
        drive = self.drive
        before = [r for r, works in self._plain.items() if works and drive.contains(revision, r)]
        return any(
            not works
            and drive.contains(revision, broken)
            and not any(drive.contains(r, broken) for r in before)
            for broken, works in self._plain.items()
        )

    def step(self, members: Sequence[int]) -> tuple[str, Names] | None:
        """Return the next run towards telling these nodes apart, as a revision and what to put on top: one
        that looks for where the build works again, or that tries the change which made it work. None where
        nothing is left to try.
        """  # noqa: D205 (one sentence)
        options, search, nodes = self.drive.options, self.drive.search, self.drive.nodes
        misses = sum(not works for tries in self._tried.values() for works in tries.values())
        if not options.mend or len(search.untestable.broken) >= options.max_skips or misses >= _MISSES:
            return None
        weights = search.view.weights[list(members)]
        worth: list[tuple[float, str]] = []
        for v in search.untestable.broken:
            inside = float(weights[search.sums.ancestors(v)[list(members)]].sum())
            split = min(inside, float(weights.sum()) - inside)
            if split > 1e-3:
                worth.append((-split, nodes.commits[v]))
        for _, revision in sorted(worth):
            found = self._forward(revision)
            if found is not None:
                return found
        return None

    def _forward(self, broken: str) -> tuple[str, Names] | None:
        """Return the next run in the search for what made a broken revision's build work again."""
        search, nodes = self.drive.search, self.drive.nodes
        place = nodes.places[broken]
        one = np.zeros(search.sums.n)
        one[place] = 1.0
        after: Bools = search.sums.sums(one) > 0.5
        working = [nodes.places[r] for r, works in self._plain.items() if works and after[nodes.places[r]]]
        if not working:
            end = nodes.commits[-1]
            return None if end in self._plain or not after[-1] else (end, ())
        between = {w: after & search.sums.ancestors(w) for w in working}
        w = min(working, key=lambda w: int(between[w].sum()))
        below: Bools = np.zeros(search.sums.n, dtype=bool)
        for revision, works in self._plain.items():
            at = nodes.places.get(revision)
            if not works and at is not None and between[w][at]:
                below |= search.sums.ancestors(at)
        unknown = between[w] & ~below
        unknown[w] = False
        if search.barred is not None:
            unknown &= ~search.barred
        if unknown.any():
            count = search.sums.sums(unknown.astype(np.float64))
            half = np.where(unknown, np.minimum(count, unknown.sum() - count + 1), -1.0)
            return nodes.commits[int(half.argmax())], ()
        return self._candidate(broken, w, below)

    def _candidate(self, broken: str, w: int, below: Bools) -> tuple[str, Names] | None:
        """Return a try of the commit at w, the first whose build works again, or of the branch it merged."""
        search, nodes = self.drive.search, self.drive.nodes
        commits = [nodes.commits[w]]
        if len(self.drive.repository.commit(commits[0]).parents) > 1:
            branch = search.sums.ancestors(w) & ~below
            branch[: nodes.first] = False
            branch[w] = False
            commits = [nodes.commits[v] for v in np.flatnonzero(branch)[::-1][: 4 * _BRANCH].tolist()]
            commits = [c for c in commits if len(self.drive.repository.commit(c).parents) == 1][:_BRANCH]
        tried = self._tried.get(broken, {})
        for commit in commits:
            name = fix_name(commit)
            self.fixes.setdefault(name, Fix(name, commit=commit))
            if name not in self.found and not any(f.name == name for f in self.drive.options.fixes):
                self.found.append(name)
            if (name,) in tried:
                self._why = (
                    f"with {commit[:12]} on top, which made the build work again, it still can't be tested"
                )
            elif self.patch(broken, (name,)) is None:
                self._why = (
                    f"{commit[:12]}, which made the build work again, does not go on top of {broken[:12]}"
                )
            else:
                return broken, (name,)
        return None

    def why(self) -> str:
        """Return why revisions could not be made testable, as far as that was tried."""
        return self._why

    def told(self) -> tuple[str, ...]:
        """Return, a line each, what was put on top of revisions to make them testable."""
        lines = []
        for name, fix in self.fixes.items():
            on = sum(
                any(works and name in names for names, works in tries.items())
                for tries in self._tried.values()
            )
            if not on:
                continue
            what = name
            if fix.commit:
                try:
                    what = f"{fix.commit[:12]} ({self.drive.repository.commit(fix.commit).subject})"
                except GitError:
                    what = fix.commit[:12]
            lines.append(f"{what} on top of {on} revision{'s' if on > 1 else ''}")
        return tuple(lines)


def _working(tries: dict[Names, bool]) -> set[str]:
    """Return the names of what made a revision testable."""
    return {name for names, works in tries.items() if works for name in names}


def fix_name(commit: str) -> str:
    """Return how the log calls a commit's change that is put on top of another revision."""
    return f"fix {commit}"
