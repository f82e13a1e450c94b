"""The report ``irqs`` of ``ktriage dump show``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ktriage.dump.core import Vmcore
    from ktriage.dump.irqs import Irqs, Line

MOST_CPUS = 8
"""CPUs that get a column each; of more only the sums are shown."""


def show_irqs(core: Vmcore, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print the interrupt lines, with rates where ``--earlier`` names another dump of the same boot."""
    from ktriage.dump.core import open_vmcore
    from ktriage.dump.irqs import find_irqs

    earlier = open_vmcore(args.earlier, args.vmlinux, args.modules) if args.earlier else None
    irqs = find_irqs(core, earlier)
    if args.json:
        for line in irqs.lines:
            sys.stdout.write(json.dumps(line.to_json()) + "\n")
        for name, count in irqs.softirqs:
            sys.stdout.write(json.dumps({"kind": "softirq", "name": name, "total": count}) + "\n")
        return
    for line in irqs.wrong:
        show(Text(f"interrupt {line.irq}: {'; '.join(line.wrong)}", "bold red"))
    show(_table(irqs), "")
    show(Text("softirqs  " + ", ".join(f"{name} {count:,}" for name, count in irqs.softirqs), "dim"))
    for device in irqs.devices:
        show(Text(device, "bold red"))
    if not irqs.devices:
        show(Text("no PCI device is known to be gone; registers of devices are not in a dump", "dim"))


def _table(irqs: Irqs) -> Table:
    cpus = sorted({cpu for line in irqs.lines for cpu, _ in line.counts})
    each = cpus if 1 < len(cpus) <= MOST_CPUS else []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    rated = irqs.seconds is not None
    for name in ("irq", *(f"cpu{cpu}" for cpu in each), "total", *(["per s"] if rated else []), "unhandled"):
        table.add_column(name, justify="left" if name == "irq" else "right", no_wrap=True)
    for name in ("chip", "handlers"):
        table.add_column(name, no_wrap=name == "chip")
    for line in irqs.lines:
        counts = dict(line.counts)
        columns = [line.irq, *(f"{counts.get(cpu, 0):,}" for cpu in each), f"{line.total:,}"]
        columns += [f"{line.rate:,.1f}" if line.rate is not None else ""] if rated else []
        table.add_row(*columns, *_rest(line), style="red" if line.wrong else "")
    return table


def _rest(line: Line) -> tuple[str, str, str]:
    from ktriage.case.text import clean

    unhandled = f"{line.unhandled:,} of {line.window:,}" if line.unhandled else ""
    handlers = []
    for action in line.actions:
        thread = f", thread {action.thread_function}" if action.thread_function else ""
        handlers.append(f"{clean(action.name)}: {clean(str(action.handler))}{clean(thread)}")
    if line.disabled:
        handlers.append(f"disabled {line.disabled} deep")
    return unhandled, clean(line.chip), "; ".join(handlers)
