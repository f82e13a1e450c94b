"""What ``perf script`` prints: an event a line, its stack below it, a blank line behind.

    insmod   412 [001]    12.345678: module:module_get: ulp call_site=f refcnt=2
            ffffffff8114e5a1 try_module_get+0x51 ([kernel.kallsyms])

Between time and event there may be a period; with ``-F pid,tid`` the task is ``412/413``. Events that were
recorded without stacks (no ``-g``) have no blank line behind, and names of tasks are set flush right.
"""

from __future__ import annotations

import re

from ktriage.refs.columns import Columns, columns
from ktriage.refs.events import Events
from ktriage.refs.ftrace import nanoseconds
from ktriage.refs.names import Names
from ktriage.refs.stacks import Stacks
from ktriage.refs.types import NO_PATH, NOBODY, Batch, Op, Task

HEADER = re.compile(
    rb"^ *(?P<comm>\S.*?) +(?:\d+/)?(?P<pid>-?\d{1,10}) +(?:\[(?P<cpu>\d{1,5})\] +)?(?P<time>\d+\.\d+): +"
    rb"(?:\d+ +)?(?P<event>[\w.-]+:[\w.-]+|[\w.-]+): *(?P<args>.*)$"
)
_LOST = re.compile(rb"PERF_RECORD_LOST(?:_SAMPLES)?\D*(?P<count>\d*)")
_MOST_REST = 1 << 20
_NO_STACK = 64 << 10
"""A stack is shorter (127 frames): where no blank line comes for so long, there are none."""


class Perf:
    """Reads the text chunk by chunk, however it is cut."""

    def __init__(self, names: Names) -> None:
        self.events = Events(names)
        self.seen = 0
        self.damaged = 0
        self._names = names
        self._stacks = Stacks(names)
        self._rest = b""

    def feed(self, data: bytes) -> Columns:
        """Read a chunk and return the events that are complete."""
        data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        if cut < 2:
            cut = data.rfind(b"\n") + 1 if len(data) > _NO_STACK else 0
        if not cut and len(data) > _MOST_REST:
            cut = len(data)
        self._rest = data[cut:]
        return self._read(data[:cut])

    def close(self) -> Columns:
        """Return the events that are left."""
        rest, self._rest = self._rest, b""
        return self._read(rest)

    def _read(self, data: bytes) -> Columns:
        batch = Batch()
        stack: list[bytes] = []
        site: bytes | None = None
        waiting = False
        for line in (*data.split(b"\n"), b""):
            if waiting and _is_frame(line):
                stack.append(line)
                continue
            if waiting and stack:
                batch.paths[-1] = self._stacks.perf(b"\n".join(stack), site)
            stack.clear()
            if not line.strip():
                waiting = False
                continue
            waiting, site = self._line(batch, line)
        return columns(batch)

    def _line(self, batch: Batch, line: bytes) -> tuple[bool, bytes | None]:
        """Read an event's line; return whether a stack of it is wanted, and its call site."""
        match = HEADER.match(line)
        lost = _LOST.search(line) if b"PERF_RECORD_LOST" in line else None
        if lost is not None:
            last = batch.times[-1] if batch.times else 0
            cpu = int(match["cpu"]) if match and match["cpu"] else 0
            batch.add(last, cpu, NOBODY, Op.LOST, -1, int(lost["count"][:15] or 0), NO_PATH)
            return False, None
        if match is None:
            if line.startswith(b"#"):
                self.events.probes = self.events.probes.declared(line)
            else:
                self.damaged += 1
            return False, None
        self.seen += 1
        meaning = self.events.meaning(match["event"] + b": " + match["args"])
        if meaning is None:
            return False, None
        op, counted, count, site = meaning
        comm = match["comm"].decode(errors="replace")
        task = self._names.task(Task(comm, int(match["pid"])))
        batch.add(
            nanoseconds(match["time"]),
            int(match["cpu"] or 0),
            task,
            op,
            counted,
            count,
            self._stacks.site(site),
        )
        return True, site


def _is_frame(line: bytes) -> bool:
    """Return whether a line is a stack's: indented, as an event's may be, too, and no event."""
    indented = line[:1] == b"\t" or (line[:8].isspace() and HEADER.match(line) is None)
    return indented and bool(line.strip())
