"""What blocked tasks wait for, and who keeps them waiting."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ktriage.dump.places import TaskRef

if TYPE_CHECKING:
    from ktriage.console.types import Frame

__all__ = ["Kind", "Root", "TaskRef", "Wait", "Waits", "task_json"]


class Kind(StrEnum):
    """What a task waits for."""

    MUTEX = "mutex"
    RWSEM_READ = "rwsem (to read)"
    RWSEM_WRITE = "rwsem (to write)"
    SEMAPHORE = "semaphore"
    COMPLETION = "completion"
    RCU_BARRIER = "rcu_barrier"
    GRACE_PERIOD = "RCU grace period"
    WORK = "end of a work"
    WORKQUEUE = "end of a workqueue's works"
    KTHREAD_STOP = "end of a kernel thread"
    PAGE = "page"
    IO = "I/O"
    NETDEV = "last reference to a network device"
    WAIT_QUEUE = "wait queue"
    SLEEP = "time to pass"
    UNKNOWN = "unknown"


def task_json(task: TaskRef) -> dict[str, Any]:
    """Return a task as JSON has it."""
    return {
        "pid": task.pid,
        "comm": task.comm,
        "address": task.address,
        "state": task.state,
        "dead": task.dead,
    }


@dataclass(frozen=True, slots=True)
class Wait:
    """One blocked task.

    ``what`` names what it waits for (``rtnl_mutex``, ``resetnic_reset [resetnic]``), ``address`` is where
    that is. ``holders`` are those who hold it or must act, as far as they are known; ``actor`` says in words
    who or what that is where it is no task. ``evidence`` tells by what each was found. ``seconds`` have
    passed since the task last ran.
    """

    task: TaskRef
    kind: Kind
    what: str
    address: int | None = None
    holders: tuple[TaskRef, ...] = ()
    actor: str | None = None
    evidence: tuple[str, ...] = ()
    seconds: float | None = None
    stack: tuple[Frame, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... waits`` prints for this task."""
        from dataclasses import asdict

        return {
            "kind": "wait",
            "task": task_json(self.task),
            "waits_for": self.kind.value,
            "what": self.what,
            "address": self.address,
            "holders": [task_json(holder) for holder in self.holders],
            "actor": self.actor,
            "evidence": list(self.evidence),
            "seconds": self.seconds,
            "stack": [asdict(frame) for frame in self.stack],
        }


@dataclass(frozen=True, slots=True)
class Root:
    """Where a tree of waiting tasks ends: who to look at.

    ``kind`` is ``deadlock`` (``tasks`` wait for each other in a circle), ``dead`` (the holder's task is gone
    and can't release it), ``crashed`` (the holder is the task that crashed), ``running``, ``sleeping``
    or ``waiting`` (the holder is blocked in turn, on something nobody known holds), ``unknown`` (nobody
    is known to hold it). ``waiters`` are all tasks that wait for it, directly or not. ``says`` puts it in a
    sentence.
    """

    kind: str
    tasks: tuple[TaskRef, ...]
    waiters: tuple[TaskRef, ...]
    says: str
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... waits`` prints for this root."""
        return {
            "kind": "root",
            "root": self.kind,
            "tasks": [task_json(task) for task in self.tasks],
            "waiters": [task_json(task) for task in self.waiters],
            "says": self.says,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Waits:
    """All blocked tasks of a dump, and the roots of their trees, the worst first.

    ``held`` are locks of the kernel that everybody needs, and who holds them, waited for or not: pairs of a
    name and a task. ``asleep`` counts the tasks that sleep where they can be woken by a signal, which says
    nothing.
    """

    waits: tuple[Wait, ...]
    roots: tuple[Root, ...]
    held: tuple[tuple[str, TaskRef], ...] = ()
    asleep: int = 0
