"""What the events of a trace mean: which object, a get or a put, and the count that was printed.

module_get, module_put, module_load, module_free, module_request   include/trace/events/module.h
sched_process_exit                                                 include/trace/events/sched.h
kprobes and kretprobes                                             kernel/trace/trace_kprobe.c: the name of
    the event or of the probed function says get or put, unless a comment in the trace does:

    # refs: kind=kobject get=my_get put=my_put object=kobj count=refs

``object`` and ``count`` name fetched arguments. A probe at a function's entry has the count before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from ktriage.refs.names import Names
from ktriage.refs.types import NO_COUNT, Counted, Op

_SMALLEST, _LARGEST = -(1 << 31) + 1, (1 << 32) - 1

Meaning = tuple[int, int, int, bytes | None]
"""Op, object (-1: none), count (``EXIT``: the pid), call site.

A call site with ``>`` before it is the function that was probed, with which the stack begins.
"""

_REFCNT = re.compile(rb"^(\S+) +call_site=(.*?) +refcnt=(-?\d+)\s*$")
_REQUEST = re.compile(rb"^(\S+) +wait=\d+ +call_site=(.*?)\s*$")
_PROBE = re.compile(rb"^\((?P<to>[^)]*?)(?: <- (?P<function>[^)]*))?\)\s*(?P<args>.*)$", re.DOTALL)
_ARG = re.compile(rb'([A-Za-z_]\w*)=("(?:[^"\\]|\\.)*"|[^\s,]+)')
_EXIT = re.compile(rb"comm=.*? pid=(\d+)")
_GET = re.compile(r"(?:^|_)(?:get|gets|hold|grab|acquire|inc|ref|pin|add|retain|take)(?:_|\d|$)")
_PUT = re.compile(r"(?:^|_)(?:put|puts|release|drop|dec|unref|unpin|unhold|free|del|deref)(?:_|\d|$)")
_OBJECTS = (
    "object",
    "obj",
    "ref",
    "kobj",
    "kref",
    "dev",
    "sk",
    "inode",
    "dentry",
    "addr",
    "ptr",
    "this",
    "arg1",
)
_COUNTS = ("count", "refcount", "refcnt", "refs", "cnt")
_NAMES = ("name", "objname", "dname")
_GROUPS = {b"module", b"kprobes", b"sched", b"ktriage", b"probe"}
_DECLARATION = re.compile(rb"^#\s*refs:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Probes:
    """What a trace's comments say of its probes."""

    kind: str | None = None
    gets: frozenset[str] = frozenset()
    puts: frozenset[str] = frozenset()
    object: str | None = None
    count: str | None = None

    def declared(self, line: bytes) -> Probes:
        """Return the probes with a comment line's declaration added."""
        match = _DECLARATION.match(line)
        if match is None:
            return self
        words = {key.decode(): value.decode(errors="replace") for key, value in _ARG.findall(match[1])}
        gets = [word for part in re.findall(rb"\bget=(\S+)", match[1]) for word in part.decode().split(",")]
        puts = [word for part in re.findall(rb"\bput=(\S+)", match[1]) for word in part.decode().split(",")]
        return replace(
            self,
            kind=words.get("kind", self.kind),
            gets=self.gets | frozenset(gets),
            puts=self.puts | frozenset(puts),
            object=words.get("object", self.object),
            count=words.get("count", self.count),
        )


