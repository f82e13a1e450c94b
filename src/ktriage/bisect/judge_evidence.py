"""What each test in a foreign log weighs: runs without a crash, crashes by title, which title is hunted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from ktriage.bisect.foreign_types import ForeignLog, ForeignRevision

USUAL_RUNS = 10
"""Runs that "all runs" is taken for where a log lists none at all: syzkaller's, from 2019 on."""
_CRASHES = (OutcomeKind.CRASHED, OutcomeKind.HUNG)
# syzkaller's own program failing; since 2022 it ignores such runs unless that is what it hunts.
_EXECUTOR = ("SYZFAIL", "SYZFATAL")
_IN = re.compile(r"(.*?)[ :]*\b(?:in|at) (\S+)$")


@dataclass(frozen=True, slots=True)
class Observed:
    """A test's runs that say something of its revision. ``assumed`` says that the number is a guess.

    ``silent`` counts the runs that say nothing: the machine failed, or the kernel did not boot.
    """

    revision: ForeignRevision
    ok: int = 0
    crashes: dict[str, int] | None = None
    silent: int = 0
    assumed: bool = False

    @property
    def crashed(self) -> int:
        """How many runs crashed, under any title."""
        return sum((self.crashes or {}).values())

    @property
    def telling(self) -> int:
        """How many runs say something."""
        return self.ok + self.crashed


@dataclass(frozen=True, slots=True)
class Evidence:
    """All tests of a log, in its order. ``hunted`` is the title that the bisection is about."""

    tests: tuple[Observed, ...]
    hunted: str | None
    assumed: int | None


def evidence(log: ForeignLog, *, without: int | None = None) -> Evidence:
    """Return what the log's runs weigh; ``without`` leaves out the runs of that number."""
    tests = searched(log)
    hunted = _hunted(log)
    assumed = usual_runs(log)
    observed = tuple(_observe(log, revision, hunted, without) for revision in tests)
    return Evidence(observed, hunted, assumed if any(test.assumed for test in observed) else None)


def searched(log: ForeignLog) -> list[ForeignRevision]:
    """Return the tests that say something of the commit that is looked for.

    Those that minimise the kernel's configuration are of another kernel. A merge base tested in between says
    whether a side branch had the bug at all, not whether it has the fix.
    """
    ends = log.range or ()
    return [
        revision
        for revision in log.revisions
        if revision.purpose != "minimize" and (revision.purpose != "merge-base" or revision.commit in ends)
    ]


def usual_runs(log: ForeignLog) -> int:
    """Return how many runs a test of this log usually has."""
    counts = Counter(len(r.runs) for r in log.revisions if r.runs and len(r.runs) > 1)
    if log.tool == "git":
        return 1
    return counts.most_common(1)[0][0] if counts else USUAL_RUNS


def _hunted(log: ForeignLog) -> str | None:
    """Return the start's most frequent title, the report's where the start has none, or the log's."""
    first = next((r for r in log.revisions if r.purpose == "start" and r.titles), None)
    for revision in filter(None, (first, *(r for r in log.revisions if r.buggy))):
        titles = {title: count or 1 for title, count in revision.titles.items()}
        if titles:
            return max(titles, key=lambda title: titles[title])
    return log.crash


def _observe(log: ForeignLog, revision: ForeignRevision, hunted: str | None, without: int | None) -> Observed:
    if log.tool == "git":
        if revision.buggy is None:
            return Observed(revision)
        crash = {hunted or "": 1} if revision.buggy else None
        return Observed(revision, ok=0 if crash else 1, crashes=crash, assumed=True)
    if revision.every is not None:
        runs = _assumed(log, revision) - (without is not None)
        every = revision.every
        if every.outcome is OutcomeKind.OK:
            return Observed(revision, ok=runs, assumed=True)
        if every.outcome in _CRASHES and _counts(every.title, hunted):
            return Observed(revision, crashes={str(every.title): runs}, assumed=True)
        return Observed(revision, silent=runs, assumed=True)
    ok = silent = 0
    crashes: Counter[str] = Counter()
    for run in revision.runs or ():
        if run.number == without:
            continue
        if run.outcome is OutcomeKind.OK:
            ok += 1
        elif run.outcome in _CRASHES and _counts(run.title, hunted):
            crashes[str(run.title)] += 1
        else:
            silent += 1
    return Observed(revision, ok, dict(crashes), silent)


def _counts(title: str | None, hunted: str | None) -> bool:
    """Return whether a crash under this title says anything of the kernel."""
    return title == hunted or not (title or "").startswith(_EXECUTOR)


def _assumed(log: ForeignLog, revision: ForeignRevision) -> int:
    """Return how many runs to take for "all runs": those of the test nearest in the log that lists them."""
    place = next(i for i, other in enumerate(log.revisions) if other is revision)
    listed = [
        (abs(i - place), i < place, len(other.runs))
        for i, other in enumerate(log.revisions)
        if other.runs and len(other.runs) > 1
    ]
    return min(listed)[2] if listed else USUAL_RUNS


def title_likeness(title: str, hunted: str | None, *, at_start: bool) -> float:
    """Return how likely a crash of this title is the hunted bug, going by the titles alone.

    A title that the starting revision shows too, under the same reproducer, most likely is; so is another
    kind of report in the same function, and less so the same kind in another function.
    """
    if at_start:
        return 0.85
    one, other = _IN.match(title), _IN.match(hunted or "")
    if one and other and one[2] == other[2]:
        return 0.8
    if one and other and one[1] == other[1]:
        return 0.6
    return 0.25
