"""A stretch of a log with crashes in it: split into lines and contexts once, read into ``Crash`` objects."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ktriage.console import titles
from ktriage.console.details import details
from ktriage.console.formats.headers import CONTINUES, INFORMATION, PART, announced
from ktriage.console.guilt import guilty_file
from ktriage.console.lines import LONGEST, NO_CALLER, NO_PREFIX, Lines, is_cpu, is_task, readable
from ktriage.console.types import Crash
from ktriage.console.wrappings import Unwrap, wrapping

PANIC = "Kernel panic - not syncing"
_END_OF_PANIC = f"---[ end {PANIC}"
_VERSION = "Linux version "
_ALL_CPUS = "Sending NMI from CPU"
_TAINTING = "Disabling lock debugging due to kernel taint"
_CIRCULAR = "WARNING: possible circular locking dependency detected"
_PREFIX_LINES = 5
_PREFIX_LINES_OF_TASK = 50
_ENOUGH = 22
_ENOUGH_KMSAN = 16
_LEAST_LINES = 200
_READINGS = 8
_NEAR = 40
MOST_REPEATS = 32
"""So many crashes of a region are read that are announced by the same words; the rest is a flood."""
_NUMBERS = re.compile("[0-9]+")
_EXECUTOR = re.compile(r" Comm: syz\.(\d+)\.(\d+) ", re.ASCII)
# By-products of the fuzzer's own machine running out of memory, or of its connection.
_SUPPRESSED = re.compile(
    r"panic: (?:failed to start executor binary|executor failed: pthread_create failed"
    r"|failed to create temp dir|.*cannot allocate memory)"
    r"|fatal error: (?:unexpected signal during runtime execution|runtime: out of memory"
    r"|runtime: cannot allocate memory|out of memory|newosproc)"
    r"|signal SIGBUS: bus error|SYZFAIL: SIGBUS"
    r"|(?:Out of memory: Kill|Killed) process .* \((?:syz-executor|sshd)\)"
    r"|lowmemorykiller: Killing '(?:syz-executor|sshd)'"
    r"|INIT: PANIC: segmentation violation!|\*\*\* stack smashing detected \*\*\*: terminated"
)
_SUPPRESSED_WORDS = (
    "SIGBUS", "annot allocate memory", "ut of memory", "executor", "temp dir", "newosproc",
    "INIT: PANIC", "smashing", "sshd", "fatal error: unexp",
)  # fmt: skip
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


def _places(text: str, words: tuple[str, ...]) -> Iterator[int]:
    """Yield where ``words`` stand in ``text``: far faster than a pattern of them."""
    for word in words:
        at = text.find(word)
        while at >= 0:
            yield at
            at = text.find(word, at + len(word))


def _suppressed(text: str) -> bool:
    searched = 0
    for at in sorted(_places(text, _SUPPRESSED_WORDS)):
        # Of a line with many of the words, each stretch is searched once.
        if at < searched:
            continue
        start, end = text.rfind("\n", searched, at) + 1, text.find("\n", at, at + 2 * LONGEST)
        searched = end if end >= 0 else min(len(text), at + 2 * LONGEST)
        if _SUPPRESSED.search(text, max(start, at - LONGEST), searched):
            return True
    return False


def _wrapping(text: str, candidates: list[int]) -> Unwrap | None:
    if not candidates:
        return None
    start = text.rfind("\n", 0, candidates[0]) + 1
    return wrapping(text[start : start + LONGEST].partition("\n")[0])


class Region:
    """A stretch of a log that begins ``offset`` bytes and ``line`` lines into it.

    ``candidates`` are the offsets of headers in ``text``; only those before ``until`` are read as crashes.
    """

    def __init__(
        self,
        text: str,
        candidates: list[int],
        *,
        source: str = "",
        offset: int = 0,
        line: int = 1,
        until: int | None = None,
    ) -> None:
        self.text = text
        self.source = source
        self.offset = offset
        self.first_line = line
        self.lines = Lines(text, _wrapping(text, candidates))
        self.headers = self._headers(candidates)
        self.until = len(text) if until is None else until
        self.suppressed = _suppressed(text)
        self._versions = list(_places(text, (_VERSION,)))
        self.hung_up = _HUNG_UP in text
        self.last_panic = text.rfind(PANIC)
        self._last_header = max(self.headers, default=0)
        self._announced: set[str] = set()
        self.repeated: list[tuple[str, int]] = []
        self._breaks = self._find_breaks()
        self._by_context: dict[str, list[int]] = defaultdict(list)
        doubtful = self.lines.doubtful
        for index, context in enumerate(self.lines.contexts):
            if not doubtful[index]:
                self._by_context[context].append(index)
        # Where every other line is a header, no report can have all the lines after it and the whole be
        # linear: each may then read so many, the first of a region all.
        self._limit = _LEAST_LINES + _READINGS * len(self.lines) // max(len(self.headers), 1)

    def _headers(self, candidates: list[int]) -> dict[int, str]:
        headers: dict[int, str] = {}
        for offset in candidates:
            index = self.lines.at(offset)
            if index not in headers and (header := announced(self.lines.raw[index][:LONGEST])):
                headers[index] = header
        return headers

    def _find_breaks(self) -> list[int]:
        """Return the lines where another report begins, whatever the caller."""
        texts = self.lines.texts
        breaks = {index for index in self.headers if not PART.search(texts[index])}
        breaks.update(self.lines.at(offset) for offset in _places(self.text, INFORMATION))
        return sorted(breaks)

    def crashes(self) -> Iterator[tuple[Crash, float | None]]:
        """Yield every crash of the region in order, with the time stamp of its announcement."""
        limit = len(self.lines)
        repeats: Counter[str] = Counter()
        for index, header in self.headers.items():
            if self.lines.starts[index] >= self.until:
                return
            if self._continues(index) or self._replays(index):
                continue
            shape = _NUMBERS.sub("#", self.lines.texts[index])
            repeats[shape] += 1
            if repeats[shape] > MOST_REPEATS:
                self.repeated.append((shape, index))
                continue
            yield self._crash(index, header, limit), self.lines.time(index)
            limit = self._limit

    def _continues(self, index: int) -> bool:
        """Return whether line ``index`` only goes on with a report that began a few lines above it."""
        text = self.lines.texts[index]
        if text.startswith(_END_OF_PANIC):
            return self.last_panic >= 0 and self.text.find(PANIC) < self.lines.starts[index]
        if not CONTINUES.search(text):
            return False
        mine = self._by_context[self.lines.contexts[index]]
        place = bisect_right(mine, index - 1)
        return any(at in self.headers for at in mine[max(place - _NEAR, 0) : place])

    def _replays(self, index: int) -> bool:
        """Return whether line ``index``, time and all, was printed before: a console replays the log."""
        if self.lines.contexts[index] == NO_PREFIX:
            return False
        raw = self.lines.raw[index].rstrip("\r")
        replayed = raw in self._announced
        self._announced.add(raw)
        return replayed

    def _crash(self, index: int, header: str, limit: int) -> Crash:
        report = self._report(index, limit)
        callers = self.lines.contexts[index] not in (NO_PREFIX, NO_CALLER)
        named = titles.name(header, report.lines[: report.own], callers=callers)
        end = self.lines.end(self._last_header)
        if named is None:
            # The announcement was swallowed by the prefix; read the log as it stands.
            report = Report([], self.lines.raw[index : self.lines.at(end) + 1][: self._limit], self._limit)
            named = titles.name(header, report.lines) or titles.Named(header, [], None, None)
        title = titles.clean(named.title)
        text = report.text()
        corrupted = named.corrupted or titles.spoilt(named, report.lines)
        if corrupted is None and self.hung_up:
            corrupted = "the console hung up"
        executor = _EXECUTOR.search(text) if "Comm: syz" in text else None
        return Crash(
            source=self.source,
            start=self.offset + self.lines.starts[index],
            end=self.offset + end,
            line=self.first_line + index,
            title=title,
            alt_titles=tuple(sorted({titles.clean(alt) for alt in named.alternatives})),
            type=titles.kind_of(title),
            frame=titles.frame_of(title),
            guilty_file=guilty_file(title, report.lines),
            corrupted=corrupted,
            suppressed=self.suppressed,
            panicked=self.last_panic >= 0,
            executor={"proc": int(executor[1]), "id": int(executor[2])} if executor else None,
            text=readable(text),
            **{"kernel": self._kernel(index)} | details(report, text, self.lines.contexts[index]),
        )

    def _kernel(self, index: int) -> str | None:
        """Return the version that the last boot before line ``index`` told, if it is near."""
        before = bisect_left(self._versions, self.lines.starts[index])
        if not before:
            return None
        at = self._versions[before - 1] + len(_VERSION)
        words = self.text[at : at + 200].split(maxsplit=1)
        return words[0] if words else None

    def _report(self, index: int, limit: int) -> Report:
        texts, contexts = self.lines.texts, self.lines.contexts
        context = contexts[index]
        place = bisect_right(self._breaks, index)
        stamped_only = context in (NO_PREFIX, NO_CALLER)
        second = self._breaks[place] if stamped_only and place < len(self._breaks) else len(texts)
        least = _ENOUGH_KMSAN if "BUG: KMSAN:" in texts[index] else _ENOUGH
        report = [texts[index]]
        own = seen = 1
        for at in self._following(index, context, limit):
            text = texts[at]
            seen += 1
            if _TAINTING in text:
                continue
            if seen > least and (PANIC in text or _CIRCULAR in text) and _ALL_CPUS not in text:
                # The panic that a report ends in repeats its stack; lockdep often complains of the report.
                break
            report.append(text)
            if at < second:
                own = len(report)
        return Report(self._prefix(index, context), report, own)

    def _following(self, index: int, context: str, limit: int) -> Iterator[int]:
        """Yield the lines after ``index`` of the same caller; from where it asked for them, all stacks."""
        texts, contexts, doubtful = self.lines.texts, self.lines.contexts, self.lines.doubtful
        mine = self._by_context[context]
        place = bisect_right(mine, index)
        for at in mine[place : place + limit]:
            yield at
            if _ALL_CPUS in texts[at]:
                for other in range(at + 1, min(len(texts), at + 1 + limit)):
                    if not doubtful[other] and (contexts[other] == context or is_cpu(contexts[other])):
                        yield other
                return

    def _prefix(self, index: int, context: str) -> list[str]:
        wanted = _PREFIX_LINES_OF_TASK if is_task(context) else _PREFIX_LINES
        mine = self._by_context[context]
        place = bisect_right(mine, index - 1)
        prefix = [text for at in mine[max(place - 2 * wanted, 0) : place] if (text := self.lines.texts[at])]
        return prefix[-wanted:]