class Events:
    """Reads an event's name and arguments. Keeps what it has read: most events repeat."""

    def __init__(self, names: Names) -> None:
        self.probes = Probes()
        self.others = 0
        """Events of no concern, each distinct text counted once."""
        self._names = names
        self._known: dict[bytes, Callable[[bytes], Meaning | None]] = {
            b"module_get": self._get,
            b"module_put": self._put,
            b"module_load": self._load,
            b"module_free": self._free,
            b"module_request": self._request,
            b"sched_process_exit": self._exit,
        }

    def meaning(self, text: bytes) -> Meaning | None:
        """Return what ``name: arguments`` means, None where it is of no concern here.

        ``name`` may have its group before it, as perf writes it.
        """
        name, _, args = text.partition(b":")
        name, args = name.strip(), args.strip()
        if name in _GROUPS and b":" in args:
            name, _, args = args.partition(b":")
            args = args.strip()
        read = self._known.get(name)
        if read is not None:
            return read(args)
        if args.startswith(b"("):
            return self._probe(name.decode(errors="replace"), args)
        group, _, rest = args.partition(b":")
        if rest and b" " not in group and rest.lstrip().startswith(b"("):
            return self._probe(group.decode(errors="replace"), rest.lstrip())
        self.others += 1
        return None

    def _get(self, args: bytes) -> Meaning | None:
        return self._count(Op.GET, args)

    def _put(self, args: bytes) -> Meaning | None:
        return self._count(Op.PUT, args)

    def _count(self, op: Op, args: bytes) -> Meaning | None:
        match = _REFCNT.match(args)
        if match is None:
            return None
        return op, self._module(match[1]), number(match[3]), match[2]

    def _load(self, args: bytes) -> Meaning | None:
        return (Op.LOAD, self._module(args.split()[0]), NO_COUNT, None) if args else None

    def _free(self, args: bytes) -> Meaning | None:
        return (Op.FREE, self._module(args.split()[0]), NO_COUNT, None) if args else None

    def _request(self, args: bytes) -> Meaning | None:
        match = _REQUEST.match(args)
        return (Op.REQUEST, self._module(match[1]), NO_COUNT, match[2]) if match else None

    def _exit(self, args: bytes) -> Meaning | None:
        match = _EXIT.search(args)
        return (Op.EXIT, -1, int(match[1][:9]), None) if match else None

    def _module(self, name: bytes) -> int:
        return self._names.counted(Counted("module", name.decode(errors="replace")))

    def _probe(self, name: str, args: bytes) -> Meaning | None:
        match = _PROBE.match(args)
        if match is None:
            return None
        returned = match["function"] is not None
        probed = re.split(rb"[+ /]", match["function"] or match["to"], maxsplit=1)[0].decode(errors="replace")
        op = self._op(name, probed)
        if op is None:
            self.others += 1
            return None
        words = {key.decode(): value for key, value in _ARG.findall(match["args"])}
        if words.get("ok") in (b"0", b"0x0") or words.get("failed") not in (None, b"0", b"0x0"):
            return None
        counted = self._object(name, probed, words)
        count = next(
            (number(words[key]) for key in self._wanted(self.probes.count, _COUNTS) if key in words), NO_COUNT
        )
        if count != NO_COUNT and not returned:
            count += 1 if op is Op.GET else -1
        return op, counted, count, match["to"] if returned else b">" + probed.encode()

    def _op(self, name: str, probed: str) -> Op | None:
        for word in (name, probed):
            if word in self.probes.gets:
                return Op.GET
            if word in self.probes.puts:
                return Op.PUT
        for word in (name.lower(), probed.lower()):
            get, put = _GET.search(word), _PUT.search(word)
            if put is not None:
                return Op.PUT
            if get is not None:
                return Op.GET
        return None

    def _object(self, name: str, probed: str, words: dict[str, bytes]) -> int:
        key = next((key for key in self._wanted(self.probes.object, _OBJECTS) if key in words), None)
        if key is None:
            key = next((key for key, value in words.items() if value.startswith(b"0x")), None)
        value = words[key].decode(errors="replace").strip('"') if key else "(unknown)"
        called = next(
            (words[key].decode(errors="replace").strip('"') for key in _NAMES if key in words), None
        )
        kind = self.probes.kind or _stem(probed if probed and not probed.startswith("0x") else name)
        return self._names.counted(Counted(kind, f"{called}@{value}" if called else value))

    @staticmethod
    def _wanted(declared: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
        return (declared, *usual) if declared else usual


def _stem(function: str) -> str:
    """Return what a pair of functions is about: ``kobject`` for kobject_get and kobject_put."""
    words = [
        word for word in function.split("_") if word and not _GET.fullmatch(word) and not _PUT.fullmatch(word)
    ]
    return "_".join(words) or function


def number(text: bytes) -> int:
    """Return a decimal or hexadecimal number, ``NO_COUNT`` where it is none or no count can be so large."""
    digits = text.strip(b'"')
    if len(digits) > 20:
        return NO_COUNT
    try:
        value = int(digits, 0)
    except ValueError:
        return NO_COUNT
    if value > 0x7FFFFFFF and value <= _LARGEST:
        value -= 1 << 32  # fetched as unsigned
    return value if _SMALLEST <= value <= 0x7FFFFFFF else NO_COUNT
