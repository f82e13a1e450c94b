"""A trace as batches of events, and traces as accounts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ktriage.errors import UserError
from ktriage.inputs import name_of
from ktriage.refs import sources
from ktriage.refs.columns import Columns
from ktriage.refs.ftrace import Ftrace
from ktriage.refs.judge import accounts
from ktriage.refs.ledger import Ledger
from ktriage.refs.names import Names
from ktriage.refs.perf import HEADER, Perf
from ktriage.refs.text import Text
from ktriage.refs.types import Account

Reader = Ftrace | Perf | Text

_HEAD = 1 << 16
_LONGEST = 4096
_FTRACE = re.compile(rb"^ *\S.*-\d+ +(?:\([ \d-]+\) *)?\[\d+\]|^# tracer: |^ *=> |^CPU:\d+ \[", re.MULTILINE)
_TEXT = re.compile(
    rb"\brefs: (?:get|put|free|lost) |users at$|refcount_t: |unregister_netdevice: |leaked reference"
)


def reader_for(head: bytes, names: Names) -> Reader:
    """Return the reader of the format that most lines of ``head`` are in."""
    lines = head.split(b"\n")[:-1] or [head]
    votes: dict[type[Reader], int] = {
        Ftrace: sum(1 for _ in _FTRACE.finditer(head)),
        Perf: sum(1 for line in lines if len(line) < _LONGEST and HEADER.match(line) is not None),
        Text: 4 * sum(1 for _ in _TEXT.finditer(head)),
    }
    best = max(votes, key=lambda reader: votes[reader])
    return best(names) if votes[best] else Text(names)


def batches(path: str, names: Names) -> Iterator[Columns]:
    """Yield the events of the trace at ``path`` ("-": standard input).

    Raises UserError where it can't be read or has no events in it.
    """
    reader: Reader | None = None
    head = b""
    for chunk in sources.chunks(path):
        if reader is not None:
            yield reader.feed(chunk)
            continue
        head += chunk
        if len(head) >= _HEAD:
            reader = reader_for(head[:_HEAD], names)
            yield reader.feed(head)
    if reader is None:
        reader = reader_for(head, names)
        yield reader.feed(head)
    yield reader.close()
    if not reader.seen:
        raise UserError(
            f"{name_of(path)}: no trace events and no lines about references in it",
            hint="ftrace's text, trace-cmd report, perf script, a console log or refs: lines are read",
            path=path,
        )


def read_lines(lines: Iterable[str]) -> list[Account]:
    """Return the accounts of a trace given as lines."""
    names = Names()
    ledger = Ledger(names)
    reader = Ftrace(names)
    ledger.feed(reader.feed("".join(f"{line}\n" for line in lines).encode()))
    ledger.feed(reader.close())
    return accounts(ledger)


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read: the accounts, the worst first, and the ledger that they are from."""

    accounts: list[Account]
    ledger: Ledger


def read_ledger(paths: Iterable[str], *, plotted: bool = False) -> Reading:
    """Read traces one after the other; ``plotted`` keeps the counts over time.

    Raises UserError where one can't be read or has nothing in it.
    """
    names = Names()
    ledger = Ledger(names, plotted)
    for path in paths:
        for batch in batches(path, names):
            ledger.feed(batch)
    return Reading(accounts(ledger), ledger)


def read_traces(paths: Iterable[str]) -> list[Account]:
    """Return the account of every counted object in the traces, those with something wrong first."""
    return read_ledger(paths).accounts
