"""Which revisions can be tested, and how likely the others can.

A revision that does not build or boot makes its neighbours less likely to: what broke it was there before
and is there after. Neighbours are those in the graph's order, which keeps branches together. Between a
revision that works and one that does not the chance goes from one to the other; it recovers beside a broken
stretch over a length that grows with the stretch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Between two broken revisions of what looks like one stretch.
_INSIDE = 0.03


class Untestable:
    """What is known of the revisions 0 to n-1; the first and the last are taken to work until they don't."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._works: dict[int, bool] = {}
        self._chances: Floats | None = None

    @property
    def broken(self) -> tuple[int, ...]:
        """The revisions that can't be tested, in the graph's order."""
        return tuple(sorted(v for v, works in self._works.items() if not works))

    def add(self, v: int, *, works: bool) -> None:
        """Note that v could be tested, or not. One that could once stays testable."""
        if not self._works.get(v, False) and self._works.get(v) != works:
            self._works[v] = works
            self._chances = None

    def forget(self, v: int) -> None:
        """Take v for untried again: there is another way to test it."""
        if self._works.pop(v, None) is not None:
            self._chances = None

    def chances(self) -> Floats:
        """Return the chance of each revision to be testable; 0 for those known not to be."""
        if self._chances is None:
            self._chances = self._work_out()
        return self._chances

    def _work_out(self) -> Floats:
        works = {0: True, self.n - 1: True} | self._works
        known = np.array(sorted(works))
        state = np.array([works[v] for v in known.tolist()])
        chances: Floats = np.full(self.n, 0.97)
        lengths = self._lengths(known, state)
        for i in range(len(known) - 1):
            left, right = int(known[i]), int(known[i + 1])
            if right - left < 2 or (state[i] and state[i + 1]):
                continue
            at = np.arange(left + 1, right)
            chance = np.full(len(at), 0.97)
            if not state[i] and not state[i + 1]:
                chance *= (1 - np.exp(-(at - left) / lengths[i])) * (
                    1 - np.exp(-(right - at) / lengths[i + 1])
                )
                chance = np.maximum(chance, _INSIDE)
            else:
                broken, good = (left, right) if not state[i] else (right, left)
                length = lengths[i] if not state[i] else lengths[i + 1]
                near = 1 - np.abs(at - broken) / abs(good - broken)
                chance *= 1 - near * np.exp(-np.abs(at - broken) / length)
            chances[at] = chance
        chances[known[state]] = 1.0
        chances[known[~state]] = 0.0
        return chances

    def _lengths(self, known: NDArray[np.int64], state: NDArray[np.bool_]) -> Floats:
        """Return over what distance the chance recovers beside each broken revision."""
        lengths: Floats = np.full(len(known), max(1.0, self.n / 100))
        start = None
        for i, works in enumerate(state.tolist()):
            if works:
                start = None
                continue
            start = i if start is None else start
            reach = 1.5 * float(known[i] - known[start])
            lengths[start : i + 1] = np.maximum(lengths[start : i + 1], reach)
        return lengths
