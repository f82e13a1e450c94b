"""The report ``audit`` of ``ktriage dump show``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

from rich.text import Text

from ktriage.case.text import clean, plural

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from ktriage.dump.audit import Audit, ModuleAudit
    from ktriage.dump.audit_code import Dangling
    from ktriage.dump.audit_ledger import LedgerUse
    from ktriage.dump.audit_objects import Census, ObjectAudit
    from ktriage.dump.core import Vmcore
    from ktriage.dump.holders import Holder

MOST_SHOWN = 8
"""Holders that are shown of what does not come out even; ``--all`` shows all of everything."""
STYLES = {
    "exact": "",
    "none": "dim",
    "busy": "",
    "uncountable": "yellow",
    "unaccounted": "bold red",
    "missing": "bold red",
    "leaked": "bold red",
}


def show_audit(core: Vmcore, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print the audit of a dump; ``show`` prints what is for people."""
    from ktriage.dump.audit import audit
    from ktriage.dump.audit_ledger import read_ledger

    found = audit(core, read_ledger(args.ledger) if args.ledger else None)
    if args.json:
        for printed in found.to_json():
            sys.stdout.write(json.dumps(printed) + "\n")
        return
    show(_table(found))
    for module in found.modules:
        if args.all or module.verdict not in ("exact", "none"):
            show("", *_module(module, everything=args.all))
    for dangling in found.code.dangling:
        show("", *_dangling(dangling))
    for census in found.objects:
        for one in census.found:
            if args.all or one.verdict != "busy":
                show("", *_object(one, everything=args.all))
    show("", *_conclusion(found))


def _table(found: Audit) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("module", no_wrap=True)
    for name in ("count", "linked", "dynamic", "found", "unaccounted"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("held by")
    table.add_column("pointed at by")
    for module in found.modules:
        if module.count is None:
            continue
        kinds: Counter[str] = Counter()
        for holder in module.holders:
            kinds[holder.kind] += holder.count
        counts = (
            module.count,
            module.linked,
            module.count - module.linked,
            module.accounted,
            module.unaccounted,
        )
        pointers = found.code.uses.get(module.module, Counter())
        row = (clean(module.module), *map(str, counts), _kinds(kinds), _kinds(pointers))
        table.add_row(*row, style=STYLES[module.verdict])
    return table


def _kinds(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())


def _module(module: ModuleAudit, *, everything: bool) -> Iterator[RenderableType]:
    yield Text(f"{clean(module.module)}: {_say(module)}", "bold")
    yield from _holders(module.holders, everything=everything)
    for lack in module.lacks:
        yield Text(f"  can't be told: {clean(lack)}", "yellow")
    yield from _mentions(module.mentions)
    if module.ledger is not None:
        entry = module.ledger
        for use in entry.unmatched_gets:
            yield _use(use, "never put")
        for use in entry.unmatched_puts:
            yield _use(use, "put without a get")
        for use in entry.holders:
            if not use.static:
                yield _use(use, "held")


def _say(module: ModuleAudit) -> str:
    found = f"count {module.count}, {plural(module.accounted, 'reference')} found"
    match module.verdict:
        case "exact":
            return f"{found}, all accounted for"
        case "none":
            return "the kernel keeps no count"
        case "missing":
            return f"{found}: {-module.unaccounted} too few, put by someone who had none"
        case "uncountable":
            return f"{found}, {module.unaccounted} unaccounted for, where this dump can't tell all"
        case _:
            return f"{found}, {module.unaccounted} unaccounted for: dynamic, and by whom is not recorded"


def _holders(holders: tuple[Holder, ...], *, everything: bool) -> Iterator[RenderableType]:
    shown = holders if everything else holders[:MOST_SHOWN]
    for holder in shown:
        line = Text(f"  {holder.count:>3} ", "dim").append(f"{clean(holder.kind):<16} ", "default")
        line.append(f"{holder.type} {holder.address:#x}  ", "dim")
        yield line.append(clean(holder.path), "default")
    if len(shown) < len(holders):
        yield Text(f"  and {len(holders) - len(shown)} more (--all)", "dim")


def _use(use: LedgerUse, what: str) -> Text:
    way = clean(" ← ".join(use.path) or use.function)
    sure = f", {use.certainty}" if use.certainty else ""
    return Text(f"  ledger: {plural(use.count, 'reference')} {what}{sure}: {way} ({clean(use.holder)})")


def _dangling(one: Dangling) -> Iterator[RenderableType]:
    pointer = one.pointer
    if one.state == "going":
        where = f"{clean(one.name)}, whose module {clean(one.module or '?')} is being removed"
    else:
        last = f" (last unloaded: {clean(one.module)})" if one.module else ""
        where = f"{clean(one.name)}, where a module was that is gone{last}"
    yield Text(f"dangling {pointer.kind}: leads to {where}", "bold red")
    line = Text(f"      {pointer.type} {pointer.address:#x}  ", "dim")
    yield line.append(clean(pointer.path), "default")


def _object(one: ObjectAudit, *, everything: bool) -> Iterator[RenderableType]:
    style = STYLES[one.verdict] or "bold"
    counts = f"count {one.count}, {plural(one.accounted, 'reference')} found"
    line = Text(f"{one.kind} {one.address:#x} ({clean(one.name)}): {one.verdict}, {counts}", style)
    yield line.append(f"; {clean(one.note)}" if one.note else "", "default")
    yield from _holders(one.holders, everything=everything)
    for tracked in one.tracked:
        way = clean(" ← ".join(tracked.stack) or "no stack was recorded")
        yield Text(f"  {tracked.count:>3} nobody found for; taken in {way}", "bold red")
        yield from (Text(f"      kept in a {clean(kept)}", "dim") for kept in tracked.objects[:MOST_SHOWN])
    yield from _mentions(one.mentions)


def _mentions(mentions: tuple[str, ...]) -> Iterator[RenderableType]:
    if mentions:
        yield Text(f"  its address is in {', '.join(mentions)}", "dim")


def _conclusion(found: Audit) -> Iterator[RenderableType]:
    verdicts = Counter(module.verdict for module in found.modules)
    said = f"{plural(len(found.modules), 'module')}: {verdicts['exact']} exact"
    for name, words in (
        ("unaccounted", "with references that nobody was found for"),
        ("missing", "with holders whose reference is gone"),
        ("uncountable", "that this dump can't tell all of"),
    ):
        if verdicts[name]:
            said += f", {verdicts[name]} {words}"
    yield Text(said, "bold red" if verdicts["unaccounted"] + verdicts["missing"] else "bold")
    for census in found.objects:
        yield _census(census)
    if found.code.dangling:
        yield Text(
            f"{plural(len(found.code.dangling), 'pointer')} into modules that are gone or going", "bold red"
        )


def _census(census: Census) -> Text:
    verdicts = Counter(one.verdict for one in census.found)
    busy = verdicts.pop("busy", 0)
    said = f"{census.kind}: {census.total:,}"
    said += f", {busy} busy (--all)" if busy else ""
    said += f" ({', '.join(census.notes)})" if census.notes else ""
    line = Text(said)
    for verdict, count in verdicts.items():
        line.append(f", {count} {verdict}", STYLES[verdict])
    return line
