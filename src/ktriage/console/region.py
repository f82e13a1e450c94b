"""A stretch of a log with crashes in it: split into lines and contexts once, read into ``Crash`` objects."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass

from ktriage.console import titles
from ktriage.console.details import details
from ktriage.console.formats.headers import INFORMATION, PART, announced
from ktriage.console.guilt import guilty_file
from ktriage.console.lines import NO_CALLER, NO_PREFIX, Line, is_cpu, is_task, split
from ktriage.console.types import Crash

PANIC = "Kernel panic - not syncing"
_PREFIX_LINES = 5
_PREFIX_LINES_OF_TASK = 50
_ENOUGH = 22
_ENOUGH_KMSAN = 16
_EXECUTOR = re.compile(r" Comm: syz\.(\d+)\.(\d+) ", re.ASCII)
# By-products of the fuzzer's own machine running out of memory, or of its connection.
_SUPPRESSED = re.compile(
    r"panic: failed to start executor binary|panic: executor failed: pthread_create failed"
    r"|panic: failed to create temp dir|fatal error: unexpected signal during runtime execution"
    r"|signal SIGBUS: bus error|SYZFAIL: SIGBUS|Out of memory: Kill process .* \((?:syz-executor|sshd)\)"
    r"|Killed process .* \((?:syz-executor|sshd)\)|lowmemorykiller: Killing '(?:syz-executor|sshd)'"
    r"|INIT: PANIC: segmentation violation!|\*\*\* stack smashing detected \*\*\*: terminated"
    r"|fatal error: runtime: (?:out of memory|cannot allocate memory)|fatal error: out of memory"
    r"|fatal error: newosproc|panic: .*cannot allocate memory"
)
# A virtual machine's console that hung up, mostly right after a panic: what came last is lost.
_HUNG_UP = "serialport: VM disconnected."


@dataclass(frozen=True, slots=True)
class Report:
    """The lines of one crash.

    ``prefix`` came before it from the same caller; of ``lines``, the first ``own`` are surely its own, what
    follows may belong to another report.
    """

    prefix: list[str]
    lines: list[str]
    own: int

    def text(self) -> str:
        """Return the report as text, every line ended."""
        return "".join(f"{line}\n" for line in (*self.prefix, *self.lines))


class Region:
    """A stretch of a log, ``offset`` bytes and ``line`` lines into it."""

    def __init__(self, text: str, *, source: str = "", offset: int = 0, line: int = 1) -> None:
        self.text = text
        self.source = source
        self.offset = offset
        self.first_line = line
        self.lines = split(text)
        self.headers = [(i, h) for i, line_ in enumerate(self.lines) if (h := self._header(line_))]
        self.suppressed = _SUPPRESSED.search(text) is not None
        self.hung_up = _HUNG_UP in text
        self.last_panic = text.rfind(PANIC)

    def _header(self, line: Line) -> str | None:
        return announced(self.text[line.start : line.end])

    def crashes(self) -> list[Crash]:
        """Return every crash of the region, in order."""
        return [self._crash(index, header) for index, header in self.headers]

    def _crash(self, index: int, header: str) -> Crash:
        line = self.lines[index]
        report = self._report(index)
        named = titles.name(header, report.lines[: report.own])
        end = self._last_header(index).end
        if named is None:
            # The announcement was swallowed by the prefix; read the log as it stands.
            raw = [text.rstrip("\r") for text in self.text[line.start : end].split("\n")]
            report = Report([], raw, len(raw))
            named = titles.name(header, raw)
        if named is None:
            named = titles.Named(header, [], None, None)
        return self._finish(line, end, report, named, index)

    def _finish(self, line: Line, end: int, report: Report, named: titles.Named, index: int) -> Crash:
        title = titles.clean(named.title)
        text = report.text()
        corrupted = named.corrupted or titles.spoilt(named, report.lines)
        if corrupted is None and self.hung_up:
            corrupted = "the console hung up"
        executor = _EXECUTOR.search(text)
        return Crash(
            source=self.source,
            start=self.offset + line.start,
            end=self.offset + end,
            line=self.first_line + index,
            title=title,
            alt_titles=tuple(sorted(titles.clean(alt) for alt in named.alternatives)),
            type=titles.kind_of(title),
            frame=titles.frame_of(title),
            guilty_file=guilty_file(title, report.lines),
            corrupted=corrupted,
            suppressed=self.suppressed,
            panicked=self.last_panic >= 0,
            executor={"proc": int(executor[1]), "id": int(executor[2])} if executor else None,
            text=text,
            **details(report),
        )

    def _last_header(self, index: int) -> Line:
        return self.lines[max(self.headers[-1][0], index)]

    def _report(self, index: int) -> Report:
        context = self.lines[index].context
        prefix = self._prefix(index, context)
        second = self._second(index)
        texts: list[str] = []
        own = 0
        seen = 0
        everyone = enough = False
        least = _ENOUGH_KMSAN if "BUG: KMSAN:" in self.lines[index].text else _ENOUGH
        for at in range(index, len(self.lines)):
            line = self.lines[at]
            first = at == index
            if not first and (
                line.doubtful or (line.context != context and not (everyone and is_cpu(line.context)))
            ):
                continue
            seen += 1
            skip = enough
            if "Disabling lock debugging due to kernel taint" in line.text:
                skip = True
            elif "Sending NMI from CPU" in line.text:
                everyone = True
            elif seen > least and (
                PANIC in line.text or "WARNING: possible circular locking dependency detected" in line.text
            ):
                skip = enough = True
            if skip and not first:
                continue
            texts.append(line.text)
            if second is None or at < second or context not in (NO_PREFIX, NO_CALLER):
                own = len(texts)
        return Report(prefix, texts, own)

    def _prefix(self, index: int, context: str) -> list[str]:
        wanted = _PREFIX_LINES_OF_TASK if is_task(context) else _PREFIX_LINES
        prefix: list[str] = []
        for at in range(index - 1, -1, -1):
            line = self.lines[at]
            if line.context == context and line.text and not line.doubtful:
                prefix.append(line.text)
                if len(prefix) == wanted:
                    break
        return prefix[::-1]

    def _second(self, index: int) -> int | None:
        """Return the line after ``index`` where another report begins, or None."""
        place = bisect_right(self.headers, (index, "\uffff"))
        headers = {at for at, _ in self.headers[place:]}
        for at in range(index + 1, len(self.lines)):
            text = self.lines[at].text
            if (at in headers and not PART.search(text)) or INFORMATION.search(text):
                return at
        return None
