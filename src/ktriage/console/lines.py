"""Console lines: what stands before the text, and who printed it.

The kernel prints ``<6>[   12.345678][ T1234] text``: the level where a reader asked for it, the time where
CONFIG_PRINTK_TIME is set, the caller (a task's ``T`` and pid, or ``C`` and the CPU in an interrupt) where
CONFIG_PRINTK_CALLER is. Only lines of one caller make up a report; without callers all lines do.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from ktriage.console.wrappings import Unwrap, rejoined

NO_PREFIX = ""
"""The context of lines that the kernel's console did not stamp."""
NO_CALLER = "console"
"""The context of lines that have a time, but no caller."""

_STAMP = re.compile(r"(?:<[0-9]+>)?\[ *[0-9]+\.[0-9]+\](\[ *[CT][0-9]+\])? ", re.ASCII)
# After a login prompt, or after a ring buffer that overflowed, the stamp stands inside the line.
_LATE_STAMP = re.compile(
    r"(?:\*\* [0-9]+ printk messages dropped \*\* )?(?:.* login: )?" + _STAMP.pattern, re.ASCII
)
LONGEST = 2048
"""Longer lines are read up to here; the kernel's own records are shorter (PRINTK_MESSAGE_MAX, v6.4)."""
_UNRELIABLE = " (unreliable)"
_TIME = re.compile(r"\[ *([0-9]+\.[0-9]+)\]", re.ASCII)


def is_task(context: str) -> bool:
    """Return whether ``context`` is a task's caller id."""
    return context.startswith("[") and "T" in context


def is_cpu(context: str) -> bool:
    """Return whether ``context`` is a CPU's caller id: it was printed in an interrupt."""
    return context.startswith("[") and "C" in context


class Lines:
    r"""The lines of a stretch of a log, in columns.

    ``starts`` are offsets into the stretch, ``texts`` what the kernel printed, without prefix and ``\r``.
    ``doubtful`` marks frames that the unwinder found on the stack but can't vouch for ("? func").
    """

    __slots__ = ("contexts", "doubtful", "raw", "starts", "texts")

    def __init__(self, text: str, unwrap: Unwrap | None = None) -> None:
        self.raw = text.split("\n")
        if self.raw and not self.raw[-1]:
            self.raw.pop()
        self.starts: list[int] = []
        self.contexts: list[str] = []
        self.texts: list[str] = []
        self.doubtful: list[bool] = []
        position = 0
        for raw in self.raw:
            self.starts.append(position)
            position += len(raw) + 1
            line = raw if len(raw) <= LONGEST else raw[:LONGEST]
            if "\r" in line:
                line = line.replace("\r", "")
            self._add(unwrap(line) if unwrap else line)
        if unwrap:
            rejoined(self.texts, [context != NO_PREFIX for context in self.contexts])

    def __len__(self) -> int:
        return len(self.raw)

    def _add(self, raw: str) -> None:
        match = _STAMP.match(raw) if " login: " not in raw else _LATE_STAMP.match(raw)
        if match is None and "printk messages dropped" in raw:
            match = _LATE_STAMP.match(raw)
        if match is None:
            self.contexts.append(NO_PREFIX)
            self.texts.append(raw)
            self.doubtful.append(False)
            return
        text = raw[raw.index("] ") + 2 :]
        doubtful = False
        if " ? " in text:
            if "<EOI>" not in text:
                text, doubtful = text[text.index(" ? ") + 2 :], True
        elif text.endswith(_UNRELIABLE):
            text, doubtful = text[: -len(_UNRELIABLE)], True
        self.contexts.append(match[1] or NO_CALLER)
        self.texts.append(text)
        self.doubtful.append(doubtful)

    def at(self, offset: int) -> int:
        """Return the index of the line that ``offset`` is in."""
        return bisect_right(self.starts, offset) - 1

    def end(self, index: int) -> int:
        """Return the offset of the end of line ``index``, before its line end."""
        return self.starts[index] + len(self.raw[index].rstrip("\r"))

    def time(self, index: int) -> float | None:
        """Return the time stamp of line ``index`` in seconds since boot, or None."""
        match = _TIME.search(self.raw[index], 0, 200)
        return float(match[1]) if match else None
