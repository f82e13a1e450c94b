"""A bad access on a terminal: what was bad, and how it was reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ktriage.dump.fault import Fault, Link


def render_fault(fault: Fault, *, told: bool) -> RenderableType:
    """Return the sentence (unless it was ``told``), the way to the bad pointer, and the variables there."""
    from ktriage.case.text import clean

    where = f"{fault.where.function}+{fault.where.offset or 0:#x}"
    place = f"{fault.where.file}:{fault.where.line}" if fault.where.file else ""
    head = Text("the bad access") if told else Text(clean(fault.sentence), "bold red")
    about = Text(f"  in {where} {place}, {clean(fault.comm)} ({fault.pid}): {fault.instruction}", "dim")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for link in fault.chain:
        table.add_row("", *_row(link))
    rows = [row for row in fault.variables if row[2] != "optimized out"]
    parts: list[RenderableType] = [head, about, table]
    if rows:
        variables = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, type_, value in rows:
            variables.add_row("", clean(f"{type_} {name}".replace("* ", "*")), clean(f"= {value}"))
        parts += [Text("  variables in scope", "dim"), variables]
    return Group(*parts)


def _row(link: Link) -> tuple[Text, Text, Text]:
    name = f"{link.variable} = {link.expression}" if link.variable else link.expression
    value = "NULL" if link.value == 0 else "unknown" if link.value is None else f"{link.value:#x}"
    notes = [link.type or "", link.object or ""]
    if link.now is not None and link.value is not None and link.now != link.value:
        notes.append(f"now {link.now:#x} at {link.address:#x}: it has been changed since")
    if not link.certain:
        notes.append("by the layout of its type")
    style = "red" if link.freed or link.value == 0 else ""
    return Text(name), Text(value, style), Text("; ".join(note for note in notes if note), "dim")
