"""Floods: one message repeated without end, found by looking at a few lines of every stretch.

Reading every line would cost more than all the rest. A message that floods a log shows in lines picked
evenly from it: most of a few neighbours are the same. Only then it is counted, there and as long as it lasts.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ktriage.console.formats.headers import announced
from ktriage.console.lines import Lines, readable
from ktriage.console.titles import clean
from ktriage.console.types import Flood

STRETCH = 2 << 20
LEAST = 500
"""Fewer lines than this are no flood."""
_SAMPLES = 48
_NEIGHBOURS = 8
_SAME = 5
_KEY = 48
_SHORTEST_STRETCH = 16 << 10
_SHORTEST_FRAGMENT = 6
_SHARE = 0.25
_VOLATILE = re.compile(rb"0x[0-9a-f]+|[0-9a-f]*[0-9][0-9a-f]*")
_DIGITS = b"0123456789abcdef"


@dataclass(slots=True)
class _Seen:
    fragment: bytes
    title: str
    text: str
    start: int
    line: int
    end: int
    count: int
    first: float | None
    last: float | None


class Floods:
    """Watches one log for floods, stretch by stretch."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._seen: dict[bytes, _Seen] = {}
        self._recent: list[bytes] = []
        self._going_on: set[bytes] = set()
        self._repeated: dict[str, _Seen] = {}

    def look(self, data: bytes | bytearray, start: int, end: int, offset: int, line: int) -> None:
        """Look at ``data[start:end]``; ``data`` begins ``offset`` bytes and ``line`` lines into the log."""
        for at in range(start, end, STRETCH):
            stop = min(at + STRETCH, end)
            if stop - at < _SHORTEST_STRETCH:
                continue
            for shape in sorted(self._going_on):
                if not self._add(self._seen[shape], data, at, stop, offset):
                    self._going_on.discard(shape)
            suspicious = self._suspicious(data, at, stop)
            if suspicious is not None:
                self._find(data, at, stop, suspicious, offset, line)

    def repeat(self, shape: str, *, text: str, start: int, end: int, line: int, time: float | None) -> None:
        """Count one more crash that is announced by the same words as many before it."""
        seen = self._repeated.get(shape)
        if seen is None:
            seen = _Seen(b"", clean(text), text, start, line, end, 0, time, time)
            self._repeated[shape] = seen
        seen.count += 1
        seen.end, seen.last = end, time

    def close(self) -> list[Flood]:
        """Return the floods of the log, in order."""
        found = [seen for seen in self._seen.values() if seen.count >= LEAST and not announced(seen.text)]
        floods = [self._flood(seen) for seen in (*found, *self._repeated.values())]
        return sorted(floods, key=lambda flood: flood.start)

    def _suspicious(self, data: bytes | bytearray, start: int, stop: int) -> tuple[int, int] | None:
        """Return the first part of the stretch where most lines look the same, or None.

        The part may begin before the stretch.
        """
        step = max((stop - start) // _SAMPLES, 1)
        keys = self._recent
        for at in range(start, stop, step):
            end = data.find(b"\n", at + _KEY, min(at + 4096, stop))
            key = bytes(data[end - _KEY : end]) if end >= 0 else b""
            keys.append(key.translate(None, _DIGITS))
            del keys[:-_NEIGHBOURS]
            if key and keys.count(keys[-1]) >= _SAME:
                return max(at - _NEIGHBOURS * step, 0), min(at + step, stop)
        return None

    def _find(
        self,
        data: bytes | bytearray,
        start: int,
        stop: int,
        part: tuple[int, int],
        offset: int,
        line: int,
    ) -> None:
        lines = bytes(data[part[0] : part[1]]).split(b"\n")[1:-1]
        step = max(len(lines) // 256, 1)
        shapes = Counter(_VOLATILE.sub(b"#", _message(raw)) for raw in lines[::step])
        for shape, count in shapes.items():
            fragment = max(shape.split(b"#"), key=len)
            rare = count < _SHARE * shapes.total()
            if rare or shape in self._going_on or len(fragment) < _SHORTEST_FRAGMENT:
                continue
            if shape not in self._seen:
                # It may have begun before the stretch; how long before, nobody looked.
                back = max(start - STRETCH, 0)
                self._seen[shape] = _begin(data, fragment, back, stop, offset, line)
                self._add(self._seen[shape], data, back, start, offset)
            self._add(self._seen[shape], data, start, stop, offset)
            self._going_on.add(shape)

    def _add(self, seen: _Seen, data: bytes | bytearray, start: int, stop: int, offset: int) -> int:
        """Count the message in ``data[start:stop]``."""
        count = data.count(seen.fragment, start, stop)
        if count:
            last = data.rfind(seen.fragment, start, stop)
            end = data.find(b"\n", last, last + 4096)
            end = end if end >= 0 else stop
            begin = data.rfind(b"\n", start, last) + 1
            seen.count += count
            seen.end = offset + end - data[last:end].endswith(b"\r")
            seen.last = _lines(data[begin:end]).time(0)
        return count

    def _flood(self, seen: _Seen) -> Flood:
        rate = None
        if seen.first is not None and seen.last is not None and seen.last > seen.first:
            rate = (seen.count - 1) / (seen.last - seen.first)
        return Flood(
            source=self._source,
            start=seen.start,
            end=seen.end,
            line=seen.line,
            title=seen.title,
            count=seen.count,
            rate=rate,
            first=seen.first,
            last=seen.last,
            text=seen.text,
        )


def _begin(data: bytes | bytearray, fragment: bytes, start: int, stop: int, offset: int, line: int) -> _Seen:
    first = data.find(fragment, start, stop)
    begin = data.rfind(b"\n", 0, first) + 1
    head = _lines(data[begin : begin + 2048])
    return _Seen(
        fragment=fragment,
        title=clean(head.texts[0]),
        text=readable(head.raw[0].rstrip("\r")),
        start=offset + begin,
        line=line + data.count(b"\n", 0, begin),
        end=0,
        count=0,
        first=head.time(0),
        last=None,
    )


def _lines(data: bytes | bytearray) -> Lines:
    return Lines(data.decode("latin-1") or " ")


def _message(raw: bytes) -> bytes:
    """Return the message of a line: without time and caller."""
    return raw.rstrip(b"\r").partition(b"] ")[2] if raw[:1] in (b"[", b"<") else raw.rstrip(b"\r")
