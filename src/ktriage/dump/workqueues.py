"""The kernel's workqueues: pools, their workers, and the works that wait or run.

As of kernel/workqueue.c: each pool has a list of works that no worker has taken yet, its workers, and each
worker a work that it runs and a list of works that it has to run next (barriers of those that flush the
work it runs are there). Works above a workqueue's max_active wait in the ``pool_workqueue``, inactive_works
(delayed_works before commit f97a4a1a3f87, Linux 5.15).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.idr import idr_for_each

from ktriage.dump.core import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.places import Places, TaskRef

MOST_POOLS = 100_000
MOST_QUEUES = 100_000
PF_WQ_WORKER = 0x00000020
"""include/linux/sched.h"""
FLAG_BITS = 8
"""How many low bits of work_struct.data are no address, where debug information has no constant for it."""
WORK_STRUCT_PWQ = 1 << 2
"""work_struct.data has the address of a pool_workqueue (include/linux/workqueue.h)."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A work as a workqueue has it.

    ``state`` is ``running``, ``scheduled`` (next for ``worker``), ``pending`` or ``inactive`` (above
    max_active). ``dead`` says that the worker's task has died while it ran this: ``worker_name`` is what it
    was called.
    """

    address: int
    function: int
    state: str
    workqueue: str | None
    pool: int | None
    cpu: int | None
    worker: int | None = None
    task: TaskRef | None = None
    task_address: int = 0
    worker_name: str = ""
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool of workers. ``idle_seconds`` have passed since it last made progress (took a work)."""

    id: int
    address: int
    cpu: int
    workers: int
    idle: int
    running: int
    pending: int
    seconds: float | None


@dataclass(slots=True)
class Workqueues:
    """Everything that is queued, and the pools."""

    works: list[Queued] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)

    @property
    def dead(self) -> list[Queued]:
        """Works whose workers have died while they ran them."""
        return [queued for queued in self.works if queued.dead]


