"""How far the CPUs' clocks differ, found from the counts that were printed.

The order on one CPU is sure, and so is that each count follows from the one before. A trace's ``local``
clock (and any on hardware whose TSCs differ) may be off between CPUs by a constant: the offsets looked for
are those at which the counts follow most often.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from ktriage.refs.columns import Columns, Ints, breaks

_SAMPLE = 3_000
_WRONG = 0.01
_BETTER = 0.6
_STEPS_NS = tuple(int(1_000 * 1.6**step) for step in range(21))
"""Offsets tried: 1 us to 12 ms."""
_ROUNDS = 3
_MANY_CPUS = 8


def offsets(part: Columns, floor: int) -> dict[int, int]:
    """Return by CPU the nanoseconds to add to its times; {} where none help."""
    part = part.taken(np.arange(min(len(part), _SAMPLE)))
    cpus = np.unique(part.cpus).tolist()
    if len(cpus) < 2 or len(part) < 50:
        return {}
    found = dict.fromkeys(cpus, 0)
    first = least = _broken(part, found, floor)
    if first < _WRONG * len(part):
        return {}
    for turn in range(_ROUNDS):
        for together in _sets(cpus[1:]):
            start = found
            for step in _tried(part, turn):
                again = start | {cpu: start[cpu] + step for cpu in together}
                broken = _broken(part, again, floor)
                if broken < least:
                    found, least = again, broken
        if least < _WRONG * len(part):
            break
    return found if least < _BETTER * first else {}


def _sets(cpus: list[int]) -> list[tuple[int, ...]]:
    """Return which CPUs to move together: each, and those of another package with it."""
    sets: list[tuple[int, ...]] = [(cpu,) for cpu in cpus]
    if len(cpus) < _MANY_CPUS:
        sets += [*combinations(cpus, 2)]
        sets.append(tuple(cpus))
    return sets


def _tried(part: Columns, turn: int) -> list[int]:
    """Return the offsets to try: first about the spacing of the events, then finer ones too."""
    spacing = (int(part.times.max()) - int(part.times.min())) // len(part) if len(part) else 0
    coarse = [step for step in _STEPS_NS if turn or step >= spacing // 8]
    return [sign * step for step in coarse for sign in (1, -1)]


def shifted(times: Ints, cpus: Ints, found: dict[int, int]) -> Ints:
    """Return the times with the offsets added."""
    moved = times.copy()
    for cpu, step in found.items():
        if step:
            moved[cpus == cpu] += step
    return moved


def _broken(part: Columns, found: dict[int, int], floor: int) -> int:
    order = np.argsort(shifted(part.times, part.cpus, found), kind="stable")
    return int(breaks(part.counts[order], part.ops[order], int(part.counts[order[0]]), floor=floor)[1:].sum())
