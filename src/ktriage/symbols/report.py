"""A report's text with the source lines that were found written into it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ktriage.console.types import Crash, Frame

_ENTRY = re.compile(r"(?P<function>[\w.$]+)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)(?: \[[^\]]*\])?")
_SOURCE = re.compile(r"\s+\S+:\d+(?:\s|$)")


def annotated_text(crash: Crash) -> str:
    """Return ``crash.text`` with the lines of its symbolized stack behind the entries they belong to.

    It is the form of scripts/decode_stacktrace.sh: `` func+0x1/0x2 file.c:3``, with the calls that were
    inlined on lines of their own before it, marked ``[inline]``. Entries that have a line already, and
    those for which none was found, stay as they are.
    """
    places = _places(crash.stack)
    lines: list[str] = []
    for line in crash.text.splitlines():
        match = _ENTRY.search(line)
        key = (match["function"], int(match["offset"], 16), int(match["size"], 16)) if match else None
        found = places.get(key) if key else None
        if match is None or not found or _SOURCE.match(line[match.end() :]):
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        *inlined, frame = found
        lines += [f"{indent}{f.function} {f.file}:{f.line} [inline]" for f in inlined if f.file]
        lines.append(f"{line.rstrip()} {frame.file}:{frame.line}")
    return "\n".join(lines) + ("\n" if crash.text.endswith("\n") else "")


def _places(stack: tuple[Frame, ...]) -> dict[tuple[str, int, int], list[Frame]]:
    """Return, by function, offset and size, a frame after those that were inlined into it."""
    places: dict[tuple[str, int, int], list[Frame]] = {}
    inlined: list[Frame] = []
    for frame in stack:
        if frame.inline:
            inlined.append(frame)
            continue
        if frame.offset is not None and frame.size is not None and frame.file and frame.line:
            places.setdefault((frame.function, frame.offset, frame.size), [*inlined, frame])
        inlined = []
    return places
