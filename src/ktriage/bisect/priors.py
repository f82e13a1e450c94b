"""What is taken for likely before the first run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaln, gammaln

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


@lru_cache(maxsize=32)
def _gammaln(parts: tuple[tuple[float, float, float], ...], size: int) -> tuple[Floats, Floats, Floats]:
    """Return gammaln(a + i), gammaln(b + i) and gammaln(a + b + i) for i below ``size``, by part."""
    _, a, b = np.array(parts).T[:, :, None]
    i = np.arange(size)
    return gammaln(a + i), gammaln(b + i), gammaln(a + b + i)


@dataclass(frozen=True, slots=True)
class BetaMixture:
    """What is known of a rate: a mixture of Beta distributions, as parts of (weight, a, b)."""

    parts: tuple[tuple[float, float, float], ...]

    def _posterior(self, hits: ArrayLike, misses: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Return each part's updated a, b and log weight, parts along the first axis."""
        k, m = np.broadcast_arrays(np.asarray(hits, dtype=np.float64), np.asarray(misses, dtype=np.float64))
        weight, a, b = np.array(self.parts).T.reshape((3, -1) + (1,) * k.ndim)
        logs = np.log(weight / weight.sum()) - betaln(a, b) + self._betaln(k, m)
        return a + k, b + m, logs

    def _betaln(self, k: Floats, m: Floats) -> Floats:
        """Return betaln(a + k, b + m) by part. Counts of runs are looked up, which is ten times as fast."""
        hits, misses = k.astype(np.intp), m.astype(np.intp)
        if not ((hits == k).all() and (misses == m).all()):
            _, a, b = np.array(self.parts).T.reshape((3, -1) + (1,) * k.ndim)
            return np.asarray(betaln(a + k, b + m))
        size = 1 << int((hits + misses).max(initial=0)).bit_length()
        of_hits, of_misses, of_runs = _gammaln(self.parts, max(size, 256))
        return of_hits[:, hits] + of_misses[:, misses] - of_runs[:, hits + misses]

    def evidence(self, hits: ArrayLike, misses: ArrayLike) -> tuple[Floats, Floats]:
        """Return the log probability of runs with so many hits and misses, and the mean rate given them."""
        a, b, logs = self._posterior(hits, misses)
        most = logs.max(axis=0)
        share = np.exp(logs - most)
        total = share.sum(axis=0)
        mean: Floats = (share * (a / (a + b))).sum(axis=0) / total
        return most + np.log(total), mean

    def silence(self, hits: ArrayLike, misses: ArrayLike, runs: ArrayLike) -> Floats:
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

    With the culprit, two fifths of the weight are on reproducers that hardly ever miss; the rest leaves the
    rate open. Without it, a crash of the hunted kind is rare, and of what order is open. ``already`` is the
    chance that the good revision has the culprit, ``nowhere`` that no commit has it.
    """

    crash: BetaMixture
    false: BetaMixture
    already: float = 0.005
    nowhere: float = 0.005

    @staticmethod
    def default(rate: tuple[int, int] | None = None) -> Priors:
        """Return the priors for a crash whose history says ``rate``: (runs with the crash, runs)."""
        parts: tuple[tuple[float, float, float], ...] = ((0.4, 16.0, 0.6), (0.6, 1.3, 1.1))
        if rate is not None:
            # The history is of other kernels and machines, so it counts for a tenth of its runs, 20 at most.
            hits, runs = rate
            scale = min(0.1, 20 / max(runs, 1))
            parts = (*parts, (4.0, 1 + hits * scale, 1 + (runs - hits) * scale))
        return Priors(BetaMixture(parts), BetaMixture(((1.0, 0.5, 60.0),)))
