"""Sums over the ancestors of every commit at once.

For each commit v take as base the parent with the most ancestors, and keep only what v has beyond it:
delta(v) = Anc(v) - Anc(base(v)), v included. Then S_f(v) = S_f(base(v)) + sum of f over delta(v), for any f.
The bases form a forest, so that all S_f come from one sparse product and one cumulative sum along a walk of
that forest. On the histories of Linux the deltas hold 1.5 to 2.6 entries a commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int32]
    Longs = NDArray[np.int64]
    Places = NDArray[np.intp]
    Bools = NDArray[np.bool_]


class AncestorSums:
    """Ancestor sums and sets on a commit graph.

    ``indptr`` and ``indices`` hold the parents of commit i in ``indices[indptr[i]:indptr[i+1]]``; parents
    have smaller numbers than their children. Takes time and memory linear in the deltas' size.
    """

    def __init__(self, indptr: Ints, indices: Ints) -> None:
        self.n = len(indptr) - 1
        base, rows, deltas = _deltas(indptr, indices)
        # Platform integers throughout: numpy would convert other indices at each use.
        self._rows = np.array(rows, dtype=np.intp)
        sizes = np.array([len(delta) for delta in deltas], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._members = np.concatenate([*deltas, np.zeros(0, np.int32)]).astype(np.intp)
        self._pre, self._end = _walk(base)
        self._order = np.empty(self.n, dtype=np.intp)
        self._order[self._pre] = np.arange(self.n)
        leaving = self._end[self._order]
        inside = np.flatnonzero(leaving < self.n)
        self._leavers, self._leaving = inside, leaving[inside]

    @property
    def size(self) -> int:
        """How many entries all deltas have together."""
        return self.n + len(self._members)

    def sums(self, f: Floats) -> Floats:
        """Return the sum of ``f`` over each commit's ancestors, itself included."""
        own = f
        if len(self._rows):
            own = f.copy()
            own[self._rows] += np.add.reduceat(f.take(self._members), self._starts[:-1])
        steps = own.take(self._order)
        steps -= np.bincount(self._leaving, weights=steps.take(self._leavers), minlength=self.n)
        sums: Floats = np.cumsum(steps, out=steps).take(self._pre)
        return sums

    def descendants(self, f: Longs) -> Longs:
        """Return the sum of ``f`` over each commit's descendants, itself included: the transpose of ``sums``.

        In integers, so that equal sets have equal sums.
        """
        entering = np.cumsum(f[self._order][::-1], dtype=np.int64)[::-1]
        steps = entering.copy()
        steps[self._leavers] -= entering[self._leaving]
        own: Longs = steps[self._pre]
        if len(self._rows):
            result = own.copy()
            spread = np.repeat(own[self._rows], np.diff(self._starts))
            np.add.at(result, self._members, spread)
            return result
        return own

    def ancestors(self, v: int) -> Bools:
        """Return which commits are v or an ancestor of it."""
        at = self._pre[v]
        mask: Bools = (self._pre <= at) & (at < self._end)
        for row in np.flatnonzero(mask[self._rows]):
            mask[self._members[self._starts[row] : self._starts[row + 1]]] = True
        return mask


def _deltas(indptr: Ints, indices: Ints) -> tuple[list[int], list[int], list[Ints]]:
    """Return each commit's base (-1: none), the merges with a delta, and these deltas without the merge.

    Ancestor sets are bits in byte arrays. A set is handed on to its commit's last child, so that only forks
    copy one, and no more of them are alive than there are parallel branches at that point.
    """
    n = len(indptr) - 1
    children = np.bincount(indices, minlength=n).tolist() if len(indices) else [0] * n
    bounds, parents_of = indptr.tolist(), indices.tolist()
    width = (n + 63) // 64 * 8
    base = [-1] * n
    size = [0] * n
    sets: dict[int, bytearray] = {}
    rows: list[int] = []
    deltas: list[Ints] = []

    for v in range(n):
        parents = list(dict.fromkeys(parents_of[bounds[v] : bounds[v + 1]]))
        best = max(parents, key=size.__getitem__, default=-1)
        beyond = None
        if len(parents) > 1:
            beyond = _beyond(sets, best, [p for p in parents if p != best], v)
            if len(beyond):
                rows.append(v)
                deltas.append(beyond)
        base[v] = best
        size[v] = 1 + (size[best] if best >= 0 else 0) + (len(beyond) if beyond is not None else 0)
        mine: bytearray | None = None
        for p in parents_of[bounds[v] : bounds[v + 1]]:
            children[p] -= 1
        for p in parents:
            if p == best:
                mine = sets[p] if children[p] == 0 else bytearray(sets[p])
            if children[p] == 0:
                del sets[p]
        if children[v] == 0:
            continue
        mine = bytearray(width) if mine is None else mine
        if beyond is not None and len(beyond):
            view = np.frombuffer(mine, dtype=np.uint8)
            np.bitwise_or.at(view, beyond >> 3, np.left_shift(1, beyond & 7).astype(np.uint8))
        mine[v >> 3] |= 1 << (v & 7)
        sets[v] = mine
    return base, rows, deltas


def _beyond(sets: dict[int, bytearray], best: int, others: list[int], v: int) -> Ints:
    """Return the ancestors of ``others`` that are not ancestors of ``best``, all of them below ``v``."""
    words = (v + 63) // 64
    have = np.frombuffer(sets[best], dtype=np.uint64, count=words)
    more = np.frombuffer(sets[others[0]], dtype=np.uint64, count=words)
    for other in others[1:]:
        more = more | np.frombuffer(sets[other], dtype=np.uint64, count=words)
    new = more & ~have
    at = np.flatnonzero(new)
    bits = np.unpackbits(new[at].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    where, bit = np.nonzero(bits)
    return (at[where] * 64 + bit).astype(np.int32)


def _walk(base: list[int]) -> tuple[Places, Places]:
    """Return when a walk of the forest, parents first, enters each commit's subtree and when it leaves it."""
    n = len(base)
    size = [1] * n
    for v in range(n - 1, -1, -1):
        if base[v] >= 0:
            size[base[v]] += size[v]
    enter = [0] * n
    free = [0] * n
    roots = 0
    for v in range(n):
        b = base[v]
        if b < 0:
            enter[v] = roots
            roots += size[v]
        else:
            enter[v] = free[b]
            free[b] += size[v]
        free[v] = enter[v] + 1
    pre = np.array(enter, dtype=np.intp)
    return pre, pre + np.array(size, dtype=np.intp)
