"""Interrupts: how often each line came on each CPU, who handles it, what nobody handled, and how fast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import drgn
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.irq import for_each_irq_desc, irq_desc_chip_name, irq_desc_kstat_cpu
from drgn.helpers.linux.pci import for_each_pci_dev, pci_name
from drgn.helpers.linux.percpu import per_cpu

from ktriage.dump.core import BROKEN
from ktriage.dump.places import Code, Places, TaskRef, places_of
from ktriage.dump.waits_types import task_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.core import Vmcore

MOST_LINES = 100_000
MOST_ACTIONS = 256
SPURIOUS_DISABLED = 0x2
"""In irq_desc's internal state: the kernel gave the line up (kernel/irq/internals.h)."""
MANY_UNHANDLED = 100
STORM_RATE = 20_000.0
"""Interrupts a second on one line and CPU that count as a storm: a card at line rate moderates below that."""
ALL_ONES = 0xFFFFFFFF
PERMANENT_FAILURE = 3
"""pci_channel_io_perm_failure (include/linux/pci.h)"""
_ARCH = {
    "__nmi_count": "NMI",
    "apic_timer_irqs": "local timer",
    "irq_spurious_count": "spurious",
    "irq_resched_count": "rescheduling",
    "irq_call_count": "function call",
    "irq_tlb_count": "TLB shootdown",
    "apic_perf_irqs": "performance monitoring",
    "apic_irq_work_irqs": "IRQ work",
    "irq_thermal_count": "thermal event",
    "irq_threshold_count": "MCE threshold",
}
"""Members of x86's irq_cpustat_t (arch/x86/include/asm/hardirq.h) and what /proc/interrupts calls them."""


@dataclass(frozen=True, slots=True)
class Action:
    """One handler of a line: its name, function, and the thread that does the work, if it has one."""

    name: str
    handler: Code
    thread_function: Code | None = None
    thread: TaskRef | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """An interrupt line; ``counts`` are by CPU. ``rate`` is interrupts a second between two dumps.

    ``unhandled`` of the last ``window`` interrupts nobody handled; at 100,000 the kernel looks, and disables
    the line above 99,900 (note_interrupt(), kernel/irq/spurious.c). ``wrong`` says what is wrong.
    """

    irq: str
    counts: tuple[tuple[int, int], ...]
    chip: str = ""
    actions: tuple[Action, ...] = ()
    disabled: int = 0
    unhandled: int = 0
    window: int = 0
    rate: float | None = None
    wrong: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Interrupts on all CPUs."""
        return sum(count for _, count in self.counts)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... irqs`` prints for this line."""
        return {
            "kind": "irq",
            "irq": self.irq,
            "counts": {str(cpu): count for cpu, count in self.counts},
            "total": self.total,
            "chip": self.chip,
            "actions": [_action_json(action) for action in self.actions],
            "disabled": self.disabled,
            "unhandled": self.unhandled,
            "window": self.window,
            "rate": self.rate,
            "wrong": list(self.wrong),
        }


def _action_json(action: Action) -> dict[str, Any]:
    thread = action.thread_function
    return {
        "name": action.name,
        "handler": action.handler.name,
        "module": action.handler.module,
        "thread_function": thread.name if thread else None,
        "thread": task_json(action.thread) if action.thread else None,
    }


@dataclass(frozen=True, slots=True)
class Irqs:
    """All lines that came or have a handler; ``seconds`` is the time between two dumps, or None.

    ``devices`` are PCI devices that the kernel or a driver has seen gone. Registers of devices are not in a
    dump, which has memory only: of a card that answers with all ones it shows what was copied.
    """

    lines: tuple[Line, ...]
    softirqs: tuple[tuple[str, int], ...]
    seconds: float | None = None
    devices: tuple[str, ...] = ()

    @property
    def wrong(self) -> tuple[Line, ...]:
        """Lines with which something is wrong."""
        return tuple(line for line in self.lines if line.wrong)


def find_irqs(core: Vmcore, earlier: Vmcore | None = None) -> Irqs:
    """Return the interrupt lines; with an ``earlier`` dump of the same boot, their rates.

    What can't be read is in ``core.notes``.
    """
    places = places_of(core.program)
    lines = [*_lines(places), *_per_cpu(places)]
    seconds = None
    if earlier is not None:
        before = places_of(earlier.program)
        seconds = (places.jiffies - before.jiffies) * places.tick
        if seconds <= 0:
            core.notes.append(f"{earlier.path} is not earlier than {core.path}: no rates")
            seconds = None
        else:
            then = {line.irq: line.total for line in [*_lines(before), *_per_cpu(before)]}
            lines = [_with_rate(line, then.get(line.irq, 0), seconds) for line in lines]
    devices = tuple(_devices(places))
    core.notes += [note for note in places.notes if note not in core.notes]
    return Irqs(tuple(lines), tuple(_softirqs(places)), seconds, devices)


