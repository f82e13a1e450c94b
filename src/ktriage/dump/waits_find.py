"""What one blocked task waits for, and who must act: a function for each kind of wait."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.kthread import to_kthread

from ktriage.dump.core import BROKEN
from ktriage.dump.grace import barrier, grace_period
from ktriage.dump.log import log_text, read_log
from ktriage.dump.waits_stack import Call, Record, known_kind, records, stack_of, variable
from ktriage.dump.waits_types import Kind, TaskRef
from ktriage.dump.workqueues import Queued, Workqueues, read_workqueues

if TYPE_CHECKING:
    from ktriage.dump.places import Places

RWSEM_WRITER_LOCKED = 1
RWSEM_READERS = 8
"""Bits of rw_semaphore.count since commit 64489e78004c (Linux 5.3): a writer, and readers from bit 8 on."""
OWNER_FLAGS = 7


@dataclass(slots=True)
class Found:
    """What is known of a wait so far."""

    kind: Kind
    what: str = ""
    address: int | None = None
    holders: list[TaskRef] = field(default_factory=list)
    actor: str | None = None
    evidence: list[str] = field(default_factory=list)


class Finder:
    """Answers for all tasks of a dump what they wait for."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.program = places.program

    @cached_property
    def queues(self) -> Workqueues:
        """The workqueues, read once."""
        return read_workqueues(self.places)

    @cached_property
    def running(self) -> dict[int, Queued]:
        """The works that run, by the addresses of their workers' tasks."""
        return {q.task_address: q for q in self.queues.works if q.state == "running" and not q.dead}

    @cached_property
    def gone(self) -> dict[int, TaskRef]:
        """Workers that have died while they ran a work, by the address of their task_struct.

        Its memory may have been another task's since: the name is made of the worker's numbers, as
        create_worker() does it, the pid is what the log says of it (0 where it does not).
        """
        names = {queued.task_address: queued.worker_name for queued in self.queues.dead}
        log = self._log if names else ""
        found = {}
        for address, name in names.items():
            # "CPU: 0 PID: 44 Comm: kworker/0:2" of the oops that it died of.
            pid = re.search(rf"PID: (\d+) Comm: {re.escape(name)}\b", log)
            found[address] = TaskRef(int(pid[1]) if pid else 0, name, address, "X", dead=True)
        return found

    @cached_property
    def _log(self) -> str:
        try:
            return log_text(read_log(self.program))
        except BROKEN:
            return ""

    def calls(self, task: drgn.Object) -> list[Call]:
        """Return the unwound stack of ``task``."""
        return stack_of(self.places, task)

    def find(self, task: drgn.Object, calls: list[Call]) -> Found:
        """Return what ``task`` waits for, as far as its stack and the lists it is on tell."""
        known = known_kind(calls)
        found = Found(known[0] if known else Kind.UNKNOWN)
        if known:
            found.evidence.append(f"{known[1]}() on its stack")
        try:
            _Asked(self, task, calls, found).ask()
        except (*BROKEN, AttributeError, TypeError) as error:
            found.evidence.append(f"not read to the end: {str(error) or type(error).__name__}")
        return found

    def task(self, address: int) -> TaskRef | None:
        """Return the task at ``address``, a worker that has died by its own name."""
        return self.gone.get(address) or self.places.task(address)


