"""Histories of gets and puts with faults planted in them, as ftrace would have printed them.

What is made here is what the ledger is measured on: many routes (a path that takes, a path that drops), tasks
that interleave, references dropped by other tasks or in softirq, paths that serve several others, programs
that hold on, lost events, clocks that differ, traces cut at either end. A seed makes the same history.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["same", "softirq", "kworker"]
_OUTER = ("do_syscall_64", "entry_SYSCALL_64_after_hwframe")
_SOFTIRQ = ("__napi_poll", "net_rx_action", "handle_softirqs", "irq_exit_rcu")
_KWORKER = ("process_one_work", "worker_thread", "kthread", "ret_from_fork")


@dataclass(frozen=True, slots=True)
class Route:
    """A way of references: taken on one path, dropped on one of some others, by whom ``mode`` says."""

    get: tuple[str, ...]
    puts: tuple[tuple[str, ...], ...]
    mode: Mode = "same"
    hold: float = 1e-3
    """Mean seconds that one is held."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make. ``leaks`` and ``overputs`` are how many faults to plant on routes drawn at random.

    ``holders`` are references taken early by programs of their own and still held at the end; ``rate`` is
    gets per second in all; ``cut`` ends the trace while the load goes on; ``skew`` is by how many seconds the
    CPUs' clocks differ; ``lost`` is the share of events that are lost, in runs of ``run``.
    """

    pairs: int = 10_000
    routes: tuple[Route, ...] = ()
    tasks: int = 24
    rate: float = 2_000.0
    leaks: int = 0
    overputs: int = 0
    holders: int = 0
    objects: tuple[str, ...] = ("ulp",)
    lost: float = 0.0
    run: int = 1
    skew: float = 0.0
    cut: bool = False
    spread: Literal["exponential", "uniform", "heavy"] = "exponential"
    flags: bool = True
    cpus: int = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """A planted fault: ``kind`` is ``leak`` or ``overput``; ``path`` is where it happened."""

    kind: str
    object: str
    path: tuple[str, ...]
    time: float


@dataclass(slots=True)
class History:
    """What was made: the trace's lines, the faults in it, and each object's true count at the end."""

    lines: list[str]
    faults: list[Fault]
    counts: dict[str, int]


@dataclass(order=True, slots=True)
class _Due:
    time: float
    order: int
    act: str = field(compare=False)
    object: str = field(compare=False)
    task: int = field(compare=False)
    path: tuple[str, ...] = field(compare=False)
    context: str = field(compare=False, default="")


def routes(chance: random.Random, number: int, *, mixed: bool) -> tuple[Route, ...]:
    """Return ``number`` routes drawn at random; ``mixed`` has paths that serve several routes."""
    made = []
    for index in range(number):
        mode: Mode = chance.choice(("same", "same", "same", "softirq", "kworker"))
        get = (f"user{index}_open", f"user{index}_attach", f"ksys_{index}", *_OUTER)
        tail = {"same": _OUTER, "softirq": _SOFTIRQ, "kworker": _KWORKER}[mode]
        puts = [(f"user{index}_release", f"user{index}_detach", f"sys_close_{index}", *tail)]
        if mixed and chance.random() < 0.4:
            puts.append((f"user{index}_abort", f"user{index}_detach", *tail))
        made.append(Route(get, tuple(puts), mode, 10 ** chance.uniform(-4, -2.3), chance.uniform(0.3, 1)))
    if mixed and number > 2:
        first = made[0]
        made[1] = Route(made[1].get, (*made[1].puts, *first.puts), first.mode, made[1].hold, made[1].weight)
    return tuple(made)


class _Maker:
    def __init__(self, plan: Plan, chance: random.Random) -> None:
        self.plan, self.chance = plan, chance
        self.count = dict.fromkeys(plan.objects, 2)
        self.order = 0
        self.due: list[_Due] = []
        self.faults: list[Fault] = []
        self.skews = [chance.uniform(-plan.skew, plan.skew) / 2 for _ in range(plan.cpus)]

    def hold(self, mean: float) -> float:
        if self.plan.spread == "uniform":
            return self.chance.uniform(0.2, 1.8) * mean
        if self.plan.spread == "heavy":
            return self.chance.lognormvariate(0, 1.2) * mean / 2
        return self.chance.expovariate(1 / mean)

    def add(
        self, time: float, act: str, name: str, task: int, path: tuple[str, ...], context: str = ""
    ) -> None:
        self.order += 1
        heapq.heappush(self.due, _Due(time, self.order, act, name, task, path, context))

    def pair(self, time: float, *, leak: bool) -> None:
        plan, chance = self.plan, self.chance
        route = chance.choices(plan.routes, [route.weight for route in plan.routes])[0]
        name = chance.choice(plan.objects)
        task = chance.randrange(plan.tasks)
        self.add(time, "get", name, task, route.get)
        if leak:
            self.faults.append(Fault("leak", name, route.get, time))
            return
        self.drop(time + self.hold(route.hold), route, name, task)

    def drop(self, time: float, route: Route, name: str, task: int) -> None:
        path = self.chance.choice(route.puts)
        if route.mode == "softirq":
            self.add(time, "put", name, self.chance.randrange(self.plan.tasks), path, "s")
        else:
            worker = -1 - self.chance.randrange(4) if route.mode == "kworker" else task
            self.add(time, "put", name, worker, path)

    def overput(self, time: float) -> None:
        route = self.chance.choices(self.plan.routes, [route.weight for route in self.plan.routes])[0]
        name = self.chance.choice(self.plan.objects)
        self.drop(time, route, name, self.chance.randrange(self.plan.tasks))
        self.faults.append(Fault("overput", name, self.due_path(), time))

    def due_path(self) -> tuple[str, ...]:
        return next(due.path for due in self.due if due.order == self.order)


def history(plan: Plan, seed: int = 0) -> History:
    """Return a history made to ``plan``."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    maker = _Maker(plan, chance)
    span = plan.pairs / plan.rate
    for index in range(plan.holders):
        path = chance.choice(plan.routes).get if index % 2 else (f"daemon{index}_open", *_OUTER)
        maker.add(chance.uniform(0, 0.05) * span, "get", chance.choice(plan.objects), 1000 + index, path)
    time = 0.0
    for _ in range(plan.pairs):
        time += chance.expovariate(plan.rate)
        maker.pair(time, leak=False)
    for _ in range(plan.leaks):
        maker.pair(chance.uniform(0.02, 0.9) * span, leak=True)
    for _ in range(plan.overputs):
        maker.overput(chance.uniform(0.1, 0.9) * span)
    end = time if plan.cut else float("inf")
    lines = list(_printed(maker, end))
    return History(lines, maker.faults, {name: count - 1 for name, count in maker.count.items()})


