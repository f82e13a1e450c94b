"""By what a task's kernel stack tells what it waits for.

Two kinds of evidence. The unwound frames have the lock as an argument or a local, where the compiler kept
it (DWARF says so or says that it is gone). And a task that sleeps has put a record of itself on its stack,
linked into the list of what it waits for: a ``struct mutex_waiter``, ``rwsem_waiter``, ``semaphore_waiter``,
``swait_queue`` or ``wait_queue_entry`` whose task is the task, whose neighbours point back at it, and whose
list leads to a head that is on no stack: the lock's (kernel/locking/mutex.c, rwsem.c, semaphore.c;
include/linux/swait.h, wait.h). The second needs no unwinding and no debug information but the types.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import drgn

from ktriage.dump.core import BROKEN
from ktriage.dump.waits_types import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.places import Places

MOST_WAITERS = 100_000
MOST_FRAMES = 128
USER_END = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Call:
    """One unwound frame: its function, where it will go on, and drgn's frame for its variables."""

    name: str
    pc: int
    sp: int
    inline: bool
    frame: drgn.StackFrame


@dataclass(frozen=True, slots=True)
class Record:
    """What a task put on its stack to be woken: ``type`` at ``address``, linked to ``lock`` (by ``how``)."""

    type: str
    address: int
    lock: int
    how: str


_RECORDS = (
    # type, its pointer to the task, its list, the lock's type, the lock's list
    ("mutex_waiter", "task", "list", "mutex", "wait_list"),
    ("rwsem_waiter", "task", "list", "rw_semaphore", "wait_list"),
    ("semaphore_waiter", "task", "list", "semaphore", "wait_list"),
    ("swait_queue", "task", "task_list", "swait_queue_head", "task_list"),
    ("wait_queue_entry", "private", "entry", "wait_queue_head", "head"),
)


@dataclass(frozen=True, slots=True)
class _Shape:
    type: str
    task: int
    list: int
    lock: str
    head: int


@cache
def _shapes(program: drgn.Program) -> tuple[_Shape, ...]:
    found = []
    for name, task, entries, lock, head in _RECORDS:
        try:
            record, locked = program.type(f"struct {name}"), program.type(f"struct {lock}")
            found.append(
                _Shape(
                    name,
                    record.member(task).bit_offset // 8,
                    record.member(entries).bit_offset // 8,
                    lock,
                    locked.member(head).bit_offset // 8,
                )
            )
        except LookupError:
            continue
    return tuple(found)


def unwind(program: drgn.Program, task: drgn.Object) -> list[Call]:
    """Return the calls on a task's kernel stack, innermost first; empty where it can't be unwound."""
    calls: list[Call] = []
    try:
        for frame in islice(program.stack_trace(task), MOST_FRAMES):
            if frame.pc <= USER_END:
                break
            calls.append(Call(frame.name, frame.pc, frame.sp, frame.is_inline, frame))
    except BROKEN:
        pass
    return calls


def stack_of(places: Places, task: drgn.Object) -> list[Call]:
    """Return ``unwind()`` of a task, worked out once."""
    address = task.value_()
    if address not in places.stacks:
        places.stacks[address] = unwind(places.program, task)
    return places.stacks[address]


def variable(calls: list[Call], function: str, *names: str) -> drgn.Object | None:
    """Return the first of the variables ``names`` that a frame of ``function`` still has."""
    for call in calls:
        if call.name != function:
            continue
        for name in names:
            try:
                value = call.frame[name]
                if not value.absent_:
                    return value
            except (*BROKEN, TypeError):
                continue
    return None


def records(places: Places, task: drgn.Object, kinds: frozenset[str] | None = None) -> list[Record]:
    """Return the records that ``task`` has on its stack and that hold up, lowest address (newest) first."""
    try:
        start, end = places.stack_bounds(task)
        pointer = int(task.thread.sp)
    except (*BROKEN, AttributeError):
        return []
    if not start <= pointer < end:
        return []
    data = places.read(pointer, (end - pointer) & ~7)
    if data is None:
        return []
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    address = task.value_()
    found: list[Record] = []
    for index, word in enumerate(words):
        if word == address:
            found += _records_at(places, pointer + 8 * index, (start, end), kinds)
    return found


def _records_at(
    places: Places, place: int, stack: tuple[int, int], kinds: frozenset[str] | None
) -> Iterator[Record]:
    """Yield what may have its pointer to the task at ``place``, where its list says so, too."""
    for shape in _shapes(places.program):
        if kinds is not None and shape.type not in kinds:
            continue
        record = place - shape.task
        node = record + shape.list
        following, before = places.word(node), places.word(node + 8)
        if not following or not before or following == node:
            continue
        if places.word(following + 8) != node or places.word(before) != node:
            continue
        head = _head(places, node, shape)
        if head is None:
            continue
        lock = head - shape.head
        if _holds_up(places, shape, lock, stack):
            yield Record(shape.type, record, lock, f"struct {shape.type} at {record:#x} on its stack")


