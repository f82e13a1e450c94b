"""ftrace's text: ``trace``, ``trace_pipe`` and ``trace-cmd report``.

    #           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
              insmod-412     [001] .....    12.345678: module_get: ulp call_site=f refcnt=2
              insmod-412     [001] .....    12.345678: <stack trace>
     => f

The stack is an event of its own behind the one it belongs to, on the same CPU. Between the two, events of
other CPUs may come. The flags are there or not (``irq-info``), as is a thread group's id (``record-tgid``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from ktriage.refs.columns import Columns, Ints
from ktriage.refs.events import Events, Meaning
from ktriage.refs.names import Names
from ktriage.refs.stacks import Stacks
from ktriage.refs.types import NO_PATH, NOBODY, Op, Task

_MOST_TEXTS = 1 << 16
_KEPT = 64
"""So many events at a chunk's end wait for their stacks."""
_KEPT_LINES = 3
_MOST_REST = 1 << 18
_NOTHING, _A_STACK = -1, -2
_LONG_STAMP = 17
_LATEST = 1 << 62

_WHO = re.compile(rb"^ *(.*)-(\d{1,10}) +(?:\([ \d-]+\) *)?\[(\d{1,5})\]$")
# With the option latency-format: the CPU stands before the flags, the time is in microseconds.
_LATENCY = re.compile(rb"^ *(.*)-(\d{1,10}) +(\d{1,4})[.\w#]{3,6} +(?=\d+us[ $@*#!+]?: )")
_LOST = re.compile(rb"^CPU:(\d+) \[(?:LOST (?:(\d+) )?EVENTS|(?:(\d+) )?EVENTS DROPPED)\]")
_WRITTEN = re.compile(rb"^# entries-in-buffer/entries-written: (\d+)/(\d+)")
_STACK = (b": <stack trace>", b"<stack trace >")
_STACKS = (b"<stack trace>", b"<stack trace >", b"kernel_stack:")
_INTERRUPTS = {b"s": "softirq", b"h": "hardirq", b"H": "hardirq", b"Z": "nmi", b"z": "nmi"}
_PREAMBLE = re.compile(rb"^(?:version = |cpus=|CPU \d+ is empty|trace-cmd|\s*$|=>)")


@dataclass(slots=True)
class _Rows:
    """Events as numbers of table entries."""

    times: list[int] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    meanings: list[int] = field(default_factory=list)
    paths: list[int] = field(default_factory=list)

    def split(self, cut: int) -> _Rows:
        """Take the rows from ``cut`` on off this and return them."""
        rest = _Rows(*(getattr(self, name)[cut:] for name in _Rows.__slots__))
        for name in _Rows.__slots__:
            del getattr(self, name)[cut:]
        return rest

    def columns(self, table: Ints) -> Columns:
        """Return the events; ``table`` has op, object and count of each meaning."""
        times, cpus, tasks, numbers, paths = (
            np.array(getattr(self, name), np.int64) for name in _Rows.__slots__
        )
        known = table[numbers] if len(table) else np.zeros((0, 3), np.int64)
        return Columns(times, cpus, tasks, known[:, 0], known[:, 1], known[:, 2], paths)


