"""Every blocked task of a dump, what it waits for, who holds that: a graph, with its circles and roots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drgn.helpers.linux.panic import panic_task
from drgn.helpers.linux.sched import task_on_cpu

from ktriage.dump.core import BROKEN
from ktriage.dump.places import Places, places_of, task_state
from ktriage.dump.tasks import read_frame, since
from ktriage.dump.waits_find import Finder
from ktriage.dump.waits_stack import known_kind
from ktriage.dump.waits_types import Kind, Root, TaskRef, Wait, Waits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import drgn

    from ktriage.console.types import Frame
    from ktriage.dump.core import Vmcore
    from ktriage.dump.waits_stack import Call

INTERRUPTIBLE = frozenset(
    {
        Kind.MUTEX,
        Kind.RWSEM_READ,
        Kind.RWSEM_WRITE,
        Kind.SEMAPHORE,
        Kind.RCU_BARRIER,
        Kind.GRACE_PERIOD,
        Kind.WORK,
        Kind.WORKQUEUE,
        Kind.KTHREAD_STOP,
        Kind.PAGE,
        Kind.NETDEV,
    }
)
"""Waits that are told of although a signal could end them; other sleep is what most tasks do all day."""
GLOBAL_LOCKS = ("rtnl_mutex", "module_mutex", "cgroup_mutex", "pernet_ops_rwsem", "cpu_hotplug_lock")
"""Locks that everybody needs sooner or later; who holds them is told even where nobody waits."""
RANK = ("deadlock", "dead", "crashed", "running", "unknown", "waiting", "sleeping")


def find_waits(core: Vmcore) -> Waits:
    """Return the blocked tasks and the roots of their trees; what can't be read is in ``core.notes``."""
    places = places_of(core.program)
    finder = Finder(places)
    found: list[Wait] = []
    asleep = 0
    for task in places.tasks():
        try:
            wait = _wait(finder, task)
        except BROKEN as error:
            core.notes.append(f"task at {task.value_():#x}: {str(error) or type(error).__name__}")
            continue
        if wait is None:
            asleep += task_state(task) == "S"
        else:
            found.append(wait)
    roots = _Graph(places, found, _crashed(places)).roots()
    held = tuple(_held(places, finder))
    core.notes += [note for note in places.notes if note not in core.notes]
    return Waits(tuple(found), tuple(roots), held, asleep)


def _wait(finder: Finder, task: drgn.Object) -> Wait | None:
    state = task_state(task)
    if state not in "DS" or task_on_cpu(task):
        return None
    calls = finder.calls(task)
    known = known_kind(calls)
    if state == "S" and (known is None or known[0] not in INTERRUPTIBLE):
        return None
    found = finder.find(task, calls)
    running = finder.running.get(task.value_())
    if running is not None:
        found.evidence.append(f"it runs the work {finder.places.code(running.function)}")
    ref = finder.places.task(task.value_())
    assert ref is not None
    return Wait(
        task=ref,
        kind=found.kind,
        what=found.what or "unknown",
        address=found.address,
        holders=tuple(dict.fromkeys(found.holders)),
        actor=found.actor,
        evidence=tuple(found.evidence),
        seconds=since(task),
        stack=tuple(_frames(finder, calls)),
    )


def _frames(finder: Finder, calls: list[Call]) -> Iterator[Frame]:
    for call in calls:
        try:
            yield read_frame(finder.program, call.frame)
        except BROKEN:
            return


def _crashed(places: Places) -> frozenset[int]:
    """Return the task that panicked, unless it is an idle one, which only took the interrupt."""
    try:
        task = panic_task(places.program)
        return frozenset({task.value_()}) if task and int(task.pid) else frozenset()
    except (*BROKEN, AttributeError, TypeError):
        return frozenset()


def _held(places: Places, finder: Finder) -> Iterator[tuple[str, TaskRef]]:
    for name in GLOBAL_LOCKS:
        try:
            lock = places.program[name]
            taken = lock.type_.type_name() == "struct mutex" or int(lock.count.counter) & 1
            owner = (places.word(lock.owner.address_of_().value_()) or 0) & ~7 if taken else 0
        except (*BROKEN, AttributeError):
            continue
        holder = finder.task(owner) if owner else None
        if holder is not None:
            yield name, holder


