"""Works and timers that wait or run: whose they are, in what memory, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import drgn

from ktriage.dump.core import BROKEN
from ktriage.dump.places import Code, Places, Slab, TaskRef, places_of
from ktriage.dump.timers import Timer, delayed_work, read_timers
from ktriage.dump.waits_types import task_json
from ktriage.dump.workqueues import Pool, Queued, read_workqueues

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.core import Vmcore

STALLED_SECONDS = 3.0
"""A pool with works to do that has taken none for this long is stalled; the kernel's own watchdog, where it
is compiled in, waits 30 s (workqueue.watchdog_thresh)."""


@dataclass(frozen=True, slots=True)
class Callback:
    """A work or timer that waits or runs.

    ``kind`` is ``work``, ``delayed work``, ``timer`` or ``hrtimer``; ``state`` is ``running``,
    ``scheduled``, ``pending``, ``inactive`` (above the workqueue's max_active) or ``armed``. ``seconds``
    is until a timer comes, below zero where it is late. ``wrong`` says what is wrong with it; an empty one
    is as it should be.
    """

    kind: str
    state: str
    address: int
    function: Code
    workqueue: str | None = None
    cpu: int | None = None
    task: TaskRef | None = None
    seconds: float | None = None
    object: Slab | None = None
    wrong: tuple[str, ...] = ()
    worker: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... works`` prints for it."""
        return {
            "kind": "callback",
            "type": self.kind,
            "state": self.state,
            "address": self.address,
            "function": self.function.name,
            "function_address": self.function.address,
            "module": self.function.module,
            "workqueue": self.workqueue,
            "cpu": self.cpu,
            "task": task_json(self.task) if self.task else None,
            "worker": self.worker,
            "seconds": self.seconds,
            "cache": self.object.cache if self.object else None,
            "object": self.object.address if self.object else None,
            "free": self.object.free if self.object else None,
            "wrong": list(self.wrong),
        }


@dataclass(frozen=True, slots=True)
class StalledPool:
    """A pool of workers with works to do that makes no progress; ``says`` why, where that can be told."""

    pool: Pool
    says: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... works`` prints for it."""
        return {
            "kind": "stalled-pool",
            "pool": self.pool.id,
            "cpu": self.pool.cpu,
            "pending": self.pool.pending,
            "seconds": self.pool.seconds,
            "says": self.says,
        }


@dataclass(frozen=True, slots=True)
class Works:
    """All works and timers of a dump, and the pools that are stalled."""

    callbacks: tuple[Callback, ...]
    stalled: tuple[StalledPool, ...]

    @property
    def wrong(self) -> tuple[Callback, ...]:
        """Those with which something is wrong."""
        return tuple(callback for callback in self.callbacks if callback.wrong)


def find_works(core: Vmcore) -> Works:
    """Return the works and timers; what can't be read is in ``core.notes``.

    Who queued a work is nothing that the kernel records, but for KASAN's reports.
    """
    places = places_of(core.program)
    queues = read_workqueues(places)
    callbacks = [_work(places, queued) for queued in queues.works if not _barrier(places, queued)]
    callbacks += [_timed(places, timer) for timer in read_timers(places)]
    stalled = tuple(_stalled(places, queues.pools, queues.works))
    core.notes += [note for note in places.notes if note not in core.notes]
    return Works(tuple(callbacks), stalled)


def _barrier(places: Places, queued: Queued) -> bool:
    """Tell whether a work is a flusher's own marker: that is a wait, not a work."""
    return queued.function == places.symbol_address("wq_barrier_func")


def _work(places: Places, queued: Queued) -> Callback:
    function, slab = places.code(queued.function), places.memory(queued.address)
    wrong = list(_wrong(places, function, slab))
    if queued.dead:
        who = f"{queued.worker_name}, the worker that ran it, is dead"
        wrong.insert(0, f"{who}: it never ends, and whoever flushes it waits for ever")
    return Callback(
        kind="work",
        state=queued.state,
        address=queued.address,
        function=function,
        workqueue=queued.workqueue,
        cpu=queued.cpu if queued.cpu is None or queued.cpu >= 0 else None,
        task=None if queued.dead else queued.task,
        object=slab,
        wrong=tuple(wrong),
        worker=queued.worker_name or None,
    )


def _timed(places: Places, timer: Timer) -> Callback:
    work = delayed_work(places, timer)
    address, function, queue, kind = timer.address, timer.function, None, timer.kind
    if work is not None:
        kind, address = "delayed work", work.value_()
        try:
            function = work.work.func.value_()
            queue = work.wq.name.string_().decode(errors="replace") if work.wq else None
        except BROKEN:
            function = 0
    code, slab = places.code(function), places.memory(address)
    return Callback(
        kind=kind,
        state="running" if timer.running else "armed",
        address=address,
        function=code,
        workqueue=queue,
        cpu=timer.cpu,
        seconds=timer.seconds,
        object=slab,
        wrong=tuple(_wrong(places, code, slab)),
    )


def _wrong(places: Places, function: Code, slab: Slab | None) -> Iterator[str]:
    if slab is not None and slab.free:
        yield f"it is inside of a freed object ({slab.cache} at {slab.address:#x})"
    if function.gone:
        last = last_unloaded(places)
        said = f"; the module unloaded last is {last}" if last else ""
        yield f"its function {function.address:#x} is in no module: the module that it was in is gone{said}"
    elif function.module is None and function.name.startswith("0x"):
        # A freed object's content is another's by now, and so is the function.
        yield f"its function {function.address:#x} is no code: the memory has been overwritten"
    elif function.module is not None:
        module = places.module(function.module)
        if module is not None and module.state == "going":
            yield f"its module {module.name} is being removed"


def last_unloaded(places: Places) -> str | None:
    """Return the name of the module that was unloaded last; None where none was, or it can't be told."""
    try:
        value = places.program["last_unloaded_module"]
        # A struct with the taints beside it since commit 14dc8b8bd6dd (Linux 5.20, released as 6.0).
        name = value.name if value.type_.kind == drgn.TypeKind.STRUCT else value
        return str(name.string_().decode(errors="replace")) or None
    except (*BROKEN, AttributeError):
        return None


def _stalled(places: Places, pools: list[Pool], works: list[Queued]) -> Iterator[StalledPool]:
    for pool in pools:
        dead = next((queued for queued in works if queued.dead and queued.pool == pool.id), None)
        if not pool.pending or pool.seconds is None:
            continue
        if dead is not None and pool.running > 0:
            # A bound pool starts no worker while it believes that one runs (nr_running).
            yield StalledPool(
                pool,
                f"its worker {dead.worker_name} died in {places.code(dead.function)} and still counts as "
                f"running: the pool starts no other, and {pool.pending} works wait",
            )
        elif pool.seconds >= STALLED_SECONDS:
            yield StalledPool(pool, _why(places, pool, works))


def _why(places: Places, pool: Pool, works: list[Queued]) -> str:
    running = [queued for queued in works if queued.pool == pool.id and queued.state == "running"]
    says = f"{pool.pending} works wait, and none was taken for {pool.seconds or 0:.0f} s"
    busy = ", ".join(f"{queued.task} runs {places.code(queued.function)}" for queued in running)
    return f"{says}; {busy}" if busy else says
