"""The stack of a report as frames, each with the context it ran in."""

from __future__ import annotations

import re
from dataclasses import replace

from ktriage.console.types import Frame

LONGEST = 2048
"""Frames of one report beyond this are left out: no kernel stack is that deep."""

_SYMBOL = r"(?P<function>[a-zA-Z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)/0x(?P<size>[0-9a-f]+)"
_PLACE = r"(?: (?P<file>[\w./-]+\.[chS]):(?P<line>\d+))?(?: \[(?P<module>[\w-]+)(?: [0-9a-f]+)?\])?"
_FRAME = re.compile(
    rf"^\(?(?: ?\[<?(?:0x)?[0-9a-f]+>?\]){{0,2}}\s*(?P<doubt>\? )?{_SYMBOL}{_PLACE}", re.ASCII
)
_ARM = re.compile(
    r"^ ?\[<[0-9a-f]+>\] \((?P<inner>[\w.$]+)(?: \[[\w-]+\])?\) from \[<[0-9a-f]+>\] "
    rf"\({_SYMBOL}(?: \[(?P<module>[\w-]+)\])?\)",
    re.ASCII,
)
_INLINE = re.compile(
    r"^ *(?P<function>[a-zA-Z_][\w.$]*) (?P<file>[\w./-]+\.[chS]):(?P<line>\d+) \[inline\]", re.ASCII
)
_POINTER = re.compile(
    rf"^(?:N?IP|RIP|EIP|pc|PC is at|epc) ?:? ?(?:00(?:10|60):)?(?:\[<[0-9a-f]+>\] )*{_SYMBOL}{_PLACE}",
    re.ASCII,
)
_MARK = re.compile(
    r"^ *(?:\[<[0-9a-f]+>\] )?</?(TASK|IRQ|SOFTIRQ|NMI|EOI|IST|#DF|ENTRY_TRAMPOLINE)>", re.ASCII
)
_CONTEXTS = {"TASK": "task", "IRQ": "hardirq", "SOFTIRQ": "softirq", "NMI": "nmi", "EOI": "task"}
_ORIGIN = re.compile(
    r"^(?:Allocated|Freed)(?: by task \d+)?.*:$|^Uninit was (?:created|stored).*at:"
    r"|^Local variable .* created at:"
    r"|^Last potentially related work creation:|^Second to last|^(?:freed|allocated) by task \d+"
    r"|page last (?:allocated|free)|^which (?:became|lock)|^-> #\d+",
    re.ASCII,
)
_CALL = re.compile(r"^ *(?:Call [Tt]race|Backtrace|backtrace|stack backtrace)\b")
_SOFTIRQ = re.compile(r"^(?:__do_softirq|handle_softirqs|__softirqentry_text_start)(?:\.|$)")


def frame(line: str) -> Frame | None:
    """Return the frame that ``line`` of a stack trace shows, or None."""
    if "+0x" not in line:
        match = _INLINE.match(line) if line.endswith("[inline]") else None
        return _inlined(match) if match else None
    match = _FRAME.match(line) or (_ARM.match(line) if " from " in line else None)
    return _from(match) if match else None


def _inlined(match: re.Match[str], context: str | None = None) -> Frame:
    return Frame(match["function"], file=match["file"], line=int(match["line"]), inline=True, context=context)


def _from(match: re.Match[str], context: str | None = None) -> Frame:
    words = match.groupdict()
    line = words.get("line")
    return Frame(
        words["function"],
        int(words["offset"], 16),
        int(words["size"], 16),
        words["module"],
        words.get("file"),
        int(line) if line else None,
        False,
        words.get("doubt") is None,
        context,
    )


class StackReader:
    """Collects frames line by line, and what the lines between them say of their context."""

    def __init__(self, context: str | None) -> None:
        self.frames: list[Frame] = []
        self._base = context
        self._context = context
        self._section = 0
        self._ended = False

    def read(self, line: str) -> None:
        """Take one line of the report."""
        if "+0x" in line:
            self._add(line)
        elif line.endswith("[inline]"):
            match = _INLINE.match(line)
            if match is not None:
                self._append(match, inline=True)
        elif match := _MARK.match(line):
            self._mark(match[1], closing="</" in line)
        elif line.startswith("---[ end trace"):
            self._ended = True
        elif line.startswith("NMI backtrace for cpu"):
            self._context, self._ended = "nmi", False
        elif _CALL.match(line):
            self._context = self._base if self._context == "origin" else self._context
        elif _ORIGIN.search(line):
            self._context = "origin"
        elif not line.startswith(" ") and self._context == "origin" and not line:
            self._context = self._base

    def _add(self, line: str) -> None:
        match = _FRAME.match(line)
        if match is not None:
            if not self._ended:
                self._append(match)
            return
        if " from " in line and (match := _ARM.match(line)):
            if not self.frames:
                self.frames.append(Frame(match["inner"], context=self._context))
            self._append(match)
        elif not self._ended and (match := _POINTER.match(line)):
            self._append(match)

    def _append(self, match: re.Match[str], *, inline: bool = False) -> None:
        if len(self.frames) < LONGEST:
            if self._context == "hardirq" and _SOFTIRQ.match(match["function"]):
                self._soften()
            self.frames.append(_inlined(match, self._context) if inline else _from(match, self._context))

    def _soften(self) -> None:
        """Everything above a softirq's entry ran in it, though the stack is called IRQ."""
        self._context = "softirq"
        for index in range(self._section, len(self.frames)):
            if self.frames[index].context == "hardirq":
                self.frames[index] = replace(self.frames[index], context="softirq")

    def _mark(self, name: str, *, closing: bool) -> None:
        self._section = len(self.frames)
        inside = _CONTEXTS.get(name, "exception")
        self._context = ("task" if name != "TASK" else self._base) if closing else inside
        if closing and name in ("TASK", "EOI"):
            self._context = self._base