def _printed(maker: _Maker, end: float) -> Iterator[str]:
    plan, chance = maker.plan, maker.chance
    yield "# tracer: nop"
    for name in plan.objects:
        yield from _event(
            maker, 0.0, "insmod", 412, 0, f"module_load: {name} OE", ("load_module", *_OUTER), "....."
        )
        maker.count[name] = 1
        text = f"module_put: {name} call_site=do_init_module refcnt=1"
        yield from _event(maker, 1e-6, "insmod", 412, 0, text, ("do_init_module", *_OUTER), ".....")
    events: list[tuple[float, int, list[str]]] = []
    while maker.due:
        due = heapq.heappop(maker.due)
        if due.time > end:
            break
        cpu = chance.randrange(plan.cpus)
        count = max(0, maker.count[due.object] + (1 if due.act == "get" else -1))
        maker.count[due.object] = count
        comm, pid = _who(due.task)
        text = f"module_{due.act}: {due.object} call_site={due.path[0]} refcnt={count}"
        counting = "try_module_get" if due.act == "get" else "module_put"
        time = due.time + 1 + maker.skews[cpu]
        stack = ("trace_event_raw_event_module_refcnt", counting, *due.path)
        flags = f"..{due.context or '.'}1."
        events.append((time, cpu, list(_event(maker, time, comm, pid, cpu, text, stack, flags))))
    if plan.skew:
        events.sort(key=lambda event: event[0])
    yield from _with_losses(plan, chance, events)


def _with_losses(
    plan: Plan, chance: random.Random, events: list[tuple[float, int, list[str]]]
) -> Iterator[str]:
    missing: dict[int, int] = {}
    left = 0
    for _, cpu, lines in events:
        if left == 0 and chance.random() < plan.lost / plan.run:
            left = plan.run
        if left:
            left -= 1
            missing[cpu] = missing.get(cpu, 0) + 1
            continue
        if cpu in missing:
            yield f"CPU:{cpu} [LOST {missing.pop(cpu)} EVENTS]"
        yield from lines


def _who(task: int) -> tuple[str, int]:
    if task < 0:
        return f"kworker/{-task}:1", 40 - task
    if task >= 1000:
        return f"daemon{task - 1000}", task
    return ("nginx", "ab", "worker")[task % 3], 500 + task


def _event(
    maker: _Maker, time: float, comm: str, pid: int, cpu: int, text: str, stack: tuple[str, ...], flags: str
) -> Iterator[str]:
    middle = f"{flags} " if maker.plan.flags else ""
    head = f"{comm:>16}-{pid:<7} [{cpu:03}] {middle}{time + 100:12.6f}: "
    yield head + text
    yield head + "<stack trace>"
    for function in stack:
        yield f" => {function}"