@dataclass(slots=True)
class _Asked:
    """One task that is asked; ``found`` is filled in."""

    finder: Finder
    task: drgn.Object
    calls: list[Call]
    found: Found

    @property
    def places(self) -> Places:
        return self.finder.places

    @property
    def program(self) -> drgn.Program:
        return self.finder.program

    def variable(self, function: str, *names: str) -> drgn.Object | None:
        return variable(self.calls, function, *names)

    def ask(self) -> None:
        match self.found.kind:
            case Kind.RWSEM_READ | Kind.RWSEM_WRITE:
                self._rwsem()
            case Kind.IO | Kind.SLEEP:
                self._elsewhere()
            case Kind.UNKNOWN | Kind.WAIT_QUEUE:
                self._by_record()
            case kind:
                functions = {
                    Kind.MUTEX: self._mutex,
                    Kind.SEMAPHORE: self._semaphore,
                    Kind.COMPLETION: self._completion,
                    Kind.RCU_BARRIER: self._rcu_barrier,
                    Kind.GRACE_PERIOD: self._grace_period,
                    Kind.WORK: self._work,
                    Kind.WORKQUEUE: self._workqueue,
                    Kind.KTHREAD_STOP: self._kthread_stop,
                    Kind.PAGE: self._page,
                    Kind.NETDEV: self._netdev,
                }
                functions[kind]()

    def _record(self, kind: str) -> Record | None:
        for record in records(self.places, self.task, frozenset({kind})):
            self.found.evidence.append(record.how)
            return record
        return None

    def _lock(self, record: str, *names: tuple[str, str]) -> int | None:
        """Find a lock's address by the record on the stack and by the frames' variables, and name it."""
        seen = self._record(record)
        address = seen.lock if seen else None
        for function, name in names:
            value = self.variable(function, name)
            if value is not None and value.value_():
                if address in (None, value.value_()):
                    self.found.evidence.append(f"{name} of {function}() is {value.value_():#x}")
                address = address or value.value_()
                break
        if address is not None:
            self.found.address, self.found.what = address, self.places.name(address)
        return address

    def _by_record(self) -> None:
        """Name a wait by what is on the stack alone: it could not be unwound, or no function is known."""
        where = _outside(self.calls, self.places)
        if where:
            self.found.what = f"in {where}()"
            self.found.evidence.append(f"{where}() on its stack")
        for record in records(self.places, self.task):
            kind = _RECORD_KINDS.get(record.type)
            if kind is None or (self.calls and kind is not Kind.WAIT_QUEUE):
                continue
            self.found.kind, self.found.address = kind, record.lock
            self.found.what = self.places.name(record.lock)
            self.found.evidence.append(record.how)
            if kind is Kind.MUTEX:
                self._owner(record.lock)
            return

    def _owner(self, lock: int) -> None:
        owner = (self.places.word(lock) or 0) & ~OWNER_FLAGS
        if not owner:
            self.found.evidence.append("its owner is 0: it is being handed over")
            return
        holder = self.finder.task(owner)
        if holder is None:
            self.found.actor = f"its owner {owner:#x} is no task: the task is gone, or the lock overwritten"
        else:
            self.found.holders.append(holder)
            self.found.evidence.append(f"its owner is {owner:#x}")

    def _mutex(self) -> None:
        lock = self._lock("mutex_waiter",
            ("__mutex_lock_common", "lock"), ("__mutex_lock", "lock"), ("mutex_lock", "lock"),
        )  # fmt: skip
        if lock is not None:
            self._owner(lock)

    def _rwsem(self) -> None:
        lock = self._lock("rwsem_waiter",
            ("rwsem_down_read_slowpath", "sem"), ("rwsem_down_write_slowpath", "sem"),
            ("down_read", "sem"), ("down_write", "sem"),
        )  # fmt: skip
        if lock is None:
            return
        semaphore = drgn.Object(self.program, "struct rw_semaphore *", lock)
        count = int(semaphore.count.counter)
        owner = self.places.word(semaphore.owner.address_of_().value_()) or 0
        holder = self.finder.task(owner & ~OWNER_FLAGS)
        if count & RWSEM_WRITER_LOCKED:
            self.found.evidence.append("a writer has it")
        else:
            self.found.evidence.append(f"{count >> RWSEM_READERS} read it; its owner is the last who came")
        if holder is not None:
            self.found.holders.append(holder)

    def _semaphore(self) -> None:
        self._lock("semaphore_waiter", ("__down_common", "sem"), ("__down", "sem"))
        self.found.actor = "a semaphore does not record who took it"

    def _completion(self) -> None:
        address = self._completed()
        if address is None:
            return
        self.found.address, self.found.what = address, self.places.name(address)
        owner = self.places.stack_owner(address)
        if owner is not None and owner.address == self.task.value_():
            self.found.what = f"a completion on its own stack, in {_outside(self.calls, self.places)}()"

    def _completed(self) -> int | None:
        offset = self.places.offset("struct completion", "wait") or 8
        record = self._record("swait_queue")
        if record is not None:
            return record.lock - offset
        # Before commit a5c6234e1028 (Linux 5.7) completions used ordinary wait queues.
        record = self._record("wait_queue_entry")
        if record is not None:
            return record.lock - offset
        value = self.variable("wait_for_completion", "x") or self.variable("__wait_for_common", "x")
        if value is None or not value.value_():
            return None
        self.found.evidence.append(f"x of wait_for_completion() is {value.value_():#x}")
        return int(value.value_())

    def _rcu_barrier(self) -> None:
        self._completed()
        cpus = barrier(self.places).cpus
        grace = grace_period(self.places)
        self.found.what = "callbacks of RCU"
        if cpus:
            self.found.what += " on " + ", ".join(f"CPU {cpu} ({count} queued)" for cpu, count in cpus)
        self.found.holders += [holder for holder in grace.holders if holder.address != self.task.value_()]
        self.found.actor = grace.says()

    def _grace_period(self) -> None:
        grace = grace_period(self.places)
        self.found.what = "a grace period of RCU"
        self.found.holders += [holder for holder in grace.holders if holder.address != self.task.value_()]
        self.found.actor = grace.says()

    def _work(self) -> None:
        target = self.variable("__flush_work", "work")
        if target is not None and target.value_():
            self.found.address = target.value_()
            self.found.evidence.append(f"work of __flush_work() is {target.value_():#x}")
        start, end = self.places.stack_bounds(self.task)
        for queued in self.finder.queues.works:
            if start <= queued.address < end:
                self._barrier(queued)
                return
        function = self.places.word(self.found.address + 24) if self.found.address else None
        if function:
            self.found.what = str(self.places.code(function))

    def _barrier(self, queued: Queued) -> None:
        """Take in a flusher's ``wq_barrier``, which is queued behind the work that it waits for."""
        self.found.evidence.append(f"its struct wq_barrier at {queued.address:#x} is {queued.state}")
        running = next(
            (q for q in self.finder.queues.works if q.worker == queued.worker and q.state == "running"), None
        )
        if queued.state == "scheduled" and running is not None:
            self.found.address, self.found.what = running.address, str(self.places.code(running.function))
            if running.task is not None:
                self.found.holders.append(self.finder.gone.get(running.task_address, running.task))
        else:
            self.found.actor = f"no worker of pool {queued.pool} has taken the work yet"

    def _workqueue(self) -> None:
        value = self.variable("__flush_workqueue", "wq") or self.variable("drain_workqueue", "wq")
        if value is None or not value.value_():
            value = self._flushed()
        if value is None:
            return
        name = value.name.string_().decode(errors="replace")
        self.found.address, self.found.what = value.value_(), f"workqueue {name}"
        running = [q for q in self.finder.queues.works if q.workqueue == name and q.state == "running"]
        for queued in running:
            self.found.evidence.append(f"{self.places.code(queued.function)} runs in it")
            if queued.task is not None and queued.task.address != self.task.value_():
                self.found.holders.append(self.finder.gone.get(queued.task_address, queued.task))

    def _flushed(self) -> drgn.Object | None:
        """Return the workqueue whose list of flushers leads to this task's stack."""
        start, end = self.places.stack_bounds(self.task)
        head, link = (
            self.places.symbol_address("workqueues"),
            self.places.offset("struct workqueue_struct", "list"),
        )
        if head is None or link is None:
            return None
        for entry in self.places.entries(head, "workqueues"):
            queue = drgn.Object(self.program, "struct workqueue_struct *", entry - link)
            if start <= queue.first_flusher.value_() < end:
                return queue
        return None

    def _kthread_stop(self) -> None:
        address = self._completed()
        for thread in self.places.tasks():
            try:
                if to_kthread(thread).exited.address_of_().value_() == address:
                    holder = self.places.task(thread.value_())
                    break
            except (*BROKEN, AttributeError):
                continue
        else:
            value = self.variable("kthread_stop", "k")
            holder = self.places.task(value.value_()) if value is not None else None
        if holder is not None:
            self.found.address, self.found.what = holder.address, f"thread {holder}"
            self.found.holders.append(holder)

    def _page(self) -> None:
        value = self.variable("folio_wait_bit_common", "folio")
        if value is not None and value.value_():
            self.found.address, self.found.what = value.value_(), f"folio {value.value_():#x}"
        self.found.actor = "a page does not record who locked it"

    def _netdev(self) -> None:
        head = self.variable("netdev_wait_allrefs_any", "list")
        device = self.variable("netdev_wait_allrefs", "dev")
        if head is not None and head.value_():
            first = self.places.word(head.value_())
            link = self.places.offset("struct net_device", "todo_list")
            if first and link is not None:
                device = drgn.Object(self.program, "struct net_device *", first - link)
        if device is not None and device.value_():
            self.found.address, self.found.what = (
                device.value_(),
                device.name.string_().decode(errors="replace"),
            )
        self.found.actor = "the kernel counts the references, but does not record who has them"

    def _elsewhere(self) -> None:
        self.found.what = f"in {_outside(self.calls, self.places)}()"
        record = self._record("wait_queue_entry")
        if record is not None:
            self.found.address = record.lock


def _schedules(name: str) -> bool:
    return "schedule" in name or name in {"context_switch", "__wait_for_common", "do_wait_for_common"}


def _outside(calls: list[Call], places: Places) -> str:
    """Return the innermost function that is neither the scheduler's nor a primitive's."""
    for call in calls:
        if not _schedules(call.name) and not call.name.startswith(("wait_for_", "msleep", "io_", "bit_wait")):
            return places.code(call.pc - 1).name if call.name.startswith("0x") else call.name
    return ""


_RECORD_KINDS = {
    "mutex_waiter": Kind.MUTEX,
    "swait_queue": Kind.COMPLETION,
    "wait_queue_entry": Kind.WAIT_QUEUE,
}