def _with_rate(line: Line, then: int, seconds: float) -> Line:
    rate = (line.total - then) / seconds
    if rate < STORM_RATE * max(len(line.counts), 1):
        return replace(line, rate=rate)
    return replace(line, rate=rate, wrong=(*line.wrong, f"a storm: {rate:,.0f} interrupts a second"))


def _lines(places: Places) -> Iterator[Line]:
    try:
        cpus = [int(cpu) for cpu in for_each_online_cpu(places.program)]
        for irq, desc in islice(for_each_irq_desc(places.program), MOST_LINES):
            try:
                line = _line(places, irq, desc, cpus)
            except (*BROKEN, AttributeError) as error:
                places.notes.append(f"interrupt {irq}: {str(error) or type(error).__name__}")
                continue
            if line.total or line.actions:
                yield line
    except (*BROKEN, AttributeError) as error:
        places.notes.append(f"the interrupt lines break off: {str(error) or type(error).__name__}")


def _line(places: Places, irq: int, desc: drgn.Object, cpus: list[int]) -> Line:
    counts = tuple((cpu, irq_desc_kstat_cpu(desc, cpu)) for cpu in cpus)
    unhandled, window = int(desc.irqs_unhandled), int(desc.irq_count)
    actions = tuple(_actions(places, desc))
    wrong = []
    if int(desc.core_internal_state__do_not_mess_with_it) & SPURIOUS_DISABLED:
        wrong.append("the kernel has disabled it, as nobody handled it (a storm)")
    elif unhandled > MANY_UNHANDLED and unhandled > window // 10:
        wrong.append(f"nobody handled {unhandled:,} of the last {window:,}")
    gone = [action for action in actions if action.handler.gone]
    wrong += [f"the handler {action.name} is in a module that is gone" for action in gone]
    if not actions and any(count for _, count in counts) and not int(desc.depth):
        wrong.append("it is enabled and has no handler")
    name = irq_desc_chip_name(desc)
    return Line(
        irq=str(irq),
        counts=counts,
        chip=name.decode(errors="replace") if name else "",
        actions=actions,
        disabled=int(desc.depth),
        unhandled=unhandled,
        window=window,
        wrong=tuple(wrong),
    )


def _actions(places: Places, desc: drgn.Object) -> Iterator[Action]:
    action = desc.action.read_()
    for _ in range(MOST_ACTIONS):
        if not action:
            return
        thread = action.thread_fn.value_()
        yield Action(
            name=places.string(action.name.value_()),
            handler=places.code(action.handler.value_()),
            thread_function=places.code(thread) if thread else None,
            thread=places.task(action.thread.value_()) if action.thread else None,
        )
        action = action.next.read_()


def _per_cpu(places: Places) -> Iterator[Line]:
    """Yield the counts that x86 keeps beside the lines."""
    try:
        stats = [
            (int(c), per_cpu(places.program["irq_stat"], c)) for c in for_each_online_cpu(places.program)
        ]
    except BROKEN:
        return
    for member, name in _ARCH.items():
        try:
            counts = tuple((cpu, int(stat.member_(member))) for cpu, stat in stats)
        except BROKEN:
            continue
        if any(count for _, count in counts):
            yield Line(name, counts)


def _softirqs(places: Places) -> Iterator[tuple[str, int]]:
    try:
        names = [name.string_().decode(errors="replace") for name in places.program["softirq_to_name"]]
        totals = [0] * len(names)
        for cpu in for_each_online_cpu(places.program):
            counts = per_cpu(places.program["kstat"], cpu).softirqs
            for number in range(len(names)):
                totals[number] += int(counts[number])
    except BROKEN:
        return
    yield from ((name, total) for name, total in zip(names, totals, strict=True) if total)


def _devices(places: Places) -> Iterator[str]:
    """Yield the PCI devices that are gone, as far as memory tells."""
    try:
        for device in islice(for_each_pci_dev(places.program), MOST_LINES):
            if int(device.error_state) == PERMANENT_FAILURE:
                yield f"{pci_name(device)}: the kernel has marked it as gone (pci_channel_io_perm_failure)"
            elif all(int(word) == ALL_ONES for word in device.saved_config_space):
                yield f"{pci_name(device)}: its saved configuration is all ones: it did not answer"
    except (*BROKEN, AttributeError):
        return
