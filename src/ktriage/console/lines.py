"""Console lines: what stands before the text, and who printed it.

The kernel prints ``<6>[   12.345678][ T1234] text``: the level where a reader asked for it, the time where
CONFIG_PRINTK_TIME is set, the caller (a task's ``T`` and pid, or ``C`` and the CPU in an interrupt) where
CONFIG_PRINTK_CALLER is. Only lines of one caller make up a report; without callers all lines do.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

NO_PREFIX = ""
"""The context of lines that the kernel's console did not stamp."""
NO_CALLER = "console"
"""The context of lines that have a time, but no caller."""

_PREFIX = re.compile(
    r"(?:\*\* [0-9]+ printk messages dropped \*\* )?(?:.* login: )?(?:<[0-9]+>)?"
    r"\[ *[0-9]+\.[0-9]+\](\[ *[CT][0-9]+\])? ",
    re.ASCII,
)
_UNRELIABLE = " (unreliable)"


def is_task(context: str) -> bool:
    """Return whether ``context`` is a task's caller id."""
    return context.startswith("[") and "T" in context


def is_cpu(context: str) -> bool:
    """Return whether ``context`` is a CPU's caller id (an interrupt)."""
    return context.startswith("[") and "C" in context


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a region.

    ``start`` and ``end`` are its offsets in the region's text, without the line end. ``text`` is what the
    kernel printed. ``doubtful`` marks a frame that the unwinder found on the stack but can't vouch for.
    """

    start: int
    end: int
    context: str
    text: str
    doubtful: bool


def split(text: str) -> list[Line]:
    """Split ``text`` into lines, reading each once."""
    lines: list[Line] = []
    position = 0
    for raw in text.split("\n"):
        end = position + len(raw)
        lines.append(_line(raw.replace("\r", "") if "\r" in raw else raw, position, end))
        position = end + 1
    if lines and lines[-1].start == lines[-1].end:
        lines.pop()
    return lines


def _line(raw: str, start: int, end: int) -> Line:
    match = _PREFIX.match(raw)
    if match is None:
        return Line(start, end, NO_PREFIX, raw, False)
    context = match[1] or NO_CALLER
    text = raw[raw.index("] ") + 2 :]
    doubtful = False
    if " ? " in text:
        if "<EOI>" not in text:
            text, doubtful = text[text.index(" ? ") + 2 :], True
    elif text.endswith(_UNRELIABLE) and "<EOI>" not in text:
        text, doubtful = text[: -len(_UNRELIABLE)], True
    return Line(start, end, context, text, doubtful)


def at(lines: list[Line], offset: int) -> int:
    """Return the index of the line that ``offset`` is in."""
    return max(bisect_left(lines, offset + 1, key=lambda line: line.start) - 1, 0)
