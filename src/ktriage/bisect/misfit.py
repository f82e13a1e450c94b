"""Whether one step change explains the runs.

The search takes for granted that there is one culprit. Two other ways for the runs to come about are held
against that: two culprits, each with a rate of its own and a third where a revision has both; and no step at
all, where each revision has its own rate. What comes out is a Bayes factor. As long as there is one
culprit it is a martingale of mean 1 in the runs, however these were chosen and whenever one stops, so that
it ever comes to ``x`` with chance 1/x at most (Ville's inequality).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ktriage.bisect.priors import Priors

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

ALARM = 200.0
"""From this factor on, one culprit does not explain the runs: a false alarm in one of 200 bisections."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """How much better something else than one culprit explains the runs.

    ``factor`` is how many times likelier they are then; ``two`` and ``free`` are the same for two culprits
    and for a rate of each revision's own. ``classes`` are those of the likeliest two culprits.
    """

    factor: float
    two: float
    free: float
    classes: tuple[int, int]

    @property
    def alarm(self) -> bool:
        """Whether that is to be said."""
        return self.factor >= ALARM


def misfit(inside: Bools, crashes: Floats, oks: Floats, mass: Floats, priors: Priors) -> Misfit:
    """Return how well one culprit explains ``crashes`` and ``oks`` at each tested revision.

    ``inside`` says which class of candidates (rows; 0: in no revision) sits in which tested revision, and
    ``mass`` is the prior probability of each class.
    """
    has = inside.astype(np.float64)
    with np.errstate(divide="ignore"):
        log_mass = np.log(mass / mass.sum())
    own = _both(has, has, crashes), _both(has, has, oks)
    hit, miss = np.diag(own[0]), np.diag(own[1])
    one = logsumexp(
        log_mass
        + priors.crash.evidence(hit, miss)[0]
        + priors.false.evidence(crashes.sum() - hit, oks.sum() - miss)[0]
    )
    pairs = _pairs(own, (crashes.sum(), oks.sum()), priors) + log_mass[:, None] + log_mass
    # Two in one class are no more than one, and "nowhere" is none.
    pairs[0] = pairs[:, 0] = -np.inf
    two = logsumexp(pairs) - one
    each = np.logaddexp(priors.crash.evidence(crashes, oks)[0], priors.false.evidence(crashes, oks)[0])
    free = float((each - np.log(2)).sum() - one)
    factor = np.logaddexp(two, free) - np.log(2)
    at = np.triu(pairs, 1) + np.where(np.tri(len(mass), dtype=bool), -np.inf, 0.0)
    first, second = np.unravel_index(int(at.argmax()), at.shape)
    # A factor beyond any doubt is not worth an overflow.
    two, free, factor = (float(np.exp(min(x, 500.0))) for x in (two, free, factor))
    return Misfit(factor, two, free, (int(first), int(second)))


def _both(first: Floats, second: Floats, counts: Floats) -> Floats:
    """Return, by two classes, the sum of ``counts`` over the revisions that have both."""
    return np.asarray((first * counts) @ second.T)


def _pairs(both: tuple[Floats, Floats], total: tuple[float, float], priors: Priors) -> Floats:
    """Return the log probability of the runs, by the classes of two culprits."""
    hit, miss = both
    hit_one, miss_one = np.diag(hit)[:, None] - hit, np.diag(miss)[:, None] - miss
    hit_no, miss_no = total[0] - hit - hit_one - hit_one.T, total[1] - miss - miss_one - miss_one.T
    alone = priors.crash.evidence(hit_one, miss_one)[0]
    logs = priors.crash.evidence(hit, miss)[0] + alone + alone.T + priors.false.evidence(hit_no, miss_no)[0]
    return np.asarray(logs)
