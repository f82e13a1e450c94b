"""The report ``waits`` of ``ktriage dump show``: trees of waiting tasks, and their stacks."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ktriage.dump.core import Vmcore
    from ktriage.dump.waits_types import Root, Wait, Waits

MOST_WAITERS = 30
"""Tasks that are shown below one root; ``--all`` shows all."""
STYLES = {"deadlock": "bold red", "dead": "bold red", "crashed": "bold red", "running": "yellow"}


def show_waits(core: Vmcore, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print who waits for whom; ``show`` prints what is for people."""
    from ktriage.dump.waits import find_waits

    waits = find_waits(core)
    if args.json:
        for item in (*(r.to_json() for r in waits.roots), *(w.to_json() for w in waits.waits)):
            sys.stdout.write(json.dumps(item) + "\n")
        return
    show(_head(waits))
    for root in waits.roots:
        show("", *_tree(waits, root, everything=args.all))
    if waits.held:
        show("", Text("held by whom, waited for or not", "dim"))
        show(*(Text(f"  {name}  {holder}{' (dead)' if holder.dead else ''}") for name, holder in waits.held))
    if waits.waits:
        show("", Text("stacks, the most common first", "dim"))
        for lines in _stacks(waits, args):
            show(*lines)


def _head(waits: Waits) -> Text:
    from ktriage.case.text import plural

    blocked = plural(len(waits.waits), "task") + (" is" if len(waits.waits) == 1 else " are")
    return Text(f"{blocked} blocked; {waits.asleep} more sleep, which a signal would end")


def _tree(waits: Waits, root: Root, *, everything: bool) -> Iterator[Text]:
    from ktriage.case.text import clean

    yield Text(clean(root.says), STYLES.get(root.kind, "bold"))
    by_task = {wait.task.identity: wait for wait in waits.waits}
    first = {task.identity for task in root.tasks if task.identity in by_task}
    seen: set[tuple[int, bool]] = set()
    todo = [(wait, 0) for wait in waits.waits if wait.task.identity in first]
    if not todo:
        holders = {task.identity for task in root.tasks}
        todo = [(wait, 0) for wait in waits.waits if any(h.identity in holders for h in wait.holders)]
    while todo:
        wait, depth = todo.pop(0)
        if wait.task.identity in seen:
            continue
        if len(seen) >= MOST_WAITERS and not everything:
            yield Text(f"  and {len(root.waiters) - len(seen)} more (--all)", "dim")
            return
        seen.add(wait.task.identity)
        yield from _wait(wait, depth)
        behind = [w for w in waits.waits if any(h.identity == wait.task.identity for h in w.holders)]
        todo = [(w, depth + 1) for w in behind] + todo


def _wait(wait: Wait, depth: int) -> Iterator[Text]:
    from ktriage.case.text import clean, duration

    since = f" since {duration(wait.seconds)}" if wait.seconds is not None else ""
    indent = "  " * (depth + 1)
    line = Text(f"{indent}{clean(str(wait.task))} {wait.task.state}{since}: {wait.kind.value} ")
    line.append(clean(wait.what), "cyan")
    if wait.holders:
        line.append(" <- " + ", ".join(clean(str(holder)) for holder in wait.holders[:4]))
    yield line
    if wait.actor:
        yield Text(f"{indent}  {clean(wait.actor)}", "dim")
    if wait.evidence:
        yield Text(f"{indent}  {clean('; '.join(wait.evidence))}", "dim")


def _stacks(waits: Waits, args: argparse.Namespace) -> Iterator[list[object]]:
    from ktriage.case.terminal import render_stack
    from ktriage.case.text import clean
    from ktriage.dump.waits import by_stack

    for same in by_stack(waits.waits):
        names = ", ".join(clean(str(wait.task)) for wait in same)
        yield [Text(f"{len(same)} x {names}" if len(same) > 1 else names, "bold")]
        if args.all:
            yield [render_stack(same[0].stack, src=args.src)]
        else:
            functions = [clean(f.function) for f in same[0].stack if not f.inline]
            shown = [name for name in functions if "schedule" not in name]
            yield [Text("  " + " < ".join(shown), "dim")]
