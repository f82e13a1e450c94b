"""``ktriage refs``: who holds a reference, who lost one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.cli import BUG, KEEP, Parser
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from ktriage.refs.read import Reading
    from ktriage.refs.types import Account, Holder, Unmatched

HELP = "Reference counts: read traces into a ledger of who holds what and who lost it, or record one."
EXAMPLE = "ktriage refs read --tree trace.txt"

_SHOWN = 5
_FRAMES = 6


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    text = (
        "Read traces: ftrace's text, trace.dat, perf script, console logs, refs: lines; plain or compressed."
    )
    read = verbs.add_parser("read", help="read traces into a ledger", description=text)
    read.add_argument("traces", metavar="TRACE", nargs="*", help="a trace; - or none: standard input")
    read.add_argument("--case", metavar="PLACE", help=KEEP)
    read.add_argument("--bug", metavar="N", type=int, help=BUG.partition(" (")[0])
    read.add_argument("--json", action="store_true", help="print one JSON object a counted object")
    read.add_argument("--object", metavar="NAME", action="append", default=[], help="this object alone")
    read.add_argument("--tree", action="store_true", help="print the balance of gets and puts by call path")
    read.add_argument("--folded", action="store_true", help="print folded stacks for a flame graph")
    read.add_argument("--plot", metavar="FILE", type=Path, help="draw the counts over time (.svg or .png)")
    read.add_argument("--lsmod", action="store_true", help="print lsmod's table with every user named")
    read.set_defaults(verb_run=_read)
    if importlib.util.find_spec("ktriage.cli.refs_record") is not None:
        record = importlib.import_module("ktriage.cli.refs_record")
        sub = verbs.add_parser("record", help="record a trace of references", description=record.HELP)
        record.configure(sub)
        sub.set_defaults(verb_run=record.run)


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage refs``."""
    return int(args.verb_run(args))


def _read(args: argparse.Namespace) -> int:
    from ktriage.refs.read import read_ledger

    if args.plot is not None and args.plot.suffix not in (".svg", ".png"):
        raise UserError(f"{args.plot}: the picture is either .svg or .png", path=str(args.plot))
    reading = read_ledger(args.traces or ["-"], plotted=args.plot is not None or bool(args.case))
    chosen = [one for one in reading.accounts if not args.object or one.object in args.object]
    if not chosen:
        wanted = f" of {', '.join(args.object)}" if args.object else ""
        known = ", ".join(one.object for one in reading.accounts[:8])
        hint = f"there are: {known}" if known else None
        raise UserError(f"no gets or puts{wanted} in the trace", hint=hint)
    if args.plot is not None:
        _plot(reading, chosen, args.plot)
    if args.case:
        from ktriage.jobs.keeping import keep_ledger

        keep_ledger(args.case, ", ".join(args.traces) or "standard input", reading, chosen, args.bug)
    if args.folded:
        from ktriage.refs.tree import folded

        sys.stdout.writelines(f"{line}\n" for line in folded(reading.ledger, chosen))
    elif args.json:
        for account in chosen:
            sys.stdout.write(json.dumps(_as_json(reading, account, tree=args.tree)) + "\n")
    elif args.lsmod:
        _show(_lsmod(chosen))
    else:
        for account in chosen:
            _show(_told(reading, account, tree=args.tree))
    return 0


def _as_json(reading: Reading, account: Account, *, tree: bool) -> dict[str, object]:
    data: dict[str, object] = account.to_json()
    if tree:
        from ktriage.refs.tree import balance_tree

        data["tree"] = balance_tree(reading.ledger, account).to_json()
    return data


def _plot(reading: Reading, chosen: Iterable[Account], path: Path) -> None:
    from ktriage.refs.plot import draw

    numbers = {(c.kind, c.name): number for number, c in enumerate(reading.ledger.names.objects)}
    found = (
        (account, reading.ledger.series.get(numbers[account.kind, account.object])) for account in chosen
    )
    draw([(account, series) for account, series in found if series is not None], path)


def _show(lines: Iterator[tuple[str, str]]) -> None:
    """Print lines, each with its style."""
    from rich.console import Console
    from rich.text import Text

    from ktriage.case.text import clean

    if sys.stdout.isatty():
        console = Console(highlight=False)
        for style, line in lines:
            console.print(Text(clean(line), style), soft_wrap=True)
        return
    sys.stdout.writelines(f"{clean(line)}\n" for _, line in lines)