def _head(places: Places, node: int, shape: _Shape) -> int | None:
    """Follow a list of waiters to the entry that is no waiter: the list's head in the lock."""
    seen, at = {node}, places.word(node)
    heads = [] if _is_waiter(places, node, shape) else [node]
    while at and at not in seen and len(seen) < MOST_WAITERS:
        seen.add(at)
        if not _is_waiter(places, at, shape):
            heads.append(at)
        at = places.word(at)
    return heads[0] if at == node and len(heads) == 1 else None


def _is_waiter(places: Places, node: int, shape: _Shape) -> bool:
    task = places.word(node - shape.list + shape.task)
    if shape.type == "wait_queue_entry":
        # A poller's record is elsewhere, and its private is no task: it has a function to wake it.
        function = places.word(node - shape.list + 16)
        return bool(function) and not places.code(function or 0).name.startswith("0x")
    return bool(task) and places.is_task(task or 0)


def _holds_up(places: Places, shape: _Shape, lock: int, stack: tuple[int, int]) -> bool:
    """Check what can be checked of the lock that a list leads to."""
    if lock % 8:
        return False
    if shape.lock == "mutex":
        owner = places.word(lock)
        # MUTEX_FLAG_WAITERS is set while there are waiters (kernel/locking/mutex.c).
        return owner is not None and bool(owner & 1) and (owner < 8 or places.task(owner & ~7) is not None)
    if shape.lock in ("swait_queue_head", "wait_queue_head"):
        return True
    return not stack[0] <= lock < stack[1]


FUNCTIONS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.MUTEX, ("__mutex_lock", "__mutex_lock_common", "__ww_mutex_lock", "mutex_lock")),
    (Kind.RWSEM_READ, ("rwsem_down_read_slowpath",)),
    (Kind.RWSEM_WRITE, ("rwsem_down_write_slowpath",)),
    (Kind.SEMAPHORE, ("__down_common", "___down_common", "__down")),
    (Kind.RCU_BARRIER, ("rcu_barrier", "_rcu_barrier", "srcu_barrier", "rcu_barrier_tasks")),
    (
        Kind.GRACE_PERIOD,
        (
            "synchronize_rcu",
            "synchronize_rcu_normal",
            "synchronize_rcu_expedited",
            "__wait_rcu_gp",
            "wait_rcu_exp_gp",
            "__synchronize_srcu",
            "synchronize_rcu_tasks",
            "synchronize_rcu_tasks_generic",
        ),
    ),
    (Kind.WORK, ("__flush_work", "flush_work", "__cancel_work_sync", "__cancel_work_timer")),
    (Kind.WORKQUEUE, ("__flush_workqueue", "flush_workqueue", "drain_workqueue")),
    (Kind.KTHREAD_STOP, ("kthread_stop",)),
    (
        Kind.PAGE,
        ("folio_wait_bit_common", "__folio_lock", "wait_on_page_bit", "__lock_page", "folio_wait_bit"),
    ),
    (Kind.NETDEV, ("netdev_wait_allrefs_any", "netdev_wait_allrefs")),
    (Kind.IO, ("io_schedule", "io_schedule_timeout", "bit_wait_io", "blk_mq_get_tag", "wait_on_buffer")),
    (Kind.COMPLETION, ("__wait_for_common", "do_wait_for_common", "wait_for_completion")),
    (Kind.SLEEP, ("msleep", "schedule_timeout_uninterruptible", "usleep_range_state")),
)
"""By which functions on the stack a wait is known; the names have been these for most of Linux 4 to 6.

The first kind that fits within the innermost frames is taken, but for completions, page waits and sleeps,
which others are made of: there the frames outside of them are looked at, too.
"""
_BY_NAME = {name: kind for kind, names in FUNCTIONS for name in names}
_MADE_OF = frozenset({Kind.COMPLETION, Kind.SLEEP, Kind.IO})
_AROUND = 4
"""How many calls outside of a completion may say what it is for."""


def known_kind(calls: list[Call]) -> tuple[Kind, str] | None:
    """Return what the functions on a stack say that it waits for, and the function that says so."""
    inner: tuple[Kind, str] | None = None
    real = 0
    for call in calls:
        kind = _BY_NAME.get(call.name.partition(".")[0])
        if kind is not None and kind not in _MADE_OF:
            if kind is Kind.MUTEX and real > _AROUND and inner is None:
                break
            return kind, call.name
        if kind is not None and inner is None:
            inner, real = (kind, call.name), 0
        real += not call.inline
        if real > (_AROUND if inner else 2 * _AROUND):
            break
    return inner
