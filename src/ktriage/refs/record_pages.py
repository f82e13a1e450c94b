"""Raw pages of the ring buffer, as trace_pipe_raw gives them, to the text that the kernel would have printed.

The format is that of include/linux/ring_buffer.h and kernel/trace/ring_buffer.c; it has been the same since
v2.6.32. Little-endian, 64 bits.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

PAGE_HEADER = struct.Struct("<QQ")
LENGTH_MASK = 0xFFFFF
MISSED = 1 << 31
MISSED_STORED = 1 << 30

PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31

FIELD = re.compile(r"field:(?P<declared>[^;]+);\s*offset:(\d+);\s*size:(\d+);\s*signed:(\d);")

COMMON = struct.Struct("<HBBi")
"""struct trace_entry: the event's number, flags, how deep preemption is off, the task."""

IRQS_OFF, NEED_RESCHED, HARDIRQ, SOFTIRQ, NMI, BH_OFF = 0x01, 0x04, 0x08, 0x10, 0x40, 0x80


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event: where it is, in bytes from the event's begin; ``located`` ones are elsewhere."""

    name: str
    offset: int
    size: int
    signed: bool
    located: bool


@dataclass(frozen=True, slots=True)
class Format:
    """An event's fields, from its file ``format``."""

    name: str
    number: int
    fields: dict[str, Field]


@dataclass(frozen=True, slots=True)
class Record:
    """One event as it stood in the buffer; ``time`` in ns. ``lost`` events came before it (None: some)."""

    time: int
    cpu: int
    data: bytes
    lost: int | None = 0


def read_format(text: str) -> Format | None:
    """Read an event's file ``format``; None where it is not one."""
    name = re.search(r"^name: (\S+)", text, re.MULTILINE)
    number = re.search(r"^ID: (\d+)", text, re.MULTILINE)
    if name is None or number is None:
        return None
    fields = {}
    for declared, offset, size, signed in FIELD.findall(text):
        last = re.sub(r"\[.*?\]\s*$", "", declared).split()[-1]
        fields[last] = Field(last, int(offset), int(size), signed == "1", declared.startswith("__data_loc"))
    return Format(name[1], int(number[1]), fields)


def value(field: Field, data: bytes) -> int:
    """Return a number among an event's fields."""
    return int.from_bytes(data[field.offset : field.offset + field.size], "little", signed=field.signed)


def string(field: Field, data: bytes) -> str:
    """Return a string among an event's fields."""
    start, size = field.offset, field.size
    if field.located:
        where = int.from_bytes(data[start : start + 4], "little")
        start, size = where & 0xFFFF, where >> 16
    return data[start : start + size].split(b"\0", 1)[0].decode(errors="replace")


def records(page: bytes, cpu: int, read: int = 0) -> Iterator[Record]:
    """Yield the events of one page from the byte ``read`` of its data on; what makes no sense ends it."""
    if len(page) < PAGE_HEADER.size:
        return
    time, commit = PAGE_HEADER.unpack_from(page)
    end = min(PAGE_HEADER.size + (commit & LENGTH_MASK), len(page))
    lost: int | None = 0
    if commit & MISSED:
        lost = None
        if commit & MISSED_STORED and end + 8 <= len(page):
            lost = int.from_bytes(page[end : end + 8], "little")
    at = PAGE_HEADER.size
    while at + 8 <= end:
        head, first = struct.unpack_from("<II", page, at)
        kind, delta = head & 31, head >> 5
        if kind == PADDING:
            if not delta:
                return
            time, at = time + delta, at + 4 + first
        elif kind == TIME_EXTEND:
            time, at = time + delta + (first << 27), at + 8
        elif kind == TIME_STAMP:
            # The upper five bits are those of the time before.
            time, at = (time & ~((1 << 59) - 1)) | delta | first << 27, at + 8
        else:
            start, size = (at + 4, kind * 4) if kind else (at + 8, first - 4)
            if size < COMMON.size or start + size > end:
                return
            time += delta
            if at >= PAGE_HEADER.size + read:
                yield Record(time, cpu, page[start : start + size], lost)
                lost = 0
            at = start + size


def latency(flags: int, depth: int) -> str:
    """Return the five characters between CPU and time (trace_print_lat_fmt, trace_output.c)."""
    off = {IRQS_OFF: "d", BH_OFF: "b", IRQS_OFF | BH_OFF: "D"}.get(flags & (IRQS_OFF | BH_OFF), ".")
    hard, soft, nmi = flags & HARDIRQ, flags & SOFTIRQ, flags & NMI
    inside = (
        "Z"
        if nmi and hard
        else "z"
        if nmi
        else "H"
        if hard and soft
        else "h"
        if hard
        else "s"
        if soft
        else "."
    )
    return (
        off
        + ("N" if flags & NEED_RESCHED else ".")
        + inside
        + (f"{depth & 15:x}" if depth & 15 else ".")
        + (f"{depth >> 4:x}" if depth >> 4 else ".")
    )