def _told(reading: Reading, account: Account, *, tree: bool) -> Iterator[tuple[str, str]]:
    """Yield what is to be said of one object."""
    kind = "" if account.kind == "module" else f"{account.kind} "
    now = "its count was not printed" if account.last is None else f"count {account.first} to {account.last}"
    ended = ", freed" if account.ended else ""
    yield "bold", f"{kind}{account.object}: {account.gets} gets, {account.puts} puts, {now}{ended}"
    if account.underflow is not None:
        wrong = account.underflow
        who = f" ({wrong.task})" if wrong.task and wrong.task != wrong.holder else ""
        count = f", which left {wrong.count}" if wrong.count is not None else ""
        what = f"{wrong.function} by {wrong.holder}{who}{count}"
        yield "red", f"  first wrong at {wrong.time:.6f} s, event {wrong.event}: {what}"
    for title, entries in (("never put", account.unmatched_gets), ("put too often", account.unmatched_puts)):
        for entry in entries[:_SHOWN]:
            yield from _accusation(title, entry)
        if len(entries) > _SHOWN:
            yield "dim", f"  and {len(entries) - _SHOWN} more paths of it"
    if not (account.unmatched_gets or account.unmatched_puts or account.underflow):
        yield "", "  nothing speaks against anyone"
    yield from _held(account.holders)
    for note in account.notes:
        yield "yellow", f"  note: {note}"
    if tree:
        yield from _tree(reading, account)
    yield "", ""


def _accusation(title: str, entry: Unmatched) -> Iterator[tuple[str, str]]:
    task = f" ({entry.task})" if entry.task and entry.task != entry.holder else ""
    yield "red", f"  {title}: {entry.count} by {entry.function} for {entry.holder}{task}, {entry.certainty}"
    yield "", f"    since {entry.first_seen:.6f} s; {entry.note}"
    more = f" < ... {len(entry.path) - _FRAMES} more" if len(entry.path) > _FRAMES else ""
    yield "dim", f"    {' < '.join(entry.path[:_FRAMES])}{more}"
    if entry.others:
        yield "dim", f"    or one of {len(entry.others)} other paths that can't be told apart from it"


def _held(holders: tuple[Holder, ...]) -> Iterator[tuple[str, str]]:
    if not holders:
        return
    yield "", "  held at the end:"
    for holder in holders[: 2 * _SHOWN]:
        how = "linked to it" if holder.static else f"by {holder.function}"
        since = f" since {holder.since:.6f} s" if holder.since is not None else ""
        yield "", f"    {holder.count:4} {holder.holder}, {how}{since}"
    if len(holders) > 2 * _SHOWN:
        yield "dim", f"    and {len(holders) - 2 * _SHOWN} more holders"


def _tree(reading: Reading, account: Account) -> Iterator[tuple[str, str]]:
    from ktriage.refs.tree import balance_tree, printed

    yield "dim", f"  {'gets':>9} {'puts':>9} {'balance':>8}"
    for line in printed(balance_tree(reading.ledger, account)):
        wrong = f"   <- {line.leaked} never put" if line.leaked else ""
        wrong += f"   <- {line.overput} put too often" if line.overput else ""
        text = f"[{line.folded} in balance: {line.text}]" if line.folded else line.text
        style = "dim" if line.folded else "red" if wrong else ""
        yield (
            style,
            f"  {line.gets:9} {line.puts:9} {line.gets - line.puts:+8}  {'  ' * line.depth}{text}{wrong}",
        )


def _lsmod(chosen: Iterable[Account]) -> Iterator[tuple[str, str]]:
    """Yield lsmod's table, with every user named that the trace knows of."""
    rows = [("Module", "Used", "by")]
    for account in chosen:
        users = [
            f"{holder.holder} ({'linked' if holder.static else f'{holder.count} by {holder.function}'})"
            for holder in account.holders
        ]
        count = "?" if account.last is None else str(account.last)
        rows.append((account.object, "-" if account.ended else count, ", ".join(users)))
    width = max(len(row[0]) for row in rows)
    for at, (name, used, users_text) in enumerate(rows):
        yield ("dim" if at == 0 else ""), f"{name:<{width}}  {used:>4}  {users_text}"
