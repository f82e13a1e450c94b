"""The timers that are armed: the wheels of each CPU, and the high-resolution ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu

from ktriage.dump.core import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.places import Places

MOST_TIMERS = 1_000_000
DELAYED_WORK = "delayed_work_timer_fn"
"""The function of a delayed work's timer (kernel/workqueue.c)."""


@dataclass(frozen=True, slots=True)
class Timer:
    """A ``timer`` or ``hrtimer`` that is armed, and comes in ``seconds`` (None: not known), or runs now."""

    address: int
    function: int
    kind: str
    cpu: int
    seconds: float | None
    running: bool = False


def read_timers(places: Places) -> list[Timer]:
    """Return all armed timers; what can't be read is in ``places.notes``."""
    found: list[Timer] = []
    try:
        cpus = list(for_each_possible_cpu(places.program))
    except BROKEN as error:
        places.notes.append(f"the CPUs can't be read: {error}")
        cpus = [0]
    for cpu in cpus:
        for read in (_wheel, _high_resolution):
            try:
                found += islice(read(places, cpu), MOST_TIMERS)
            except (*BROKEN, AttributeError) as error:
                places.notes.append(f"the timers of CPU {cpu}: {str(error) or type(error).__name__}")
    return found


def _wheel(places: Places, cpu: int) -> Iterator[Timer]:
    """Yield the timers of a CPU's wheels, by plain reads: there are 576 buckets to a wheel."""
    bases = per_cpu(places.program["timer_bases"], cpu)
    vectors = places.offset("struct timer_base", "vectors")
    entry = places.offset("struct timer_list", "entry") or 0
    if vectors is None:
        return
    for base in bases:
        if base.running_timer:
            yield replace(_timer(places, base.running_timer.value_(), cpu), seconds=None, running=True)
        count = len(base.vectors)
        heads = places.read(base.address_ + vectors, 8 * count)
        if heads is None:
            places.notes.append(f"the timers of CPU {cpu} are missing from the dump")
            continue
        for at in range(0, len(heads), 8):
            if heads[at : at + 8] != bytes(8):  # most are empty: one read for all of them
                for node in places.linked(base.address_ + vectors + at, 0, f"the timers of CPU {cpu}"):
                    yield _timer(places, node - entry, cpu)


def _timer(places: Places, address: int, cpu: int) -> Timer:
    expires = places.word(address + (places.offset("struct timer_list", "expires") or 16))
    function = places.word(address + (places.offset("struct timer_list", "function") or 24)) or 0
    # jiffies wrap: what is compared is the difference, as time_after() does it.
    ticks = None if expires is None else (expires - places.jiffies + (1 << 63)) % (1 << 64) - (1 << 63)
    return Timer(address, function, "timer", cpu, None if ticks is None else ticks * places.tick)


def _high_resolution(places: Places, cpu: int) -> Iterator[Timer]:
    for base in per_cpu(places.program["hrtimer_bases"], cpu).clock_base:
        if base.running:
            yield _hrtimer(places, base.running.value_(), cpu, running=True)
        root = base.active.rb_root.rb_root.rb_node.value_()
        for node in _tree(places, root, cpu):
            yield _hrtimer(places, node, cpu)


def _tree(places: Places, root: int, cpu: int) -> Iterator[int]:
    """Yield the nodes of a red-black tree, also of one that freed memory has torn."""
    left = places.offset("struct rb_node", "rb_left") or 16
    right = places.offset("struct rb_node", "rb_right") or 8
    seen: set[int] = set()
    todo = [root] if root else []
    while todo and len(seen) < MOST_TIMERS:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        children = [places.word(node + left), places.word(node + right)]
        if None in children:
            places.notes.append(f"the high-resolution timers of CPU {cpu}: {node:#x} can't be read")
            continue
        yield node
        todo += [child for child in children if child]


def _hrtimer(places: Places, address: int, cpu: int, *, running: bool = False) -> Timer:
    # The node comes first: struct hrtimer.node.node (include/linux/hrtimer.h).
    function = places.word(address + (places.offset("struct hrtimer", "function") or 40)) or 0
    return Timer(address, function, "hrtimer", cpu, None, running)


def delayed_work(places: Places, timer: Timer) -> drgn.Object | None:
    """Return the ``struct delayed_work *`` that a timer is part of; None where it is of no delayed work."""
    if timer.function != places.symbol_address(DELAYED_WORK):
        return None
    offset = places.offset("struct delayed_work", "timer")
    if offset is None:
        return None
    return drgn.Object(places.program, "struct delayed_work *", timer.address - offset)
