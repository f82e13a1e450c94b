"""Lines of logs: our own one-line format, and what the kernel itself says of counts.

The format, for whatever can print a line (a driver's printk, a bpftrace script):

    refs: get OBJECT [kind=WORD] [count=N] [time=SECONDS] [cpu=N] [task=COMM-PID] [via=FUNCTION]
         [stack=INNER;OUTER;...]
    refs: put OBJECT ...
    refs: free OBJECT        the object is gone
    refs: lost N             so many events were lost here

``count`` is the count after the event; ``via`` names the function that counts, which is no one's fault, where
the stack begins with it. Anything may stand before ``refs:``; a time stamp there is the time if
no ``time`` is given. The stack may come in indented lines below instead, a function each.

From a console log, and debugfs' ref_tracker files (lib/ref_tracker.c):

    ref_tracker: NAME@ADDRESS has 2/3 users at      since 6.5, the stack below
    ref_tracker: leaked reference.                  before, and so for each reference
    refcount_t: underflow; use-after-free.          lib/refcount.c, the stack behind "Call Trace:"
    unregister_netdevice: waiting for eth0 to become free. Usage count = 2
"""

from __future__ import annotations

import re

from ktriage.refs.columns import Columns, columns
from ktriage.refs.events import number
from ktriage.refs.ftrace import nanoseconds
from ktriage.refs.names import Names
from ktriage.refs.stacks import Stacks
from ktriage.refs.types import NO_COUNT, NO_PATH, NOBODY, Batch, Counted, Op, Task

_OURS = re.compile(rb"\brefs: (get|put|free|lost) +(\S+)(.*)$")
_STAMP = re.compile(rb"(?:^|[\s>])\[ *(\d+\.\d+)\]")
_PREFIX = re.compile(rb"^(?:<\d+>)?(?:\S.*?: )?(?:\[ *\d+\.\d+\])?(?:\[ *[TC]\d+\])? ?")
_WORD = re.compile(rb"(\w+)=(\S+)")
_TASK = re.compile(r"^(.*)-(\d+)$")
_USERS = re.compile(rb"(?:^|[\s:])(\S+)@([0-9a-fx(]\S*) has (\d+)/(\d+) users at")
_LEAKED = re.compile(rb"leaked reference\.|reference already released\.")
_WAITING = re.compile(rb"unregister_netdevice: waiting for (\S+) to become free\. Usage count = (-?\d+)")
_REFCOUNT = re.compile(
    rb"refcount_t: (underflow|saturated|addition on 0|decrement hit 0|increment on 0|sub underflow)[^\r\n]*"
)
_WORDS = (b"ref", b" users at", b"unregister_netdevice")
_FRAME = re.compile(
    rb"^(?:\? )?[A-Za-z_.$][\w.$@]*\+(?:0x[0-9a-f]+(?:/0x[0-9a-f]+)?|\d+)(?: \[[\w.-]+\S*\])?\s*$"
)
_NOISE = re.compile(rb"^(?:Call Trace:|</?(?:TASK|IRQ|SOFTIRQ|NMI)>|\s*$)")
_WARN_SELF = re.compile(rb"^(?:refcount_warn_saturate|refcount_\w+)\b")
_LONGEST_WAIT = 120
"""So many lines after a complaint of the kernel its stack may begin."""
_MOST_REST = 1 << 20

Row = tuple[int, int, int, int]
"""Op, object, count, time: a line whose stack comes below."""