class Ftrace:
    """Reads the text chunk by chunk, however it is cut.

    What a line says is looked up in tables by its bytes, as most of it repeats: who ran (up to the CPU), the
    event with its arguments, and the stack. Only numbers of table entries are kept for an event.
    """

    def __init__(self, names: Names) -> None:
        self.events = Events(names)
        self.seen = 0
        """Distinct events read, of whatever kind."""
        self.damaged = 0
        """Lines that are none of this format's."""
        self._names = names
        self._stacks = Stacks(names)
        self._rest = b""
        self._rows = _Rows()
        self._waiting: dict[int, int] = {}
        self._who: dict[bytes, tuple[int, int, int]] = {}
        self._texts: dict[bytes, int] = {}
        self._meanings: list[Meaning] = []
        self._table = np.zeros((0, 3), np.int64)
        self._sites: list[dict[bytes, int]] = []
        self._paths: list[int] = []
        self._by_site: dict[bytes | None, dict[bytes, int]] = {}

    def feed(self, data: bytes) -> Columns:
        """Read a chunk and return the events that are complete."""
        data = self._rest + data
        starts, ends = _headers(data)
        # The last event's stack may go on in the next chunk, and begin there.
        if len(starts) <= _KEPT_LINES:
            self._rest = data if len(data) < _MOST_REST else b""
            self.damaged += not self._rest and bool(data)
            return self._taken(_KEPT)
        cut = starts[-_KEPT_LINES]
        self._rest = data[cut:] if len(data) - cut < _MOST_REST else b""
        self._read(data, starts[:-_KEPT_LINES], ends[:-_KEPT_LINES], cut)
        return self._taken(_KEPT)

    def close(self) -> Columns:
        """Return the events that are left."""
        data = self._rest if self._rest.endswith(b"\n") else self._rest + b"\n"
        self._rest = b""
        starts, ends = _headers(data)
        self._read(data, starts, ends, len(data))
        return self._taken(0)

    def _taken(self, keep: int) -> Columns:
        rows = self._rows
        waiting = [index for index in self._waiting.values() if index >= len(rows.times) - keep]
        cut = min(waiting, default=len(rows.times))
        self._rows = rows.split(cut)
        self._waiting = {cpu: index - cut for cpu, index in self._waiting.items() if index >= cut}
        if len(self._table) != len(self._meanings):
            new = np.array([meaning[:3] for meaning in self._meanings[len(self._table) :]], np.int64)
            self._table = np.concatenate((self._table, new))
        found = rows.columns(self._table)
        if len(self._meanings) > _MOST_TEXTS:
            self._forget()
        return found

    def _forget(self) -> None:
        """Begin the table of meanings anew, with those of the events that wait."""
        old, self._meanings = self._meanings, []
        self._sites.clear()
        self._paths.clear()
        self._texts.clear()
        self._table = self._table[:0]
        self._rows.meanings[:] = [self._number(old[number]) for number in self._rows.meanings]

    def _read(self, data: bytes, starts: list[int], ends: list[int], end: int) -> None:
        texts, whos, rows = self._texts, self._who, self._rows
        note_time, note_cpu, note_task = rows.times.append, rows.cpus.append, rows.tasks.append
        note_meaning, note_path = rows.meanings.append, rows.paths.append
        sites, site_paths = self._sites, self._paths
        starts.append(end)
        lines = enumerate(ends)
        for index, stop in lines:
            line = data[starts[index] : stop]
            who = whos.get(line[: line.find(b"] ") + 1]) or self._someone(line)
            if who is None:
                continue
            task, cpu, at = who
            colon = line.find(b": ", at)
            text = line[colon + 2 :]
            known = texts.get(text)
            if known is None:
                known = self._meaning(text)
            if known < 0:
                if known == _A_STACK:
                    self._stack(cpu, data[stop + 1 : starts[index + 1]])
                else:
                    self._waiting.pop(cpu, None)
                continue
            fields = line[at:colon].split() or [b""]
            stamp = fields[-1]
            if len(fields) == 2 and fields[0][2:3] in _INTERRUPTS:
                task = self._interrupt(_INTERRUPTS[fields[0][2:3]])
            if (
                stamp[-7:-6] == b"."
                and len(stamp) < _LONG_STAMP
                and (digits := stamp.replace(b".", b"")).isdigit()
            ):
                note_time(int(digits) * 1000)
            else:
                note_time(nanoseconds(stamp))
            note_cpu(cpu)
            note_task(task)
            note_meaning(known)
            if index + 1 < len(ends):
                after = data[starts[index + 1] : ends[index + 1]]
                if (
                    after.endswith(_STACK)
                    and after.startswith(line[:at])
                    and after.startswith(_STACKS, after.find(b": ", at) + 2)
                ):
                    block = data[ends[index + 1] + 1 : starts[index + 2]]
                    note_path(sites[known].get(block) or self._new_stack(known, block))
                    self._waiting.pop(cpu, None)
                    next(lines)
                    continue
            self._waiting[cpu] = len(rows.paths)
            note_path(site_paths[known])

    def _stack(self, cpu: int, block: bytes) -> None:
        """Give a stack to the CPU's last event."""
        row = self._waiting.pop(cpu, None)
        if row is not None:
            self._rows.paths[row] = self._new_stack(self._rows.meanings[row], block)

    def _new_stack(self, meaning: int, block: bytes) -> int:
        known = self._sites[meaning]
        if len(known) >= _MOST_TEXTS:
            known.clear()
        path = known[block] = self._stacks.ftrace(block, self._meanings[meaning][3])
        return path

    def _meaning(self, text: bytes) -> int:
        """Return the number of what an event means, ``_A_STACK``, or ``_NOTHING`` if it is of no concern."""
        if text.startswith(_STACKS):
            return _A_STACK
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.clear()
        meaning = self.events.meaning(text) if b":" in text else None
        self.seen += b":" in text
        number = _NOTHING
        if meaning is not None:
            number = self._number(meaning)
        self._texts[text] = number
        return number

    def _number(self, meaning: Meaning) -> int:
        self._meanings.append(meaning)
        site = meaning[3]
        self._sites.append(self._by_site.setdefault(site, {}))
        self._paths.append(self._stacks.site(site))
        return len(self._meanings) - 1

    def _interrupt(self, context: str) -> int:
        return self._names.task(Task("", 0, context))

    def _someone(self, line: bytes) -> tuple[int, int, int] | None:
        """Return task, CPU and where the line goes on; None for a line that is no event."""
        at = -1
        for _ in range(4):  # a task's name may have brackets
            at = line.find(b"] ", at + 1)
            if at < 0:
                break
            match = _WHO.match(line[: at + 1])
            if match is not None:
                known = self._task(match[1], match[2]), int(match[3]), at + 1
                if len(self._who) >= _MOST_TEXTS:
                    self._who.clear()
                if line.find(b"] ") == at:
                    self._who[line[: at + 1]] = known
                return known
        latency = _LATENCY.match(line)
        if latency is not None:
            return self._task(latency[1], latency[2]), int(latency[3]), latency.end()
        self._other(line)
        return None

    def _task(self, comm: bytes, pid: bytes) -> int:
        return self._names.task(Task(comm.decode(errors="replace"), int(pid)))

    def _other(self, line: bytes) -> None:
        lost = _LOST.match(line)
        if lost is not None:
            self._lost(int(lost[1]), int((lost[2] or lost[3] or b"0")[:15]))
            return
        written = _WRITTEN.match(line)
        if written is not None:
            gone = int(written[2][:15]) - int(written[1][:15])
            if gone > 0:
                self._lost(-1, gone)
        elif line.startswith(b"#"):
            self.events.probes = self.events.probes.declared(line)
        elif line.strip() and not _PREAMBLE.match(line):
            self.damaged += 1

    def _lost(self, cpu: int, count: int) -> None:
        rows = self._rows
        rows.times.append(rows.times[-1] if rows.times else 0)
        rows.cpus.append(cpu)
        rows.tasks.append(NOBODY)
        rows.meanings.append(self._number((Op.LOST, -1, count, None)))
        rows.paths.append(NO_PATH)


def nanoseconds(text: bytes) -> int:
    """Return a time stamp as nanoseconds: seconds with a fraction, ``12us``, or a counter as it is."""
    whole, dot, fraction = text.partition(b".")
    try:
        if b"us" in text:
            return int(text.partition(b"us")[0][:15]) * 1000
        if not dot:
            return min(int(whole[:20]), _LATEST)
        return min(int(whole[:12]) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")), _LATEST)
    except ValueError:
        return 0


def _headers(data: bytes) -> tuple[list[int], list[int]]:
    """Return where lines begin and end that are no entries of a stack."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == 10)
    starts = np.empty_like(ends)
    if len(ends) == 0:
        return [], []
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    first = text[starts]
    second = text[np.minimum(starts + 1, len(text) - 1)]
    third = text[np.minimum(starts + 2, len(text) - 1)]
    entry = ((first == 61) & (second == 62)) | ((first == 32) & (second == 61) & (third == 62))
    kept = ~entry
    return starts[kept].tolist(), ends[kept].tolist()
