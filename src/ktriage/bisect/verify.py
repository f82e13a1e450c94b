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
    from concurrent.futures import Executor

    from ktriage.bisect.drive import Drive
    from ktriage.bisect.types import Answer, Run, Runner

# A crash that would stay is missed by all runs with this chance, and no more runs than that are spent on it.
_MISS = 0.02
_MOST = 60


@dataclass(slots=True)
class _Seen:
    """What runs at one revision came to: crashes of the hunted kind, none, and neither."""

    crashes: int = 0
    oks: int = 0
    others: int = 0

    def add(self, run: Run) -> None:
        if run.outcome == OutcomeKind.CRASHED:
            self.crashes += 1
        elif run.outcome == OutcomeKind.OK:
            self.oks += 1
        else:
            self.others += 1

    def crashing(self, crash: float, false: float) -> bool:
        """Return whether that looks more like a revision with the culprit than like one without it."""
        with_it = self.crashes * math.log(crash) + self.oks * math.log1p(-crash)
        without = self.crashes * math.log(false) + self.oks * math.log1p(-false)
        return with_it > without


def verify(drive: Drive, answer: Answer, runner: Runner, executor: Executor) -> Answer:
    """Return the answer with its verification; one that does not pass has ``candidates`` for a verdict."""
    assert answer.culprit is not None
    crash = min(max(answer.crash_rate or 0.5, 0.02), 0.98)
    false = min(max(answer.false_rate or 0.01, 1e-4), crash / 2)
    runs = min(_MOST, max(3, math.ceil(math.log(_MISS) / math.log1p(-crash))))

    shows = _look(drive, runner, executor, answer.culprit, runs, first_crash=True)
    culprit = "crashes" if shows.crashes else "silent"
    reverted, parent = "conflict", "skipped"
    with Worktrees(drive.repository) as worktrees:
        patch = worktrees.revert_patch(answer.culprit, drive.start.bad)
    if patch is not None:
        seen = _look(drive, runner, executor, drive.start.bad, runs, patch=patch)
        if seen.oks + seen.crashes == 0:
            reverted = "untestable"
        else:
            reverted = "stays" if seen.crashing(crash, false) else "gone"
    if reverted in ("conflict", "untestable"):
        before = _parent(drive, answer.culprit)
        seen = _look(drive, runner, executor, before, runs)
        if seen.oks + seen.crashes:
            parent = "crashes" if seen.crashing(crash, false) else "ok"
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
    runs: int,
    *,
    patch: str = "",
    first_crash: bool = False,
) -> _Seen:
    """Make as many runs as are missing, and return what all of them came to."""
    seen = _Seen()
    if not patch:
        for run in drive.runs:
            if run.commit == commit:
                seen.add(run)
    for run in drive.checks:
        if run.commit == commit and bool(run.patches) == bool(patch):
            seen.add(run)
    while True:
        total = seen.crashes + seen.oks + seen.others
        enough = seen.crashes > 0 if first_crash else seen.crashes + seen.oks >= runs
        useless = seen.others >= 3 and not seen.crashes and not seen.oks
        if enough or useless or total >= 2 * runs:
            return seen
        missing = 1 if first_crash else runs - seen.crashes - seen.oks
        while len(drive.pending) < min(drive.options.jobs, missing):
            drive.submit(runner, executor, commit, purpose="verify", patch=patch)
        for run in drive.collect():
            seen.add(run)