@dataclass(slots=True)
class _Graph:
    """Who waits for whom, by the identities of their tasks."""

    places: Places
    waits: list[Wait]
    crashed: frozenset[int]
    by_task: dict[tuple[int, bool], Wait] = field(init=False)

    def __post_init__(self) -> None:
        self.by_task = {wait.task.identity: wait for wait in self.waits}

    def roots(self) -> list[Root]:
        """Return circles and the ends of all chains, the worst and most waited for first."""
        roots = [self._circle(circle) for circle in self._circles()]
        circular = {task.identity for root in roots for task in root.tasks}
        ends: dict[object, list[Wait]] = {}
        holders: dict[tuple[int, bool], TaskRef] = {}
        for wait in self.waits:
            outside = [holder for holder in wait.holders if holder.identity not in self.by_task]
            for holder in outside:
                holders[holder.identity] = holder
                ends.setdefault(("task", holder.identity), []).append(wait)
            if not wait.holders and wait.task.identity not in circular:
                ends.setdefault(("thing", wait.kind, wait.address or wait.task.address), []).append(wait)
        for key, direct in ends.items():
            match key:
                case ("task", (int() as address, bool() as dead)):
                    roots.append(self._held_by(holders[address, dead], direct))
                case _:
                    roots.append(self._held_by_nobody(direct))
        return sorted(roots, key=lambda root: (RANK.index(root.kind), -len(root.waiters)))

    def _behind(self, tasks: Iterable[tuple[int, bool]]) -> tuple[TaskRef, ...]:
        """Return all who wait, directly or not, for one of ``tasks``."""
        reached, todo = set(tasks), list(tasks)
        behind: list[TaskRef] = []
        while todo:
            now = todo.pop()
            for wait in self.waits:
                held = any(holder.identity == now for holder in wait.holders)
                if held and wait.task.identity not in reached:
                    reached.add(wait.task.identity)
                    todo.append(wait.task.identity)
                    behind.append(wait.task)
        return tuple(behind)

    def _circles(self) -> list[list[Wait]]:
        """Return the circles: from each task the first holder that waits, until one comes again."""
        done: set[tuple[int, bool]] = set()
        circles = []
        for wait in self.waits:
            path: list[tuple[int, bool]] = []
            at: tuple[int, bool] | None = wait.task.identity
            while at is not None and at not in done:
                done.add(at)
                path.append(at)
                at = next((h.identity for h in self.by_task[at].holders if h.identity in self.by_task), None)
            if at is not None and at in path:
                circles.append([self.by_task[task] for task in path[path.index(at) :]])
        return circles

    def _circle(self, circle: list[Wait]) -> Root:
        tasks = tuple(wait.task for wait in circle)
        if len(circle) == 1:
            says = f"{tasks[0]} waits for {_thing(circle[0])}, which it holds itself: it waits for ever"
        else:
            steps = [f"{w.task} waits for {_thing(w)}, held by {w.holders[0]}" for w in circle]
            says = "deadlock: " + "; ".join(steps)
        waiters = (*tasks, *self._behind([task.identity for task in tasks]))
        return Root("deadlock", tasks, waiters, says, _longest(circle))

    def _held_by(self, holder: TaskRef, direct: list[Wait]) -> Root:
        waiters = (*(wait.task for wait in direct), *self._behind([wait.task.identity for wait in direct]))
        waiters = tuple({task.identity: task for task in waiters}.values())
        locks = dict.fromkeys(_thing(wait) for wait in direct if wait.kind not in _NOT_HELD)
        others = dict.fromkeys(_thing(wait) for wait in direct if wait.kind in _NOT_HELD)
        does = [f"holds {', '.join(locks)}"] if locks else []
        does += [f"keeps {', '.join(others)} waiting"] if others else []
        kind, state = self._state(holder)
        says = f"{holder} {', '.join(does)} and {state}; {_count(waiters)}"
        return Root(kind, (holder,), waiters, says, _longest(direct))

    def _held_by_nobody(self, direct: list[Wait]) -> Root:
        first = direct[0]
        tasks = tuple(wait.task for wait in direct)
        behind = self._behind([task.identity for task in tasks])
        who = " and ".join(map(str, tasks[:3])) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
        says = f"{who} {'waits' if len(tasks) == 1 else 'wait'} for {_thing(first)}"
        if first.actor:
            says += f": {first.actor}"
        elif first.kind is not Kind.SLEEP:
            says += "; who must act is not recorded"
        these = {task.identity for task in tasks}
        direct_behind = [w for w in self.waits if any(h.identity in these for h in w.holders)]
        held = list(dict.fromkeys(_thing(w) for w in direct_behind if w.kind not in _NOT_HELD))
        if behind:
            holds = f"it holds {', '.join(held)}: " if held and len(tasks) == 1 else ""
            says += f"; {holds}{_count(behind)} behind"
        return Root(
            "waiting" if first.kind is Kind.SLEEP else "unknown",
            tasks,
            (*tasks, *behind),
            says,
            _longest(direct),
        )

    def _state(self, holder: TaskRef) -> tuple[str, str]:
        if holder.dead:
            return "dead", "is dead: nobody will release it"
        if holder.address in self.crashed:
            return "crashed", "is the task that crashed"
        task = next((t for t in self.places.tasks() if t.value_() == holder.address), None)
        if task is not None and task_on_cpu(task):
            return "running", f"runs on CPU {_cpu(task)}"
        if holder.state == "R":
            return "running", "is ready to run"
        return "sleeping", "sleeps"


_NOT_HELD = frozenset(
    {Kind.RCU_BARRIER, Kind.GRACE_PERIOD, Kind.WORK, Kind.WORKQUEUE, Kind.KTHREAD_STOP, Kind.COMPLETION}
)


def _cpu(task: drgn.Object) -> str:
    from drgn.helpers.linux.sched import task_cpu

    try:
        return str(int(task_cpu(task)))
    except BROKEN:
        return "?"


def _thing(wait: Wait) -> str:
    """Say what a task waits for, with its kind where the name does not tell."""
    if wait.kind in (Kind.RCU_BARRIER, Kind.GRACE_PERIOD, Kind.KTHREAD_STOP, Kind.WORKQUEUE):
        return wait.what
    if wait.kind in (Kind.UNKNOWN, Kind.SLEEP, Kind.IO):
        return f"{wait.kind.value} ({wait.what})"
    return f"{wait.kind.value} {wait.what}"


def _count(tasks: tuple[TaskRef, ...]) -> str:
    return "1 task waits" if len(tasks) == 1 else f"{len(tasks)} tasks wait"


def _longest(waits: Iterable[Wait]) -> float | None:
    return max((wait.seconds for wait in waits if wait.seconds is not None), default=None)


def by_stack(waits: Iterable[Wait]) -> list[list[Wait]]:
    """Return tasks grouped by their stacks, the most common first."""
    groups: dict[tuple[str, ...], list[Wait]] = {}
    for wait in waits:
        groups.setdefault(tuple(frame.function for frame in wait.stack), []).append(wait)
    return sorted(groups.values(), key=len, reverse=True)
