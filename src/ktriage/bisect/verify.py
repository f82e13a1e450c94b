"""Checking a culprit before it is named.

With the culprit reverted on top of the bad revision the crash has to be gone, and the culprit itself has to
show it. Where it does not revert cleanly, or that does not build, its parents have to be free of the crash.
Runs of the search count where they already say it; the others are reported apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scipy.stats import binom

from ktriage.bisect.types import Verification
from ktriage.history.repository import readable
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from ktriage.bisect.drive import Drive
    from ktriage.bisect.types import Answer, Run, Runner

# Before its runs, a culprit's being only one of several is this likely; runs are made until it is less than
# the second or more than the third, and no more of them than that at one revision.
_SEVERAL = 0.03
SURE = 0.99
"""How likely more than one commit is behind a crash that stays, or comes again, with the culprit reverted."""
_NO, _YES = 0.001, 0.95
_MOST = 60
# A revision that should be free of the crash and shows it has so many runs at least, and still shows it
# where so many crashes or more are less likely than that.
_CLOSER, _CHANCE = 20, 0.005


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


@dataclass(slots=True)
class _Checker:
    """Makes runs at a revision until they say enough."""

    drive: Drive
    runner: Runner
    executor: Executor
    crash: float
    false: float

    def clean(self, seen: _Seen) -> bool | None:
        """Return whether the revision is free of the crash, None while that is not sure."""
        chance = seen.crashing(self.crash, self.false)
        open_yet = _NO <= chance <= _YES or (chance < _NO and seen.crashes and seen.total < _CLOSER)
        return None if open_yet and seen.total < _MOST else chance < 0.5

    def rarer(self, seen: _Seen) -> bool:
        """Return whether a revision still crashes more often than it should, if less than it did."""
        false = min(max(self.false, 0.02), 0.03)
        return bool(seen.crashes) and float(binom.sf(seen.crashes - 1, seen.total, false)) < _CHANCE

    @staticmethod
    def shows(seen: _Seen) -> bool | None:
        """Return whether the revision shows the crash, None while that is not sure."""
        return True if seen.crashes else None if seen.total < _MOST else False

    def blind(self, crashing: str, clean: str) -> bool:
        """Return whether a run does not depend on what is in the worktree: it crashes at one revision even
        with all files as they are at another one that is free of the crash. Guests always depend on it.
        """  # noqa: D205 (one sentence)
        if self.drive.start.call.get("kind") == "vms":
            return False
        seen = self.look(crashing, self.clean, f"tree {clean}")
        return seen is not None and not seen.useless and not self.clean(seen)

    def look(self, commit: str, enough: Callable[[_Seen], bool | None], change: str = "") -> _Seen | None:
        """Run at a revision until ``enough`` gives an answer; what the search has run there counts too.

        ``change`` says what to put on top: "revert HASH", "apply HASH", or "tree HASH" for all files as they
        are there. Returns None where that does not go on top.
        """
        drive = self.drive
        names = drive.mender.on_top(commit)
        if change:
            names = (change,) if change.startswith("tree ") else (*names, change)
            if drive.mender.patch(commit, names) is None:
                return None
        seen = _Seen()
        for run in [*drive.checks, *drive.runs]:
            if run.commit == commit and run.patches == names:
                seen.add(run)
        while enough(seen) is None and not seen.useless:
            while len(drive.pending) < drive.options.jobs:
                drive.submit(self.runner, self.executor, commit, purpose="verify", names=names)
            for run in drive.collect():
                seen.add(run)
        while drive.pending:
            for run in drive.collect():
                seen.add(run)
        return seen


def verify(drive: Drive, answer: Answer, runner: Runner, executor: Executor) -> Answer:
    """Return the answer with its verification; one that does not pass has ``candidates`` for a verdict."""
    crash = min(max(answer.crash_rate or 0.5, 0.02), 0.98)
    false = min(max(answer.false_rate or 0.01, 1e-4), crash / 2)
    checker = _Checker(drive, runner, executor, crash, false)
    if answer.verdict == "candidates":
        answer = _apart(checker, answer)
    if answer.culprit is None:
        return answer
    found = _verify_fix(checker, answer.culprit) if answer.kind == "fix" else _verify(checker, answer.culprit)
    verification = replace(
        found,
        runs=len(drive.checks),
        builds=len({(run.commit, run.patches) for run in drive.checks if run.build_seconds}),
        seconds=round(sum(run.run_seconds + run.build_seconds for run in drive.checks), 3),
    )
    if verification.passed:
        sure = SURE if verification.reverted == "rarer" else answer.several
        return replace(answer, verification=verification, several=sure)
    why = {
        "stays": "the crash stays when it is reverted",
        "stays-away": "the crash does not come back when it is reverted",
    }.get(verification.reverted, "its own runs do not bear it out")
    what = "end" if answer.kind == "fix" else "bring"
    return replace(
        answer,
        culprit=None,
        verdict="candidates",
        reason=f"{answer.culprit[:12]} fits best, but {why}: more than one commit may {what} the crash",
        several=SURE,
        verification=verification,
    )


def _verify(check: _Checker, culprit: str) -> Verification:
    """Check a commit that brought the crash."""
    drive = check.drive
    own = check.look(culprit, check.shows)
    silent = own is None or not check.shows(own)
    reverted, parent = "conflict", "skipped"
    seen = check.look(drive.start.bad, check.clean, f"revert {culprit}")
    if seen is not None:
        gone = "rarer" if check.rarer(seen) else "gone"
        reverted = "untestable" if seen.useless else gone if check.clean(seen) else "stays"
    before = _before(drive, culprit)
    if reverted == "stays" and before is not None and check.blind(drive.start.bad, before):
        reverted = "unseen"
    if reverted in ("conflict", "untestable", "unseen") and before is not None:
        seen = check.look(before, check.clean)
        parent = "skipped" if seen is None or seen.useless else "ok" if check.clean(seen) else "crashes"
    return Verification(
        passed=not silent and reverted != "stays" and parent != "crashes",
        reverted=reverted,
        culprit="silent" if silent else "crashes",
        parent=parent,
    )


def _verify_fix(check: _Checker, fix: str) -> Verification:
    """Check a commit that ended the crash: taken back at good the crash returns, put on bad it is gone."""
    drive = check.drive
    barred = drive.search.barred
    own, reverted, applied, parent = "skipped", "conflict", "skipped", "skipped"
    if barred is None or not barred[drive.nodes.places[fix]]:
        seen = check.look(fix, check.clean)
        own = "skipped" if seen is None or seen.useless else "silent" if check.clean(seen) else "crashes"
    seen = check.look(drive.start.good, check.shows, f"revert {fix}")
    if seen is not None:
        reverted = "untestable" if seen.useless else "returns" if check.shows(seen) else "stays-away"
    if reverted != "returns":
        seen = check.look(drive.start.bad, check.clean, f"apply {fix}")
        applied = "conflict"
        if seen is not None:
            applied = "untestable" if seen.useless else "gone" if check.clean(seen) else "stays"
    if applied == "stays" and check.blind(drive.start.bad, fix):
        applied = "unseen"
    before = _before(drive, fix)
    if reverted != "returns" and applied != "gone" and before is not None:
        seen = check.look(before, check.shows)
        parent = "skipped" if seen is None or seen.useless else "crashes" if check.shows(seen) else "ok"
    return Verification(
        # A second fix may keep the crash away where the first is taken back: then the one on bad decides.
        passed=own != "crashes" and parent != "ok" and applied != "stays",
        reverted=reverted,
        culprit=own,
        parent=parent,
        applied=applied,
    )


def _before(drive: Drive, commit: str) -> str | None:
    """Return the commit's first parent where it can be run without it, or else what lies below the range."""
    parent = drive.nodes.parent(commit)
    place = drive.nodes.places.get(parent or "", 0)
    if drive.search.barred is not None and drive.search.barred[place]:
        return None
    before = drive.nodes.commits[place]
    if any(commit in name for name in drive.mender.on_top(before)):
        return None
    return before or None


