"""Floods: one message repeated without end, found by looking at a few lines of every stretch.

Reading every line would cost more than all the rest. A message that fills a quarter of a stretch shows in a
few dozen lines picked evenly from it; only then is it counted in full.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ktriage.console.formats.headers import announced
from ktriage.console.lines import Lines
from ktriage.console.titles import clean
from ktriage.console.types import Flood

STRETCH = 2 << 20
LEAST = 500
"""Fewer lines than this are no flood."""
_SAMPLES = 24
_SUSPECT = 6
_SHARE = 0.2
_KEY = 48
_SHORTEST_STRETCH = 16 << 10
_VOLATILE = re.compile(rb"0x[0-9a-f]+|[0-9a-f]*[0-9][0-9a-f]*")
_DIGITS = b"0123456789"


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
        self._repeated: dict[str, _Seen] = {}

    def look(self, data: bytes | bytearray, start: int, end: int, offset: int, line: int) -> None:
        """Look at ``data[start:end]``; ``data`` begins ``offset`` bytes and ``line`` lines into the log."""
        for at in range(start, end, STRETCH):
            stop = min(at + STRETCH, end)
            if stop - at >= _SHORTEST_STRETCH and self._suspicious(data, at, stop):
                self._count(data, at, stop, offset, line)

    def repeat(self, shape: str, *, text: str, start: int, end: int, line: int, time: float | None) -> None:
        """Count one more crash that is announced by the same words as many before it."""
        seen = self._repeated.get(shape)
        if seen is None:
            seen = _Seen(b"", clean(text), text, start, line, end, 0, time, time)
            self._repeated[shape] = seen
        seen.count += 1
        seen.end, seen.last = end, time

    def close(self) -> list[Flood]:
        """Return the floods of the log."""
        found = [seen for seen in self._seen.values() if seen.count >= LEAST and not announced(seen.text)]
        floods = [self._flood(seen) for seen in (*found, *self._repeated.values())]
        return sorted(floods, key=lambda flood: flood.start)

    def _suspicious(self, data: bytes | bytearray, start: int, stop: int) -> bool:
        counts: Counter[bytes] = Counter()
        step = (stop - start) // _SAMPLES
        for at in range(start, stop - step, step):
            end = data.find(b"\n", at + _KEY, at + 4096)
            if end >= 0:
                counts[bytes(data[end - _KEY : end]).translate(None, _DIGITS)] += 1
        return bool(counts) and counts.most_common(1)[0][1] >= _SUSPECT

    def _count(self, data: bytes | bytearray, start: int, stop: int, offset: int, line: int) -> None:
        block = bytes(data[start:stop])
        lines = block.split(b"\n")[1:-1]
        step = max(len(lines) // 256, 1)
        sample = [_message(raw) for raw in lines[::step]]
        shapes = Counter(_VOLATILE.sub(b"#", message) for message in sample)
        for shape, count in shapes.items():
            if count < _SHARE * len(sample) or not shape.strip():
                continue
            fragment = max(shape.split(b"#"), key=len)
            if len(fragment) < 6 and b"#" in shape:
                continue
            self._add(block, fragment, shape, start + offset, data, line, start)

    def _add(
        self,
        block: bytes,
        fragment: bytes,
        shape: bytes,
        offset: int,
        data: bytes | bytearray,
        line: int,
        start: int,
    ) -> None:
        count = block.count(fragment)
        first, last = block.find(fragment), block.rfind(fragment)
        begin = block.rfind(b"\n", 0, first) + 1
        finish = block.find(b"\n", last)
        finish = finish if finish >= 0 else len(block)
        seen = self._seen.get(shape)
        if seen is None:
            head = _lines(block[begin : begin + 2048])
            self._seen[shape] = seen = _Seen(
                fragment=fragment,
                title=clean(head.texts[0]),
                text=head.raw[0].rstrip("\r"),
                start=offset + begin,
                line=line + data.count(b"\n", 0, start + begin),
                end=0,
                count=0,
                first=head.time(0),
                last=None,
            )
        seen.count += count
        seen.end = offset + finish
        seen.last = _lines(block[block.rfind(b"\n", 0, last) + 1 : finish]).time(0)

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


def _lines(data: bytes) -> Lines:
    return Lines(data.decode("latin-1"))


def _message(raw: bytes) -> bytes:
    """Return the message of a line: without time and caller."""
    return raw.rstrip(b"\r").partition(b"] ")[2] if raw[:1] in (b"[", b"<") else raw.rstrip(b"\r")
