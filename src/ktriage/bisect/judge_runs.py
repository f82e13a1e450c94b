"""Runs that are not alike: misses that always fall on the same number, tests that crash too seldom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtr

from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ktriage.bisect.foreign_types import ForeignRevision
    from ktriage.bisect.judge_evidence import Observed

_SAYS = (OutcomeKind.OK, OutcomeKind.CRASHED, OutcomeKind.HUNG)


@dataclass(frozen=True, slots=True)
class Coincidence:
    """Runs of one number that stand out at ``revisions``: without a crash there, or with the only one.

    ``of`` counts the bad revisions at which some runs crashed and some did not, as the log lists them.
    ``sole`` says that each of them has but that one such run. ``chance`` is the probability that some number
    stands out like that, if all runs of a revision are alike.
    """

    number: int
    missed: bool
    revisions: tuple[str, ...]
    of: int
    chance: float
    sole: bool


def coincidence(revisions: Iterable[ForeignRevision]) -> Coincidence | None:
    """Return the run number that stands out most at the bad revisions, None where none does."""
    mixed = [table for table in map(_table, revisions) if table is not None]
    found = []
    for missed in (True, False):
        tables = [(name, rare) for name, rare, is_miss in mixed if is_miss == missed]
        found.append(_standing_out(tables, missed=missed))
    return min(filter(None, found), key=lambda one: one.chance, default=None)


def _table(revision: ForeignRevision) -> tuple[str, dict[int, bool], bool] | None:
    """Return, by number, whether a run is of the rarer kind, and whether that is the one without a crash."""
    if not revision.buggy or not revision.runs:
        return None
    crashed = {run.number: run.outcome is not OutcomeKind.OK for run in revision.runs if run.outcome in _SAYS}
    count = sum(crashed.values())
    if count in (0, len(crashed)):
        return None
    missed = 2 * count >= len(crashed)
    return revision.commit, {number: value != missed for number, value in crashed.items()}, missed


def _standing_out(tables: list[tuple[str, dict[int, bool]]], *, missed: bool) -> Coincidence | None:
    numbers = sorted({number for _, rare in tables for number in rare})
    best: Coincidence | None = None
    total = 0.0
    for number in numbers:
        having = [(name, rare) for name, rare in tables if number in rare]
        seen = [name for name, rare in having if rare[number]]
        if best is None or len(seen) > len(best.revisions):
            sole = all(sum(rare.values()) == 1 for name, rare in having if name in seen)
            best = Coincidence(number, missed, tuple(seen), len(tables), 1.0, sole)
    if best is None or len(best.revisions) < 2:
        return None
    for number in numbers:
        shares = [sum(rare.values()) / len(rare) for _, rare in tables if number in rare]
        total += _at_least(shares, len(best.revisions))
    chance = min(1.0, total)
    return Coincidence(best.number, missed, best.revisions, best.of, chance, best.sole)


def _at_least(chances: list[float], count: int) -> float:
    """Return how likely at least ``count`` of independent events with these chances happen."""
    dist = np.ones(1)
    for chance in chances:
        dist = np.convolve(dist, [1 - chance, chance])
    return float(dist[count:].sum())


def seldom(tests: Iterable[Observed]) -> list[tuple[Observed, float, float]]:
    """Return the bad tests that crash too seldom for the bug that the other bad ones show.

    Each comes with the rate of the others and the chance of so few crashes at that rate.
    """
    bad = [test for test in tests if test.revision.buggy and test.telling and not test.assumed]
    found = []
    for test in bad:
        crashed = sum(other.crashed for other in bad if other is not test)
        telling = sum(other.telling for other in bad if other is not test)
        if not telling:
            continue
        # One more of each kind than was seen, so that a rate from few runs is no certainty.
        rate = (crashed + 1) / (telling + 2)
        chance = float(bdtr(test.crashed, test.telling, rate))
        if chance < 0.01:
            found.append((test, rate, chance))
    return found