class _Reader:
    def __init__(self, places: Places) -> None:
        self.places = places
        self.program = places.program
        self.found = Workqueues()
        offset = places.offset
        self.entry = offset("struct work_struct", "entry") or 8
        self.func = offset("struct work_struct", "func") or 24
        self.address = -1 << _flag_bits(self.program)

    def read(self) -> Workqueues:
        try:
            pools = [
                drgn.Object(self.program, "struct worker_pool *", entry.value_())
                for _, entry in islice(
                    idr_for_each(self.program["worker_pool_idr"].address_of_()), MOST_POOLS
                )
            ]
        except BROKEN as error:
            self.places.notes.append(f"the pools of workers can't be read: {error}")
            pools = []
        for pool in pools:
            try:
                self._pool(pool)
            except BROKEN as error:
                self.places.notes.append(f"the pool of workers at {pool.value_():#x}: {error}")
        self._inactive()
        return self.found

    def _pool(self, pool: drgn.Object) -> None:
        number, cpu = int(pool.id), int(pool.cpu)
        workers = [
            drgn.container_of(self._node(node), "struct worker", "node")
            for node in self.places.entries(pool.workers.address_of_().value_(), f"workers of pool {number}")
        ]
        for worker in workers:
            try:
                self._worker(worker, number, cpu)
            except BROKEN as error:
                self.places.notes.append(f"the worker at {worker.value_():#x}: {error}")
        pending = list(self._works(pool.worklist.address_of_().value_(), "pending", number, cpu))
        self.found.works += pending
        self.found.pools.append(
            Pool(
                id=number,
                address=pool.value_(),
                cpu=cpu,
                workers=len(workers),
                idle=int(pool.nr_idle),
                running=_counter(pool.nr_running),
                pending=len(pending),
                seconds=self._since(pool),
            )
        )

    def _node(self, address: int) -> drgn.Object:
        return drgn.Object(self.program, "struct list_head *", address)

    def _since(self, pool: drgn.Object) -> float | None:
        try:
            stamp = int(pool.watchdog_ts)
        except (*BROKEN, AttributeError):
            return None
        return max(self.places.jiffies - stamp, 0) * self.places.tick if stamp else None

    def _worker(self, worker: drgn.Object, pool: int, cpu: int) -> None:
        address = worker.task.value_()
        task = self.places.task(address)
        work = worker.current_work.value_()
        if work:
            nice = int(worker.pool.attrs.nice) if worker.pool else 0
            self.found.works.append(
                Queued(
                    address=work,
                    function=worker.current_func.value_(),
                    state="running",
                    workqueue=self._queue_name(worker.current_pwq),
                    pool=pool,
                    cpu=cpu,
                    worker=worker.value_(),
                    task=task,
                    task_address=address,
                    worker_name=_name(pool, cpu, int(worker.id), nice),
                    dead=bool(address) and not self._is_worker(address),
                )
            )
        head = worker.scheduled.address_of_().value_()
        self.found.works += self._works(head, "scheduled", pool, cpu, worker.value_(), task)

    def _is_worker(self, address: int) -> bool:
        """Tell whether a worker's task is alive, and not another in the same memory."""
        if not self.places.is_task(address):
            return False
        return bool(int(drgn.Object(self.program, "struct task_struct *", address).flags) & PF_WQ_WORKER)

    def _queue_name(self, pwq: drgn.Object) -> str | None:
        try:
            return pwq.wq.name.string_().decode(errors="replace") if pwq else None
        except BROKEN:
            return None

    def _works(
        self,
        head: int,
        state: str,
        pool: int | None,
        cpu: int | None,
        worker: int | None = None,
        task: TaskRef | None = None,
    ) -> Iterator[Queued]:
        for node in self.places.entries(head, f"{state} works"):
            work = node - self.entry
            data = self.places.word(work) or 0
            name = None
            if data & WORK_STRUCT_PWQ:
                pwq = drgn.Object(self.program, "struct pool_workqueue *", data & self.address)
                name = self._queue_name(pwq)
            function = self.places.word(work + self.func) or 0
            yield Queued(work, function, state, name, pool, cpu, worker, task)

    def _inactive(self) -> None:
        head = self.places.symbol_address("workqueues")
        link = self.places.offset("struct workqueue_struct", "list")
        pwqs = self.places.offset("struct workqueue_struct", "pwqs")
        node = self.places.offset("struct pool_workqueue", "pwqs_node")
        inactive = self.places.offset("struct pool_workqueue", "inactive_works")
        if inactive is None:
            inactive = self.places.offset("struct pool_workqueue", "delayed_works")
        if head is None or None in (link, pwqs, node, inactive):
            return
        assert link is not None
        assert pwqs is not None
        assert node is not None
        assert inactive is not None
        for entry in islice(self.places.entries(head, "workqueues"), MOST_QUEUES):
            for found in self.places.entries(entry - link + pwqs, "a workqueue's pool_workqueues"):
                self.found.works += self._works(found - node + inactive, "inactive", None, None)


def _flag_bits(program: drgn.Program) -> int:
    """Return how many low bits of a work's data are flags; one more with CONFIG_DEBUG_OBJECTS_WORK."""
    # Renamed by commit afa4bb778e48 (Linux 6.10).
    for name in ("WORK_STRUCT_PWQ_SHIFT", "WORK_STRUCT_FLAG_BITS"):
        try:
            return int(program.constant(name))
        except LookupError:
            continue
    return FLAG_BITS


def _name(pool: int, cpu: int, worker: int, nice: int) -> str:
    """Return a worker's name as create_worker() makes it."""
    return f"kworker/{cpu}:{worker}{'H' if nice < 0 else ''}" if cpu >= 0 else f"kworker/u{pool}:{worker}"


def _counter(value: drgn.Object) -> int:
    """Return nr_running, which was an atomic_t before commit bc35f7ef9628 (Linux 6.0)."""
    try:
        return int(value)
    except TypeError:
        return int(value.counter)


def read_workqueues(places: Places) -> Workqueues:
    """Return all pools, and all works that wait or run; what can't be read is in ``places.notes``."""
    return _Reader(places).read()
