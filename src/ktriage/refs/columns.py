"""Batches of events as arrays: lives of objects told apart, order mended, gaps found.

An object's *life* ends when it is freed (module_free; a put after which the count is 0 where the count is
not a module's), so that an address that is used again is another object.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktriage.refs.types import NO_COUNT, Batch, Op

Ints = NDArray[np.int64]
# Plain numbers: an enum's members are slow to compare with arrays.
_GET, _PUT, _FREE, _LOST = int(Op.GET), int(Op.PUT), int(Op.FREE), int(Op.LOST)
Floats = NDArray[np.float64]
Span = tuple[int, int, int]

_SKEW_NS = 10_000_000
"""Clocks of two CPUs are not taken to differ by more than this where the order is mended."""
_HEADS = 64
MODULE_BASE = 1
"""A live module's count is one above what lsmod shows (MODULE_REF_BASE in kernel/module/main.c, since 3.19,
e513cc1c07e2)."""


@dataclass(slots=True)
class Columns:
    """Events of counted objects in order, an array each."""

    times: Ints
    cpus: Ints
    tasks: Ints
    ops: Ints
    objects: Ints
    counts: Ints
    paths: Ints

    def __len__(self) -> int:
        return len(self.times)

    def taken(self, index: Ints | NDArray[np.bool_]) -> Columns:
        """Return the rows at ``index``."""
        return Columns(*(getattr(self, name)[index] for name in Columns.__slots__))

    def rows(self, start: int, end: int) -> Columns:
        """Return the rows from ``start`` to before ``end``, not copied."""
        return Columns(*(getattr(self, name)[start:end] for name in Columns.__slots__))


def columns(batch: Batch) -> Columns:
    """Return a batch as arrays."""
    return Columns(*(np.array(getattr(batch, name), np.int64) for name in Columns.__slots__))


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the parts one after the other."""
    return Columns(*(np.concatenate([getattr(part, name) for part in parts]) for name in Columns.__slots__))


def deltas(ops: Ints) -> Ints:
    """Return what each event does to the count: 1, -1 or 0."""
    return np.where(ops == _GET, 1, np.where(ops == _PUT, -1, 0)).astype(np.int64)


def breaks(counts: Ints, ops: Ints, before: int, *, floor: int) -> NDArray[np.bool_]:
    """Return where one object's printed count does not follow from the one before and the event.

    ``before`` is the count before the first event, ``NO_COUNT`` where it is not known. A put at ``floor``
    goes on printing ``floor``.
    """
    previous = np.concatenate(([before], counts[:-1]))
    known = (counts != NO_COUNT) & (previous != NO_COUNT)
    expected = previous + deltas(ops)
    stuck = (expected < floor) & (counts == floor)
    return np.asarray(known & (expected != counts) & ~stuck)


def mended(part: Columns, before: int, floor: int) -> Ints | None:
    """Return the order of one object's gets and puts that its printed counts tell; None if as they are.

    Clocks of different CPUs may disagree by a little; the order on one CPU is sure. Where the count does not
    follow, the next event is looked for at the other CPUs' heads within ``_SKEW_NS``.
    """
    wrong = breaks(part.counts, part.ops, before, floor=floor)
    if not wrong.any() or (part.cpus == part.cpus[0]).all():
        return None
    order = np.array(_merged(part, before, floor, np.flatnonzero(wrong)), np.int64)
    again = breaks(part.counts[order], part.ops[order], before, floor=floor)
    return order if again.sum() < wrong.sum() else None


def _merged(part: Columns, before: int, floor: int, wrong: Ints) -> list[int]:
    times, cpus, counts = part.times.tolist(), part.cpus.tolist(), part.counts.tolist()
    change = deltas(part.ops).tolist()
    count = before
    waiting = list(range(int(wrong[0])))
    order: list[int] = waiting
    if order:
        count = counts[order[-1]]
    ahead: list[int] = []
    following = len(order)
    while ahead or following < len(times):
        while following < len(times) and (
            not ahead or (len(ahead) < _HEADS and times[following] - times[ahead[0]] <= _SKEW_NS)
        ):
            ahead.append(following)
            following += 1
        place = _next(ahead, cpus, counts, change, count, floor)
        index = ahead.pop(place)
        order.append(index)
        if counts[index] != NO_COUNT:
            count = counts[index]
    return order


