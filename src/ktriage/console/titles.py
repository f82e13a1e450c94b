"""Titles: made from a format and a report, cleaned of what changes from run to run, and typed."""

from __future__ import annotations

import re

from ktriage.console.formats import BY_HEADER
from ktriage.console.formats.format import Format, compiled
from ktriage.console.frames import FRAME, RISCV_REGS, STARTS, SYSCALL_PREFIXES, Key, key_frames, starts_trace
from ktriage.console.kinds import KINDS

NO_FRAMES = "no frames in the stack that names the crash"
CONSEQUENCE = "only what follows from a crash that the log does not have"
LONGEST = 120
"""Titles are cut here: a line mixed up with others can be of any length."""

# Each is applied until nothing changes. What an address, a number or a line is, changes from run to run and
# from version to version; a bug's name must not.
_VOLATILE = tuple(
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (r"syz-executor\.?[0-9]+((/|:)[0-9]+)?", "syz-executor"),
        (r"syzkaller[0-9]+((/|:)[0-9]+)?", "syzkaller"),
        (r"([^a-zA-Z0-9])(?:0x)?[0-9a-f]{6,}", r"\1ADDR"),
        (r"([0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3})", "IP"),
        (r"(\.\w+)(:[0-9]+)+", r"\1:LINE"),
        (r"([a-zA-Z][a-zA-Z0-9_.]+)\+0x[0-9a-z]+/0x[0-9a-z]+", r"\1"),
        (r"CPU#[0-9]+", "CPU"),
        (r"(\W)(\d+)(\W|$)", r"\1NUM\3"),
        # A number may be part of a name (cfg80211), but not one of seven digits.
        (r"\d{7,}", "NUM"),
    )
)
# Most titles have nothing of the kind.
_MAY_BE_VOLATILE = re.compile("[0-9]|[a-f]{6}")
_FRAME_OF_TITLE = re.compile(r".* in ((?:<[a-zA-Z0-9_: ]+>)?[a-zA-Z0-9_:]+)", re.ASCII)
_STAMP = re.compile(r"\[ *[0-9]+\.[0-9]+\]", re.ASCII)


class Named:
    """What ``name`` found: title, alternatives, the format and why the title can't be trusted, if so."""

    __slots__ = ("alternatives", "corrupted", "format", "title")

    def __init__(
        self, title: str, alternatives: list[str], corrupted: str | None, format_: Format | None
    ) -> None:
        self.title = title
        self.alternatives = alternatives
        self.corrupted = corrupted
        self.format = format_


def name(header: str, lines: list[str], *, callers: bool = False) -> Named | None:
    """Name the report ``lines``, whose first has ``header``; None if none of them has it.

    ``callers`` says that the log has caller ids.
    """
    place, candidates = _announcement(header, lines)
    for format_ in candidates:
        found = _match(format_, lines, place, callers=callers)
        if found is not None:
            return found
    line = next((line for line in lines if header in line), None)
    if line is None:
        return None
    reason = "announced, but what must follow is missing" if candidates else None
    return Named(line[line.index(header) :], [], reason, None)


def _announcement(header: str, lines: list[str]) -> tuple[int, list[Format]]:
    """Return the first line that any format matches, and the formats that match it leftmost."""
    formats = BY_HEADER[header]
    for index, line in enumerate(lines):
        if header not in line:
            continue
        matches = [(match.start(), f) for f in formats if (match := compiled(f.line).search(line))]
        if matches:
            first = min(start for start, _ in matches)
            return index, [f for start, f in matches if start == first]
    return 0, []


def _match(format_: Format, lines: list[str], place: int, *, callers: bool) -> Named | None:
    match = compiled(format_.line).search(lines[place])
    if match is None:
        return None
    groups = match.groupdict()
    if not _follow(format_, lines, place + 1, groups):
        return None
    return _fill(format_, groups, [lines[place][match.start() :], *lines[place + 1 :]], callers=callers)


def _follow(format_: Format, lines: list[str], index: int, groups: dict[str, str | None]) -> bool:
    for wanted in format_.then:
        pattern = compiled(wanted)
        end = len(lines) if format_.within is None else min(len(lines), index + format_.within)
        for at in range(index, end):
            match = pattern.search(lines[at])
            if match is not None:
                groups.update(match.groupdict())
                index = at + 1
                break
        else:
            return False
    return True


def _fill(format_: Format, groups: dict[str, str | None], lines: list[str], *, callers: bool) -> Named:
    keys: list[Key] = []
    reason = None
    if format_.stack is not None:
        keys, whole = key_frames(format_.stack, lines, callers=callers)
        reason = None if whole else NO_FRAMES
    words = {word: text or "" for word, text in groups.items()}
    templates = (format_.title, *format_.alt)
    title, *alternatives = (_render(t, words, [key.name for key in keys]) for t in templates)
    for names in _spellings(keys):
        alternatives += [_render(template, words, names) for template in templates]
    unique = [text for text in dict.fromkeys(alternatives) if text != title]
    if reason is None and format_.corrupted:
        reason = CONSEQUENCE
    return Named(title, unique, reason, format_)


def _render(template: str, words: dict[str, str], frames: list[str]) -> str:
    filled = dict(words)
    filled.update(zip(("frame", "origin"), frames, strict=False))
    return template.format_map(filled)


def _spellings(keys: list[Key]) -> list[list[str]]:
    """Return the frames as the log has them, and with each system call prefix taken off."""
    spellings = [[key.raw for key in keys]]
    spellings += [
        [key.raw.removeprefix(prefix) for key in keys]
        for prefix in SYSCALL_PREFIXES
        if any(key.raw.startswith(prefix) for key in keys)
    ]
    return spellings


def clean(title: str) -> str:
    """Return ``title`` without what changes from run to run: addresses, numbers, lines, offsets."""
    for pattern, replacement in _VOLATILE if _MAY_BE_VOLATILE.search(title) else ():
        before = ""
        while before != title:
            before, title = title, pattern.sub(replacement, title)
    printable = "".join(c for c in title[:LONGEST].replace("\t", " ") if " " <= c < "\x7f")
    return re.sub(" +", " ", printable).strip()


def frame_of(title: str) -> str | None:
    """Return the function that ``title`` names, or None."""
    match = _FRAME_OF_TITLE.match(title)
    return match[1] if match else None


def kind_of(title: str) -> str | None:
    """Return the crash type of ``title``, or None where it has no special one."""
    return next((kind for prefix, kind in KINDS if title.startswith(prefix)), None)


def spoilt(named: Named, report: list[str]) -> str | None:
    """Return why ``report`` is cut or mixed up with others, or None."""
    if _STAMP.search(named.title):
        return "a time stamp got into the title"
    if named.format is None or not named.format.trace:
        return None
    whole = False
    traces = [i for i, line in enumerate(report) if starts_trace(line)]
    for start in STARTS:
        index = next((i for i in traces if start.search(report[i])), None)
        if index is None:
            continue
        if len(report) - index < 3:
            return "the log ends where the stack should begin"
        if _has_frame(report[index + 1 : index + 16]):
            whole = True
        elif start.pattern != RISCV_REGS:
            return "a stack with no frames"
    return None if whole else "no stack"


def _has_frame(lines: list[str]) -> bool:
    for line in lines:
        if starts_trace(line):
            return False
        if "(stack is not available)" in line or FRAME.match(line):
            return True
    return False
