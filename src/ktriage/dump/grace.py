"""What keeps an RCU grace period from ending, and which CPUs' callbacks an rcu_barrier() waits for.

As of kernel/rcu/tree.c and tree_plugin.h: a leaf ``rcu_node`` has a bit in ``qsmask`` for each CPU that has
not passed a quiescent state, and with preemptible RCU the tasks that were preempted within a read-side
critical section are on its ``blkd_tasks``, from ``gp_tasks`` on those that hold up the current grace period.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.sched import cpu_curr

from ktriage.dump.core import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.places import Places, TaskRef

SEQ_STATE = 0x3
"""The low bits of gp_seq: not zero while a grace period runs (RCU_SEQ_STATE_MASK, kernel/rcu/rcu.h)."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """CPUs whose callbacks an rcu_barrier() waits for, as (CPU, callbacks queued there)."""

    cpus: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Grace:
    """The grace period that runs, if any: ``seconds`` old, and what holds it up.

    ``readers`` are tasks that were preempted while they read, ``cpus`` those CPUs that have not passed a
    quiescent state, with the task that each runs.
    """

    running: bool
    seconds: float | None = None
    readers: tuple[TaskRef, ...] = ()
    cpus: tuple[tuple[int, TaskRef], ...] = ()

    @property
    def holders(self) -> tuple[TaskRef, ...]:
        """All tasks that hold it up, idle ones left out."""
        tasks = (*self.readers, *(task for _, task in self.cpus if task.pid))
        return tuple(dict.fromkeys(tasks))

    def says(self) -> str:
        """Say in words what holds it up."""
        if not self.running:
            return "no grace period runs: RCU's callbacks have yet to be called"
        parts = [f"{task} is inside of rcu_read_lock()" for task in self.readers]
        parts += [f"CPU {cpu} has not passed a quiescent state, it runs {task}" for cpu, task in self.cpus]
        return "; ".join(parts) or "a grace period runs, and nothing in the dump holds it up"


def grace_period(places: Places) -> Grace:
    """Return the state of RCU's grace period; what can't be read is noted and left out."""
    program = places.program
    try:
        state = program["rcu_state"]
        running = bool(int(state.gp_seq) & SEQ_STATE)
        seconds = max(places.jiffies - int(state.gp_start), 0) * places.tick
    except (*BROKEN, AttributeError) as error:
        places.notes.append(f"RCU's state can't be read: {error}")
        return Grace(False)
    if not running:
        return Grace(False)
    readers = tuple(task for node in _leaves(places, state) for task in _readers(places, node))
    cpus = tuple(pair for node in _leaves(places, state) for pair in _cpus(places, node))
    return Grace(True, seconds, readers, cpus)


def _leaves(places: Places, state: drgn.Object) -> Iterator[drgn.Object]:
    try:
        for node in state.node:
            if int(node.level) == int(places.program["rcu_num_lvls"]) - 1 and int(node.grpmask) >= 0:
                yield node
    except (*BROKEN, AttributeError):
        return


def _readers(places: Places, node: drgn.Object) -> Iterator[TaskRef]:
    try:
        first = node.gp_tasks.value_()
        head = node.blkd_tasks.address_of_().value_()
    except (*BROKEN, AttributeError):
        return
    link = places.offset("struct task_struct", "rcu_node_entry")
    if not first or link is None:
        return
    reached = False
    for entry in places.entries(head, "readers that hold up RCU"):
        reached = reached or entry == first
        task = places.task(entry - link) if reached else None
        if task is not None:
            yield task


def _cpus(places: Places, node: drgn.Object) -> Iterator[tuple[int, TaskRef]]:
    try:
        mask, low, high = int(node.qsmask), int(node.grplo), int(node.grphi)
        for cpu in range(low, high + 1):
            if mask >> (cpu - low) & 1:
                task = places.task(cpu_curr(places.program, cpu).value_())
                if task is not None:
                    yield cpu, task
    except (*BROKEN, AttributeError):
        return


def barrier(places: Places) -> Barrier:
    """Return the CPUs whose callbacks the rcu_barrier() that is under way waits for."""
    program = places.program
    found = []
    try:
        sequence = int(program["rcu_state"].barrier_sequence)
        for cpu in for_each_possible_cpu(program):
            data = per_cpu(program["rcu_data"], cpu)
            waiting = _number(data.cblist.len)
            # Entrained behind the callbacks of this CPU (rcu_barrier_entrain(), since Linux 5.17).
            if waiting > 0 and int(data.barrier_seq_snap) == sequence:
                found.append((int(cpu), waiting))
    except (*BROKEN, AttributeError):
        pass
    return Barrier(tuple(found))


def _number(value: drgn.Object) -> int:
    """Return a segmented list's length, which is an atomic_long_t with CONFIG_RCU_NOCB_CPU."""
    try:
        return int(value)
    except TypeError:
        return int(value.counter)
