"""A count over time, kept in bounded memory: where there are too many points, each stands for a stretch."""

from __future__ import annotations

import numpy as np

from ktriage.refs.columns import Ints

MOST = 4096


class Series:
    """Points of time, and the least, largest and last count in the stretch that ends there."""

    def __init__(self) -> None:
        self.times = np.zeros(0, np.int64)
        self.least = np.zeros(0, np.int64)
        self.most = np.zeros(0, np.int64)
        self.last = np.zeros(0, np.int64)

    def extend(self, times: Ints, counts: Ints) -> None:
        """Add points at the end."""
        self.times = np.concatenate((self.times, times))
        self.least = np.concatenate((self.least, counts))
        self.most = np.concatenate((self.most, counts))
        self.last = np.concatenate((self.last, counts))
        if len(self.times) > MOST:
            self._thin()

    def _thin(self) -> None:
        size = -(-2 * len(self.times) // MOST)
        starts = np.arange(0, len(self.times), size)
        ends = np.minimum(starts + size, len(self.times)) - 1
        self.least = np.minimum.reduceat(self.least, starts)
        self.most = np.maximum.reduceat(self.most, starts)
        self.times, self.last = self.times[ends], self.last[ends]
