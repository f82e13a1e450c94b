"""Checking a culprit before it is named.

With the culprit reverted on top of the bad revision the crash has to be gone, and the culprit itself has to
show it. Where it does not revert cleanly, or that does not build, its parents have to be free of the crash.
Runs of the search count where they already say it; the others are reported apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ktriage.bisect.types import Verification
from ktriage.history.worktrees import Worktrees
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from ktriage.bisect.drive import Drive
    from ktriage.bisect.types import Answer, Run, Runner

# Before its runs, a culprit's being only one of several is this likely; runs are made until it is less than
# the second or more than the third, and no more of them than that at one revision.
_SEVERAL = 0.03
_NO, _YES = 0.001, 0.95
_MOST = 60


@dataclass(slots=True)
class _Seen:
    """What runs at one revision came to: crashes of the hunted kind, none, and neither."""

    crashes: int = 0
    oks: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        """All runs."""
        return self.crashes + self.oks + self.others

    @property
    def useless(self) -> bool:
        """Whether runs here say nothing."""
        return self.others >= 3 and not self.crashes and not self.oks

    def add(self, run: Run) -> None:
        """Count a run."""
        if run.outcome == OutcomeKind.CRASHED:
            self.crashes += 1
        elif run.outcome == OutcomeKind.OK:
            self.oks += 1
        else:
            self.others += 1

    def crashing(self, crash: float, false: float) -> float:
        """Return how likely this revision has what crashes with the first rate, not with the second."""
        odds = math.log(_SEVERAL / (1 - _SEVERAL))
        odds += self.crashes * math.log(crash / false)
        odds += self.oks * (math.log1p(-crash) - math.log1p(-false))
        return 1 / (1 + math.exp(-max(min(odds, 500.0), -500.0)))


def verify(drive: Drive, answer: Answer, runner: Runner, executor: Executor) -> Answer:
    """Return the answer with its verification; one that does not pass has ``candidates`` for a verdict."""
    assert answer.culprit is not None
    crash = min(max(answer.crash_rate or 0.5, 0.02), 0.98)
    false = min(max(answer.false_rate or 0.01, 1e-4), crash / 2)

    def clean(seen: _Seen) -> bool | None:
        """Return whether the revision is free of the crash, None while that is not sure."""
        chance = seen.crashing(crash, false)
        return None if _NO <= chance <= _YES and seen.total < _MOST else chance < 0.5

    def shows(seen: _Seen) -> bool | None:
        return True if seen.crashes else None if seen.total < _MOST else False

    culprit = "crashes" if shows(_look(drive, runner, executor, answer.culprit, shows)) else "silent"
    reverted, parent = "conflict", "skipped"
    with Worktrees(drive.repository) as worktrees:
        patch = worktrees.revert_patch(answer.culprit, drive.start.bad)
    if patch is not None:
        seen = _look(drive, runner, executor, drive.start.bad, clean, patch)
        reverted = "untestable" if seen.useless else "gone" if clean(seen) else "stays"
    if reverted in ("conflict", "untestable"):
        before = _parent(drive, answer.culprit)
        seen = _look(drive, runner, executor, before, clean)
        parent = "skipped" if seen.useless else "ok" if clean(seen) else "crashes"
    passed = culprit == "crashes" and reverted != "stays" and parent != "crashes"
    verification = Verification(
        passed=passed,
        reverted=reverted,
        culprit=culprit,
        parent=parent,
        runs=len(drive.checks),
        builds=len({(run.commit, run.patches) for run in drive.checks if run.build_seconds}),
        seconds=round(sum(run.run_seconds + run.build_seconds for run in drive.checks), 3),
    )
    if passed:
        return replace(answer, verification=verification)
    why = "the crash stays when it is reverted" if reverted == "stays" else "its own runs do not bear it out"
    return replace(
        answer,
        culprit=None,
        verdict="candidates",
        reason=f"{answer.culprit[:12]} fits best, but {why}: more than one commit may bring the crash",
        verification=verification,
    )


def _parent(drive: Drive, commit: str) -> str:
    """Return the culprit's first parent: in the range, or the good revision."""
    place = drive.names.places[commit] - 1
    parents = drive.graph.parents(place)
    return drive.names.commits[parents[0] + 1] if parents else drive.start.good


def _look(
    drive: Drive,
    runner: Runner,
    executor: Executor,
    commit: str,
    enough: Callable[[_Seen], bool | None],
    patch: str = "",
) -> _Seen:
    """Run at a revision until ``enough`` gives an answer; what the search has run there counts too."""
    seen = _Seen()
    for run in [*drive.checks, *(drive.runs if not patch else [])]:
        if run.commit == commit and bool(run.patches) == bool(patch):
            seen.add(run)
    while enough(seen) is None and not seen.useless:
        while len(drive.pending) < drive.options.jobs:
            drive.submit(runner, executor, commit, purpose="verify", patch=patch)
        for run in drive.collect():
            seen.add(run)
    while drive.pending:
        for run in drive.collect():
            seen.add(run)
    return seen
