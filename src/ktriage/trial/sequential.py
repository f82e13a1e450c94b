"""Does it still crash as often? Asked run by run, and answered as soon as the runs allow it.

Wald's sequential probability ratio test (Annals of Mathematical Statistics 16, 1945) between two rates: the
one that was measured, and a fraction of it. It needs fewer runs on average than any other test that errs as
seldom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KEPT = 1 / 3
"""A rate below this fraction of the one that was measured is a loss."""
WRONG_YES = 0.05
WRONG_NO = 0.1
"""How often, at the most, the test may err: a wrong yes loses the crash, a wrong no leaves a line."""
MOST_CERTAIN = 0.97
"""No number of crashes proves that there will never be a run without."""
FEWEST_CRASHES = 6
MOST_RUNS = 60


@dataclass(slots=True)
class Counts:
    """Runs that could tell, and how many of them crashed."""

    crashes: int = 0
    runs: int = 0

    def add(self, crashed: bool) -> None:
        """Count one run."""
        self.crashes += crashed
        self.runs += 1

    @property
    def rate(self) -> float:
        """The crash rate, the mean by Jeffreys' prior, never quite 1."""
        return min(MOST_CERTAIN, (self.crashes + 0.5) / (self.runs + 1))

    @property
    def known(self) -> bool:
        """Whether there are crashes enough, or runs too many, to go on by this rate."""
        return self.crashes >= FEWEST_CRASHES or self.runs >= MOST_RUNS


def likelihood_ratio(seen: Counts, rate: float) -> float:
    """Return how much better ``rate`` explains runs than the fraction ``KEPT`` of it, as a logarithm."""
    low = rate * KEPT
    return seen.crashes * math.log(rate / low) + (seen.runs - seen.crashes) * math.log((1 - rate) / (1 - low))


def decide(seen: Counts, rate: float) -> bool | None:
    """Return whether it still crashes about as often as ``rate``; None where more runs have to say."""
    ratio = likelihood_ratio(seen, rate)
    if ratio >= math.log((1 - WRONG_NO) / WRONG_YES):
        return True
    return False if ratio <= math.log(WRONG_NO / (1 - WRONG_YES)) else None
