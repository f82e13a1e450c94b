"""What is taken for likely before the first run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaln

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BetaMixture:
    """What is known of a rate: a mixture of Beta distributions, as parts of (weight, a, b)."""

    parts: tuple[tuple[float, float, float], ...]

    def _posterior(self, hits: ArrayLike, misses: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Return each part's updated a, b and log weight, parts along the first axis."""
        k = np.asarray(hits, dtype=np.float64)
        m = np.asarray(misses, dtype=np.float64)
        table = np.array(self.parts).T.reshape((3, -1) + (1,) * k.ndim)
        weight, a, b = table
        logs = np.log(weight / weight.sum()) - betaln(a, b) + betaln(a + k, b + m)
        return a + k, b + m, logs

    def evidence(self, hits: ArrayLike, misses: ArrayLike) -> tuple[Floats, Floats]:
        """Return the log probability of runs with so many hits and misses, and the mean rate given them."""
        a, b, logs = self._posterior(hits, misses)
        most = logs.max(axis=0)
        share = np.exp(logs - most)
        total = share.sum(axis=0)
        mean: Floats = (share * (a / (a + b))).sum(axis=0) / total
        return most + np.log(total), mean

    def silence(self, hits: ArrayLike, misses: ArrayLike, runs: int) -> Floats:
        """Return the chance that the next ``runs`` runs all miss, given such runs so far."""
        before, _ = self.evidence(hits, misses)
        after, _ = self.evidence(hits, np.asarray(misses) + runs)
        return np.asarray(np.exp(after - before))

    def interval(self, hits: float, misses: float, level: float = 0.95) -> tuple[float, float]:
        """Return the central interval that holds the rate with probability ``level``, given such runs."""
        from scipy.special import betainc

        a, b, logs = self._posterior(hits, misses)
        share = np.exp(logs - logs.max())
        grid = np.linspace(0, 1, 2001)
        below = (share[:, None] / share.sum() * betainc(a[:, None], b[:, None], grid)).sum(axis=0)
        tail = (1 - level) / 2
        low, high = np.interp([tail, 1 - tail], below, grid)
        return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Priors:
    """Crash rates with the culprit and without it, and the chance that the culprit is not in the range.

    With the culprit, half of the weight is on reproducers that hardly ever miss; the rest leaves
    the rate open, but for rates so low that nobody would bisect with them. Without it, a crash of the hunted
    kind is rare, and of what order is open. ``already`` is the chance that the good revision
    has the culprit, ``nowhere`` that no commit has it.
    """

    crash: BetaMixture
    false: BetaMixture
    already: float = 0.005
    nowhere: float = 0.005

    @staticmethod
    def default(rate: tuple[int, int] | None = None) -> Priors:
        """Return the priors for a crash whose history says ``rate``: (runs with the crash, runs)."""
        parts: tuple[tuple[float, float, float], ...] = ((0.5, 16.0, 0.6), (0.5, 2.0, 1.6))
        if rate is not None:
            # The history is of other kernels and machines, so it counts for a tenth of its runs, 20 at most.
            hits, runs = rate
            scale = min(0.1, 20 / max(runs, 1))
            parts = (*parts, (4.0, 1 + hits * scale, 1 + (runs - hits) * scale))
        false = tuple((0.2, 1.0, 1 / mean) for mean in (3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
        return Priors(BetaMixture(parts), BetaMixture(false))
