"""Reading logs of any size: a window slides over the bytes, and what it finds comes out as it goes.

The window is scanned once for headers. Around them a *region* is cut out, from some way before the first
header to where the log has been silent (no header) for a while, and read line by line. What is kept between
chunks is a region that has not ended, or else just enough to look back.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import replace
from itertools import takewhile

from ktriage.console.causes import Causes
from ktriage.console.floods import Floods
from ktriage.console.formats.headers import announced
from ktriage.console.region import Region
from ktriage.console.scan import candidates
from ktriage.console.titles import CONSEQUENCE
from ktriage.console.types import Crash, Flood

SILENCE = 64 << 10
"""So many bytes without a header end a region."""
LOOK_BACK = 16 << 10
"""So many bytes before a region's first header are read too: they say what led to it."""
LONGEST_REGION = 1 << 20
WHOLE = 256 << 10
"""A log of up to this size is one region."""
LONGEST_LINE = 1 << 20

_LARGE = 256 << 10
_COUNT_SLOWLY = 256 << 20

Finding = Crash | Flood


class LineCounter:
    """Counts lines, with numpy (three times as fast) once there is enough to count to pay for loading it."""

    def __init__(self) -> None:
        self._counted = 0

    def count(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Return how many lines end in ``data[start:end]``."""
        self._counted += end - start
        if self._counted < _COUNT_SLOWLY and "numpy" not in sys.modules:
            return data.count(b"\n", start, end)
        import numpy as np

        block = 1 << 18
        array = np.frombuffer(data, dtype=np.uint8)
        return sum(
            int(np.count_nonzero(array[at : min(at + block, end)] == 0x0A)) for at in range(start, end, block)
        )


class Reader:
    """Reads one log, fed in chunks of any size.

    ``feed`` and ``close`` yield what they find, in order; a crash comes out once it is clear that nothing
    of it will follow.
    """

    def __init__(self, source: str = "", *, floods: bool = True) -> None:
        self.source = source
        self._buffer = bytearray()
        self._base = 0  # offset in the log of the buffer's first byte
        self._line = 1  # its line
        self._scanned = 0  # offset in the log up to which headers were looked for
        self._found: tuple[int, list[int]] = 0, []  # headers found already, up to an offset in the log
        self._headers: deque[int] = deque()  # offsets of headers of regions that are still open
        self._lines = LineCounter()
        self._causes = Causes()
        self._floods = Floods(source)
        self._sample = floods

    @property
    def waiting(self) -> bool:
        """Whether a crash is being read that has not come to its end."""
        return bool(self._headers)

    def feed(self, chunk: bytes) -> Iterator[Finding]:
        """Read on, and yield what is complete; reads only as far as it is iterated."""
        if self._pass(chunk):
            return
        self._buffer += chunk
        keep = yield from self._process(self._buffer, final=False)
        if keep > self._base:
            self._line += self._lines.count(self._buffer, 0, keep - self._base)
            del self._buffer[: keep - self._base]
            self._base = keep

    def _pass(self, chunk: bytes) -> bool:
        """Return whether ``chunk`` is large and has no header in it; if so, it has been read, uncopied."""
        border, end = chunk.find(b"\n") + 1, chunk.rfind(b"\n") + 1
        if self._headers or len(chunk) < _LARGE or not border or len(chunk) - end > LOOK_BACK:
            return False
        seam = bytes(self._buffer[self._scanned - self._base :]) + chunk[:border]
        start = self._base + len(self._buffer)
        found = [self._scanned + offset for offset in candidates(seam)]
        found += [start + border + offset for offset in candidates(memoryview(chunk)[border:end])]
        if found:
            self._found = start + end, found
            return False
        lines = self._line + self._lines.count(self._buffer, 0, len(self._buffer))
        if self._sample:
            self._floods.look(chunk, 0, end, start, lines)
        keep = end - LOOK_BACK
        self._line = lines + self._lines.count(chunk, 0, keep)
        self._base, self._scanned = start + keep, start + end
        self._buffer = bytearray(chunk[keep:])
        return True

    def flush(self) -> Iterator[Finding]:
        """Yield what is being read as if the log ended here; reading may go on after it."""
        yield from self._process(self._buffer, final=True)

    def close(self) -> Iterator[Finding]:
        """End the log, and yield what is left."""
        yield from self.flush()
        yield from self._floods.close()

    def read(self, data: bytes) -> Iterator[Finding]:
        """Yield the findings of a whole log that is in memory, without copying it."""
        yield from self._process(data, final=True)
        yield from self._floods.close()

    def _process(self, data: bytes | bytearray, *, final: bool) -> Generator[Finding, None, int]:
        """Read ``data`` as far as possible; return the offset from which it is still needed."""
        end = self._base + len(data) if final else self._last_line_end(data)
        if end > self._scanned:
            self._collect(data, self._candidates(data, end))
            if self._sample:
                self._floods.look(data, self._scanned - self._base, end - self._base, self._base, self._line)
            self._scanned = end
        line, counted = self._line, self._base
        whole = final and self._base == 0 and end <= WHOLE
        while self._headers:
            start, until, stop = self._bounds(data, whole=whole)
            if stop > end and not final:
                return start
            line += self._lines.count(data, counted - self._base, start - self._base)
            counted = start
            yield from self._region(data, start, until, min(stop, end), line)
        return max(self._base, end - LOOK_BACK)

    def _last_line_end(self, data: bytes | bytearray) -> int:
        end = self._base + data.rfind(b"\n") + 1
        partial = self._base + len(data) - end
        return end if partial <= LONGEST_LINE else self._base + len(data)

    def _candidates(self, data: bytes | bytearray, end: int) -> list[int]:
        """Return the offsets of headers between what was scanned and ``end``."""
        if self._found[0] == end:
            return self._found[1]
        with memoryview(data)[self._scanned - self._base : end - self._base] as fresh:
            return [self._scanned + offset for offset in candidates(fresh)]

    def _collect(self, data: bytes | bytearray, offsets: list[int]) -> None:
        """Keep those headers that announce something."""
        done = -1
        for offset in offsets:
            at = offset - self._base
            if at < done:
                continue
            start = data.rfind(b"\n", max(at - SILENCE, 0), at) + 1
            stop = data.find(b"\n", at, at + SILENCE)
            done = stop if stop >= 0 else min(at + SILENCE, len(data))
            if announced(data[max(start, at - 4096) : min(done, at + 4096)].decode("latin-1")):
                self._headers.append(self._base + at)

    def _bounds(self, data: bytes | bytearray, *, whole: bool) -> tuple[int, int, int]:
        """Return where the next region starts, up to where its headers go, and where it stops."""
        first = last = self._headers[0]
        if whole:
            stop = self._base + len(data)
            return self._base, stop, stop
        until = None
        for header in self._headers:
            if header - last > SILENCE:
                break
            if header - first > LONGEST_REGION:
                until = header
                break
            last = header
        at = max(first - LOOK_BACK, self._base) - self._base
        if at:
            newline = data.find(b"\n", at, first - self._base)
            at = newline + 1 if newline >= 0 else first - self._base
        stop = last + SILENCE
        newline = data.find(b"\n", min(stop - self._base, len(data)), stop - self._base + SILENCE)
        stop = self._base + newline + 1 if newline >= 0 else stop
        return self._base + at, until if until is not None else stop, stop

    def _region(
        self, data: bytes | bytearray, start: int, until: int, stop: int, line: int
    ) -> Iterator[Finding]:
        text = bytes(data[start - self._base : stop - self._base]).decode("latin-1")
        headers = []
        while self._headers and self._headers[0] < until:
            headers.append(self._headers.popleft() - start)
        following = [offset - start for offset in takewhile(lambda offset: offset < stop, self._headers)]
        region = Region(
            text,
            headers + following,
            source=self.source,
            offset=start,
            line=line,
            until=until - start,
        )
        for crash, time in region.crashes():
            cause = self._causes.of(crash, time)
            known = cause is not None and crash.corrupted == CONSEQUENCE
            yield replace(crash, cause=cause, corrupted=None if known else crash.corrupted)
        for shape, index in region.repeated:
            self._floods.repeat(
                shape,
                text=region.lines.texts[index],
                start=start + region.lines.starts[index],
                end=start + region.lines.end(index),
                line=line + index,
                time=region.lines.time(index),
            )
