"""journald's exports read as console logs: one log a boot, with the kernel's messages only.

The export format is systemd's (systemd.io/JOURNAL_EXPORT_FORMATS): fields a line each, ``NAME=value``, or
``NAME``, a 64-bit little-endian length and that many bytes; an empty line ends an entry. ``journalctl -o
json`` has the same fields as one object a line; a value that is no UTF-8 is a list of its bytes.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPORT_MARKS = (b"__CURSOR=", b"__REALTIME_TIMESTAMP=", b"__SEQNUM=")
JSON_MARK = b'"__REALTIME_TIMESTAMP"'
LARGEST_FIELD = 16 << 20

Entry = dict[str, bytes]
"""The fields of an entry that matter here, by their names."""
_FIELDS = ("MESSAGE", "_TRANSPORT", "_BOOT_ID", "__REALTIME_TIMESTAMP", "_SOURCE_MONOTONIC_TIMESTAMP",
           "__MONOTONIC_TIMESTAMP", "_HOSTNAME")  # fmt: skip


@dataclass(slots=True)
class Boot:
    """The kernel's messages of one boot as a console prints them. ``when`` is the last one's time."""

    boot: str
    when: float | None = None
    lines: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        """The log."""
        return b"".join(self.lines)


def is_journal(head: bytes) -> bool:
    """Return whether a file that begins with ``head`` is an export of journald's, of either form."""
    first = head.lstrip()[:65536]
    if first.startswith(EXPORT_MARKS):
        return True
    return first.startswith(b"{") and JSON_MARK in first.partition(b"\n")[0]


def boots(data: bytes) -> list[Boot]:
    """Return the boots of an export, in the order in which they first occur.

    An entry that is cut or spoilt is left out, and with it what can't be told apart from it.
    """
    found: dict[str, Boot] = {}
    entries = objects(data) if data.lstrip().startswith(b"{") else _entries(io.BytesIO(data))
    for entry in entries:
        if entry.get("_TRANSPORT") != b"kernel" or "MESSAGE" not in entry:
            continue
        name = entry.get("_BOOT_ID", b"").decode(errors="replace")
        boot = found.setdefault(name, Boot(name))
        real = _number(entry, "__REALTIME_TIMESTAMP")
        boot.when = real / 1e6 if real is not None else boot.when
        boot.lines.append(printed(entry))
    return list(found.values())


def printed(entry: Entry) -> bytes:
    """Return an entry's message as a console prints it: with its time, and a line for each of its lines."""
    stamp = _number(entry, "_SOURCE_MONOTONIC_TIMESTAMP") or _number(entry, "__MONOTONIC_TIMESTAMP")
    head = b"[%12.6f] " % (stamp / 1e6) if stamp is not None else b""
    return b"".join(head + line + b"\n" for line in entry.get("MESSAGE", b"").split(b"\n"))


def _number(entry: Entry, name: str) -> int | None:
    value = entry.get(name, b"")
    return int(value) if value.isdigit() and len(value) < 20 else None


def _entries(stream: IO[bytes]) -> Iterator[Entry]:
    entry: Entry = {}
    while line := stream.readline(LARGEST_FIELD):
        line = line.rstrip(b"\n")
        if not line:
            if entry:
                yield entry
            entry = {}
            continue
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(stream.read(8), "little")
            if size > LARGEST_FIELD:
                break
            value = stream.read(size)
            stream.readline(2)
        key = name.decode(errors="replace")
        if key in _FIELDS:
            entry[key] = value
    if entry:
        yield entry


def objects(data: bytes) -> Iterator[Entry]:
    """Yield the entries of ``journalctl -o json``'s lines; what is no entry is left out."""
    for line in data.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            yield {name: _bytes(entry[name]) for name in _FIELDS if name in entry}


def _bytes(value: object) -> bytes:
    if isinstance(value, list) and all(isinstance(part, int) and 0 <= part < 256 for part in value):
        return bytes(value)
    return value.encode(errors="replace") if isinstance(value, str) else b""