def _next(
    ahead: list[int], cpus: list[int], counts: list[int], change: list[int], count: int, floor: int
) -> int:
    """Return which of the events ahead follows from the count; the first where none does."""
    passed: set[int] = set()
    for place, index in enumerate(ahead):
        if cpus[index] in passed:
            continue
        passed.add(cpus[index])
        expected = max(count + change[index], floor)
        if counts[index] in (expected, NO_COUNT) or count == NO_COUNT:
            return place
    return 0


class Gaps:
    """Where events were lost: stretches of time on a CPU in which anything may have happened."""

    _MOST = 1 << 14

    def __init__(self) -> None:
        self.lost = 0
        self.unknown = False
        """Some loss came without a number."""
        self.before_start = 0
        """Events that were overwritten before the trace's first."""
        self.spans: list[Span] = []
        """From when to when, and how many were lost; 0 where that is not known."""
        self._last: dict[int, int] = {}
        self._open: dict[int, tuple[int, int]] = {}

    def note(self, data: Columns) -> None:
        """Take in the lost events among ``data``, and when each CPU was last heard of."""
        losses = np.flatnonzero(data.ops == _LOST)
        done = 0
        for row in losses.tolist():
            self._heard(data, done, row)
            done = row + 1
            cpu, count = int(data.cpus[row]), int(data.counts[row])
            self.lost += count
            self.unknown |= count == 0
            if cpu < 0 or cpu not in self._last:
                self.before_start += count or 1
            start, more = self._open.get(cpu, (self._last.get(cpu, -(1 << 62)), 0))
            self._open[cpu] = start, more + count
        self._heard(data, done, len(data))

    def _heard(self, data: Columns, start: int, end: int) -> None:
        cpus, times = data.cpus[start:end], data.times[start:end]
        if not len(cpus):
            return
        for cpu in np.unique(cpus).tolist():
            own = times[cpus == cpu]
            if cpu in self._open:
                self._add(*self._open.pop(cpu), int(own[0]))
            self._last[cpu] = int(own[-1])
        if -1 in self._open:
            self._add(*self._open.pop(-1), int(times[0]))

    def _add(self, start: int, count: int, end: int) -> None:
        if len(self.spans) >= self._MOST:
            pairs = zip(self.spans[::2], self.spans[1::2], strict=False)
            self.spans = [(first[0], second[1], first[2] + second[2]) for first, second in pairs]
        self.spans.append((start, max(start, end), count))

    def all_spans(self) -> list[Span]:
        """Return the gaps, with those that no later event of their CPU has closed."""
        return self.spans + [(start, 1 << 62, 0) for start, _ in self._open.values()]

    def fitting(self, jumps: Sequence[Span], sign: int) -> list[Span]:
        """Return the gaps in which a put (``sign`` 1) or a get (-1) of an object may have been lost.

        ``jumps`` are the times of two events of the object between which its count moved by itself, and by
        how much. That is how many more gets than puts were lost there: where one event was lost and the count
        is one higher, it was a get.
        """
        fitting: list[Span] = []
        moves = sorted(jumps, key=lambda jump: jump[1])
        for together in self._clusters():
            count = sum(span[2] for span in together)
            known = all(span[2] for span in together)
            start, end = together[0][0], max(span[1] for span in together)
            at = bisect_left(moves, start, key=lambda jump: jump[1])
            moved = 0
            while at < len(moves) and moves[at][0] <= end:
                moved += moves[at][2]
                at += 1
            if not known or (count - sign * moved) // 2 > 0:
                fitting += together
        return fitting

    def _clusters(self) -> list[list[Span]]:
        """Return the gaps, those that overlap together."""
        clusters: list[list[Span]] = []
        until = 0
        for span in sorted(self.all_spans()):
            if clusters and span[0] <= until:
                clusters[-1].append(span)
            else:
                clusters.append([span])
            until = max(until, span[1]) if len(clusters[-1]) > 1 else span[1]
        return clusters

    @staticmethod
    def chance(spans: Sequence[Span], shares: Callable[[Floats], Floats]) -> float:
        """Return how likely something that happens in time by ``shares`` fell into one of the gaps.

        ``shares(times)`` is the share that has happened by each of ``times``.
        """
        if not spans:
            return 0.0
        ends = np.array(spans, np.float64)
        return float(min(1.0, (shares(ends[:, 1]) - shares(ends[:, 0])).sum()))


def life_bounds(part: Columns, *, module: bool) -> NDArray[np.bool_]:
    """Return which events of one object end its life."""
    freed = part.ops == _FREE
    if not module:
        freed |= (part.ops == _PUT) & (part.counts == 0)
    return np.asarray(freed)