class Text:
    """Reads lines chunk by chunk, however they are cut."""

    def __init__(self, names: Names) -> None:
        self.seen = 0
        self.damaged = 0
        self._names = names
        self._stacks = Stacks(names)
        self._rest = b""
        self._batch = Batch()
        self._block: list[bytes] = []
        self._open = False
        """The last event may have a stack in the lines that follow."""
        self._patience = 0
        self._time = 0
        self._probed: bytes | None = None

    def feed(self, data: bytes) -> Columns:
        """Read a chunk and return the events that are complete."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _MOST_REST:
            self._rest = b""
            self.damaged += 1
        for line in lines:
            self._line(line.rstrip(b"\r"))
        return self._taken(1 if self._open else 0)

    def close(self) -> Columns:
        """Return the events that are left."""
        self._line(self._rest)
        self._rest = b""
        self._stack_ends()
        return self._taken(0)

    def _taken(self, keep: int) -> Columns:
        batch = self._batch
        cut = max(0, len(batch) - keep)
        self._batch = Batch(*(getattr(batch, name)[cut:] for name in Batch.__slots__))
        return columns(Batch(*(getattr(batch, name)[:cut] for name in Batch.__slots__)))

    def _line(self, line: bytes) -> None:
        if self._open and self._in_stack(line):
            return
        if not any(word in line for word in _WORDS):
            return
        stamp = _STAMP.search(line)
        if stamp is not None:
            self._time = nanoseconds(stamp[1])
        ours = _OURS.search(line)
        if ours is not None:
            self._stack_ends()
            self._ours(ours[1], ours[2], ours[3])
            return
        self._kernels(line)

    def _in_stack(self, line: bytes) -> bool:
        """Return whether the line belongs to the stack that is being read."""
        text = _PREFIX.sub(b"", line, count=1)
        if _FRAME.match(text.strip()) and (text[:1].isspace() or line[:1].isspace() or self._patience):
            if not self._block and _WARN_SELF.match(text.strip()):
                return True
            if not text.strip().startswith(b"?"):
                self._block.append(b" " + text.strip())
            return True
        if not self._block and (self._patience or _NOISE.match(text.strip())):
            self._patience = max(0, self._patience - 1)
            self._open = self._patience > 0 or bool(_NOISE.match(text.strip()))
            return bool(_NOISE.match(text.strip()))
        self._stack_ends()
        return False

    def _stack_ends(self) -> None:
        if self._open and self._block and len(self._batch):
            self._batch.paths[-1] = self._stacks.plain(b"\n".join(self._block), self._probed)
        self._block.clear()
        self._open, self._patience = False, 0

    def _ours(self, verb: bytes, name: bytes, rest: bytes) -> None:
        self.seen += 1
        if verb == b"lost":
            self._batch.add(self._time, 0, NOBODY, Op.LOST, -1, max(0, number(name)), NO_PATH)
            return
        head, _, stack = rest.partition(b" stack=")
        words = {key.decode(): value for key, value in _WORD.findall(head)}
        if "time" in words:
            self._time = nanoseconds(words["time"])
        kind = words.get("kind", b"object").decode(errors="replace")
        counted = self._names.counted(Counted(kind, name.decode(errors="replace")))
        count = number(words["count"]) if "count" in words else NO_COUNT
        cpu = number(words.get("cpu", b"0"))
        self._probed = b">" + words["via"] if "via" in words else None
        path = self._stacks.folded(stack, self._probed) if stack else self._stacks.site(self._probed)
        op = {b"get": Op.GET, b"put": Op.PUT, b"free": Op.FREE}[verb]
        self._batch.add(self._time, max(0, cpu), self._task(words), op, counted, count, path)
        self._open = not stack

    def _task(self, words: dict[str, bytes]) -> int:
        text = words.get("task", b"").decode(errors="replace")
        match = _TASK.match(text)
        if match is not None:
            return self._names.task(Task(match[1], int(match[2][:9])))
        if text in ("softirq", "hardirq", "nmi"):
            return self._names.task(Task("", 0, text))
        return self._names.task(Task(text, 0)) if text else NOBODY

    def _kernels(self, line: bytes) -> None:
        users = _USERS.search(line)
        if users is not None:
            name = f"{users[1].decode(errors='replace')}@{users[2].decode(errors='replace')}"
            self._said(Op.HELD, "ref_tracker", name, int(users[3][:9]))
            return
        if _LEAKED.search(line):
            self._said(Op.HELD, "ref_tracker", "(unnamed)", 1)
            return
        waiting = _WAITING.search(line)
        if waiting is not None:
            self._said(Op.WRONG, "netdev", waiting[1].decode(errors="replace"), number(waiting[2]))
            self._open = False
            return
        complaint = _REFCOUNT.search(line)
        if complaint is not None:
            self._said(Op.WRONG, "refcount_t", complaint[1].decode(), NO_COUNT)
            self._patience = _LONGEST_WAIT

    def _said(self, op: Op, kind: str, name: str, count: int) -> None:
        self._stack_ends()
        self.seen += 1
        counted = self._names.counted(Counted(kind, name))
        self._batch.add(self._time, 0, NOBODY, op, counted, count, NO_PATH)
        self._open, self._patience = True, 0