def _apart(check: _Checker, answer: Answer) -> Answer:
    """Tell a commit from the one that was put on top of it to make it testable.

    Both are in each run there. With the first one reverted on top of bad, where the other stays, the crash
    goes if it is the culprit, and stays if the other is.
    """
    drive = check.drive
    members = [candidate.commit for candidate in answer.candidates]
    first = [commit for commit in members if commit not in drive.nodes.applied]
    sure = answer.probability >= drive.options.confidence
    if answer.kind == "fix" or len(first) != 1 or len(members) != 2 or not sure:
        return answer

    def decided(seen: _Seen) -> bool | None:
        chance = seen.crashing(check.crash, check.false)
        return None if _NO < chance < 1 - _NO and seen.total < _MOST else chance < 0.5

    seen = check.look(drive.start.bad, decided, f"revert {first[0]}")
    if seen is None or seen.useless:
        return answer
    other = next(commit for commit in members if commit != first[0])
    stays = seen.crashing(check.crash, check.false)
    chances = {first[0]: answer.probability * (1 - stays), other: answer.probability * stays}
    ranked = sorted(answer.candidates, key=lambda candidate: -chances[candidate.commit])
    ranked = [replace(candidate, probability=chances[candidate.commit]) for candidate in ranked]
    best = ranked[0]
    if best.probability < drive.options.confidence - _NO:
        return replace(answer, candidates=tuple(ranked))
    about = drive.repository.commit(best.commit)
    return replace(
        answer,
        verdict="culprit",
        culprit=best.commit,
        probability=best.probability,
        reason=f"the crash {'goes' if best.commit == first[0] else 'stays'} when {first[0][:12]} is reverted",
        subject=about.subject,
        author=about.author,
        date=about.date,
        files=tuple(map(readable, drive.repository.files(best.commit))),
        candidates=tuple(ranked),
    )
