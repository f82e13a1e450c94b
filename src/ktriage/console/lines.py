"""Console lines: what stands before the text, and who printed it.

The kernel prints ``<6>[   12.345678][ T1234] text``: the level where a reader asked for it, the time where
CONFIG_PRINTK_TIME is set, the caller (a task's ``T`` and pid, or ``C`` and the CPU in an interrupt) where
CONFIG_PRINTK_CALLER is. Only lines of one caller make up a report; without callers all lines do.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate

from ktriage.console.wrappings import Unwrap, rejoined

NO_PREFIX = ""
"""The context of lines that the kernel's console did not stamp."""
NO_CALLER = "console"
"""The context of lines that have a time, but no caller."""

_STAMP = r"(?:<[0-9]+>)?\[ *[0-9]+\.[0-9]+\](\[ *[CT][0-9]+\])? "
# Stamp, caller, text of every line at once: a third of the time of a match for each.
_COLUMNS = re.compile(rf"^({_STAMP})?(.*)", re.ASCII | re.MULTILINE)
# After a login prompt, or after a ring buffer that overflowed, the stamp stands inside the line.
_LATE_STAMP = re.compile(rf"(?:\*\* [0-9]+ printk messages dropped \*\* )?(?:.* login: )?{_STAMP}", re.ASCII)
_LATE = (" login: ", "printk messages dropped")
LONGEST = 2048
"""Longer lines are read up to here; the kernel's own records are shorter (PRINTK_MESSAGE_MAX)."""
_UNRELIABLE = " (unreliable)"
_TIME = re.compile(r"\[ *([0-9]+\.[0-9]+)\]", re.ASCII)


def is_task(context: str) -> bool:
    """Return whether ``context`` is a task's caller id."""
    return context.startswith("[") and "T" in context


def is_cpu(context: str) -> bool:
    """Return whether ``context`` is a CPU's caller id: it was printed in an interrupt."""
    return context.startswith("[") and "C" in context


def readable(text: str) -> str:
    """Return ``text``, whose characters are the log's bytes, as what the bytes say in UTF-8."""
    return text if text.isascii() else text.encode("latin-1").decode("utf-8", "replace")


class Lines:
    r"""The lines of a stretch of a log, in columns.

    ``starts`` are offsets into the stretch, ``texts`` what the kernel printed, without prefix and ``\r``.
    ``doubtful`` marks frames that the unwinder found on the stack but can't vouch for ("? func").
    """

    __slots__ = ("contexts", "doubtful", "raw", "starts", "texts")

    def __init__(self, text: str, unwrap: Unwrap | None = None) -> None:
        self.raw = text.split("\n")
        if not self.raw[-1]:
            self.raw.pop()
        self.starts = list(accumulate(map(len, self.raw), lambda at, length: at + length + 1, initial=0))
        if "\r" in text:
            text = text.replace("\r", "")
        if unwrap is not None:
            text = "\n".join(unwrap(line) for line in text.split("\n"))
        columns = _COLUMNS.findall(text)[: len(self.raw)]
        self.contexts: list[str] = [
            caller or (NO_CALLER if stamp else NO_PREFIX) for stamp, caller, _ in columns
        ]
        self.texts: list[str] = [line for _, _, line in columns]
        if any(mark in text for mark in _LATE):
            self._find_late_stamps()
        if unwrap is not None:
            rejoined(self.texts, [context != NO_PREFIX for context in self.contexts])
        self._cut()
        self.doubtful = [False] * len(self.texts)
        if " ? " in text or _UNRELIABLE in text:
            self._find_doubtful()

    def __len__(self) -> int:
        return len(self.raw)

    def _find_late_stamps(self) -> None:
        for index, text in enumerate(self.texts):
            if not any(mark in text for mark in _LATE):
                continue
            raw = self.raw[index][:LONGEST].replace("\r", "")
            match = _LATE_STAMP.match(raw)
            if match is not None:
                self.contexts[index] = match[1] or NO_CALLER
                self.texts[index] = raw[raw.index("] ") + 2 :]

    def _cut(self) -> None:
        for index, text in enumerate(self.texts):
            if len(text) > LONGEST:
                self.texts[index] = text[:LONGEST]

    def _find_doubtful(self) -> None:
        for index, text in enumerate(self.texts):
            if self.contexts[index] == NO_PREFIX:
                continue
            if " ? " in text:
                if "<EOI>" not in text:
                    self.texts[index], self.doubtful[index] = text[text.index(" ? ") + 2 :], True
            elif text.endswith(_UNRELIABLE):
                self.texts[index], self.doubtful[index] = text[: -len(_UNRELIABLE)], True

    def at(self, offset: int) -> int:
        """Return the index of the line that ``offset`` is in."""
        return min(bisect_right(self.starts, offset), len(self.raw)) - 1

    def end(self, index: int) -> int:
        """Return the offset of the end of line ``index``, before its line end."""
        return self.starts[index] + len(self.raw[index].rstrip("\r"))

    def time(self, index: int) -> float | None:
        """Return the time stamp of line ``index`` in seconds since boot, or None."""
        match = _TIME.search(self.raw[index], 0, 200)
        return float(match[1]) if match else None
