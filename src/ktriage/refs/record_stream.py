"""What a guest sent while it recorded (machine/tracer.c), and the trace that it makes, as text."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from ktriage.refs.record_events import CALLER, COUNT, LIFE, PLACED
from ktriage.refs.record_pages import (
    COMMON,
    HARDIRQ,
    NMI,
    Format,
    Record,
    latency,
    read_format,
    records,
    string,
    value,
)
from ktriage.refs.record_symbols import Symbols, Table, read_kallsyms

TAINTS = ((0, "P"), (12, "O"), (1, "F"), (10, "C"), (13, "E"))
"""Bits of a module's taints, in the order in which they are printed (module_flags_taint, module.h)."""

ABOUT_MODULES = frozenset(LIFE)
NAMES = re.compile(rb"^(\d+) (.*)$", re.MULTILINE)


@dataclass(slots=True)
class Sent:
    """What came: raw pages in order with their CPU and how much of each had been sent before, files, modules.

    ``ended`` says that the guest sent all of it; ``error`` is its complaint. ``cut`` says that what came
    stopped in the middle of something.
    """

    pages: list[tuple[int, int, bytes]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    loads: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    error: str | None = None
    ended: bool = False
    cut: bool = False
    _last: str = ""

    def module(self, name: str, address: str, section: str) -> None:
        """Take a section of a module; the lines of one load follow each other."""
        places = self.loads.setdefault(name, [])
        if self._last != name or not places or section in places[-1]:
            places.append({})
        self._last = name
        places[-1][section] = int(address, 16)


def read_sent(data: bytes) -> Sent:
    """Read what came on a guest's trace line; what makes no sense ends it (``cut``)."""
    sent, at = Sent(), 0
    while at < len(data):
        newline = data.find(b"\n", at)
        if newline < 0:
            sent.cut = True
            break
        words = data[at:newline].decode(errors="replace").split(" ")
        at = newline + 1
        length = _line(sent, words)
        if length is None or at + length > len(data):
            sent.cut = True
            break
        if length:
            _block(sent, words, data[at : at + length])
        at += length
    return sent


def _line(sent: Sent, words: list[str]) -> int | None:
    match words:
        case ["page", cpu, length] | ["tail", cpu, _, length] if cpu.isdigit() and length.isdigit():
            return int(length)
        case ["file", _, length] if length.isdigit():
            return int(length)
        case ["module", name, address, section]:
            sent.module(name, address, section)
        case ["error", *text]:
            sent.error = " ".join(text)
        case ["end"]:
            sent.ended = True
        case _:
            return None
    return 0


def _block(sent: Sent, words: list[str], block: bytes) -> None:
    match words:
        case ["page", cpu, _]:
            sent.pages.append((int(cpu), 0, block))
        case ["tail", cpu, read, _]:
            sent.pages.append((int(cpu), int(read), block))
        case [_, "names", _]:
            found = NAMES.findall(block)
            sent.names |= {int(pid): comm.decode(errors="replace") for pid, comm in found}
        case [_, name, _]:
            sent.files[name] = block


class Text:
    """Records to lines as trace_pipe has them, with ``sym-offset`` on."""

    def __init__(self, sent: Sent, symbols: Symbols, *, life: bool = True) -> None:
        self.symbols = symbols
        self.life = life
        self.dropped = False
        """The last event was of no concern: neither is its stack."""
        self.names = {0: "<idle>", **sent.names}
        texts = (data.decode(errors="replace") for name, data in sent.files.items() if "/" in name)
        self.formats = {found.number: found for text in texts if (found := read_format(text))}
        self.known: dict[bytes, str] = {}
        self.caller = 0
        """Who called the function whose probe came last."""

    def lines(self, record: Record) -> str | None:
        """Return the text of one event, with its newline; None for events whose format did not come."""
        number, flags, depth, pid = COMMON.unpack_from(record.data)
        found = self.formats.get(number)
        if found is None:
            return None
        try:
            body = self._body(found, record.data)
        except KeyError:
            # The event's format was damaged.
            return None
        if found.name != "kernel_stack":
            self.dropped = found.name == PLACED or (not self.life and found.name in ABOUT_MODULES)
        if self.dropped:
            return None
        if "__probe_ip" in found.fields and flags & NMI:
            # The breakpoint is entered as an NMI is; a real NMI is rarer by far.
            flags &= ~(NMI | HARDIRQ)
            depth = 0
        seconds, micros = divmod(record.time // 1000, 1000000)
        comm = self.names.get(pid, "<...>")
        lost = "" if record.lost == 0 else self._lost(record)
        return (
            f"{lost}{comm:>16}-{pid:<7} [{record.cpu:03}] {latency(flags, depth)} "
            f"{seconds:5}.{micros:06}: {body}\n"
        )

    @staticmethod
    def _lost(record: Record) -> str:
        count = f"{record.lost} " if record.lost else ""
        return f"CPU:{record.cpu} [LOST {count}EVENTS]\n"

    def _body(self, what: Format, data: bytes) -> str:
        special: Callable[[Format, bytes], str] | None = {
            "kernel_stack": self._stack,
            "module_load": self._load,
            "module_free": self._free,
            "module_get": self._count,
            "module_put": self._count,
            "module_request": self._request,
            PLACED: self._placed,
        }.get(what.name)
        return special(what, data) if special else self._probe(what, data)

    def _stack(self, what: Format, data: bytes) -> str:
        frames = data[what.fields["caller"].offset :]
        caller, self.caller = self.caller, 0
        key = caller.to_bytes(8, "little") + frames
        text = self.known.get(key)
        if text is None:
            name = self.symbols.name
            addresses = [int.from_bytes(frames[i : i + 8], "little") for i in range(0, len(frames), 8)]
            if caller and caller not in addresses:
                addresses.insert(1, caller)
            text = "\n".join(["<stack trace>"] + [f" => {name(a)}" for a in addresses if a])
            self.known[key] = text
        return text

    def _load(self, what: Format, data: bytes) -> str:
        name, taints = string(what.fields["name"], data), value(what.fields["taints"], data)
        self.symbols.load(name)
        self.known.clear()
        flags = "".join(letter for bit, letter in TAINTS if taints >> bit & 1)
        return f"module_load: {name} {flags}".rstrip()

    def _placed(self, what: Format, data: bytes) -> str:
        name, fields = string(what.fields["name"], data), what.fields
        self.symbols.put(name, value(fields["text"], data), value(fields["init"], data))
        self.known.clear()
        return name

    def _free(self, what: Format, data: bytes) -> str:
        return f"module_free: {string(what.fields['name'], data)}"

    def _site(self, what: Format, data: bytes) -> str:
        return self.symbols.name(value(what.fields["ip"], data), offset=False)

    def _count(self, what: Format, data: bytes) -> str:
        name, count = string(what.fields["name"], data), value(what.fields["refcnt"], data)
        return f"{what.name}: {name} call_site={self._site(what, data)} refcnt={count}"

    def _request(self, what: Format, data: bytes) -> str:
        name, wait = string(what.fields["name"], data), value(what.fields["wait"], data)
        return f"module_request: {name} wait={wait} call_site={self._site(what, data)}"

    def _probe(self, what: Format, data: bytes) -> str:
        fields = {name: value(one, data) for name, one in what.fields.items() if not one.located}
        self.caller = fields.pop(CALLER, 0)
        own = [
            f"{name}={number if name == COUNT else hex(number)}"
            for name, number in fields.items()
            if not name.startswith(("common_", "__"))
        ]
        if "__probe_ret_ip" in fields:
            name = self.symbols.name
            place = f"{name(fields['__probe_ret_ip'])} <- {name(fields['__probe_func'], offset=False)}"
        else:
            place = self.symbols.name(fields.get("__probe_ip", 0))
        return " ".join([f"{what.name}: ({place})", *own])


def _stream(cpu: int, pages: list[tuple[int, bytes]]) -> Iterator[Record]:
    for read, page in pages:
        yield from records(page, cpu, read)


def trace_text(sent: Sent, symbols: Symbols, *, life: bool = True) -> Iterator[str]:
    """Yield the trace of all CPUs in the order of time, an event a piece, each ending with a newline.

    Without ``life`` the loading of modules, which tells where their symbols are, is not in it.
    """
    text = Text(sent, symbols, life=life)
    by_cpu: dict[int, list[tuple[int, bytes]]] = {}
    for cpu, read, page in sent.pages:
        by_cpu.setdefault(cpu, []).append((read, page))
    streams = [_stream(cpu, pages) for cpu, pages in by_cpu.items()]
    for record in heapq.merge(*streams, key=attrgetter("time")):
        lines = text.lines(record)
        if lines is not None:
            yield lines


def symbols_of(kallsyms: bytes, sent: Sent, files: dict[str, bytes]) -> Symbols:
    """Return a guest's symbols: its /proc/kallsyms from the recording's begin, and its modules' files."""
    _, tables = read_kallsyms(kallsyms)
    kernel = tables.pop(None, Table([], [], []))
    return Symbols(
        kernel, {name: table for name, table in tables.items() if name is not None}, sent.loads, files
    )
