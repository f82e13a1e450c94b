"""A unified diff as rows, with the lines that the crash's stack runs through marked."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ktriage.console.types import Frame

_COUNTED = re.compile(r"_*(?:try_)?(\w+?)_(?:get|put|hold|release)(?:_\w+)?")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)")


MOST_NAMES = 2
"""Functions that are named in a file's mark."""


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a diff: ``kind`` is ``file``, ``hunk``, ``add``, ``del``, ``same`` or ``meta``.

    ``mark`` says why the line matters: the crash's stack runs through it, the hunk lies in a function of
    the stack, the file holds one, or the line gets or puts the kind of reference that the crash is about.
    """

    kind: str
    text: str
    old: int | None = None
    new: int | None = None
    mark: str | None = None


def _same_file(a: str, b: str) -> bool:
    """Tell whether one path ends with the other: builds print theirs absolute, relative or bare."""
    left, right = a.split("/")[::-1], b.split("/")[::-1]
    return all(x == y for x, y in zip(left, right, strict=False))


def _location(frames: Sequence[Frame], path: str, line: int) -> str | None:
    for frame in frames:
        if frame.line == line and frame.file and _same_file(frame.file, path):
            return f"on the crash's stack: {frame.function}"
    return None


def _function(frames: Sequence[Frame], heading: str) -> str | None:
    for frame in frames:
        if re.search(rf"\b{re.escape(frame.function.split('.')[0])}\b", heading):
            return f"in {frame.function}, on the crash's stack"
    return None


def _file(frames: Sequence[Frame], path: str) -> str | None:
    # A kernel without an unwinder (UNWINDER_GUESS) vouches for no frame but the first.
    sure = [frame for frame in frames if frame.reliable]
    told = sure if len(sure) > 2 else frames
    found = dict.fromkeys(f.function for f in told if f.file and _same_file(f.file, path))
    names = list(found)[:MOST_NAMES]
    return f"has {' and '.join(names)}, on the crash's stack" if names else None


def reference_pattern(frames: Sequence[Frame]) -> re.Pattern[str] | None:
    """Return what matches calls that get or put the references whose count a crash is about, or None.

    It is told from the innermost frame: a crash in ``module_put`` is about references that ``module_put``,
    ``__module_get`` and ``try_module_get`` put and get.
    """
    for frame in frames[:2]:
        match = _COUNTED.fullmatch(frame.function.split(".")[0])
        if match:
            return re.compile(rf"\b_*(?:try_)?{re.escape(match[1])}_(?:get|put|hold|release)\w*(?=\()")
    return None


def mark_diff(diff: str, frames: Sequence[Frame]) -> list[DiffLine]:
    """Split ``diff`` into lines and mark those that have to do with a crash, whose stack is ``frames``.

    Marked are lines of the new side that the stack runs through, heads of hunks that name a function of
    the stack, files that hold one, and added and removed lines that get or put the kind of reference that the
    crash is about.
    What is not a unified diff comes back as ``meta`` lines: nothing is lost and nothing raises.
    """
    counted = reference_pattern(frames)
    lines = _walk(diff.splitlines(), frames)
    return [_count_mark(line, counted) if counted else line for line in lines]


def _count_mark(line: DiffLine, counted: re.Pattern[str]) -> DiffLine:
    if line.mark or line.kind not in ("add", "del"):
        return line
    match = counted.search(line.text)
    verb = "no longer" if line.kind == "del" else "now"
    return replace(line, mark=f"{verb} {match[0]}()") if match else line


def _walk(lines: Sequence[str], frames: Sequence[Frame]) -> Iterator[DiffLine]:
    path = ""
    old = new = old_left = new_left = 0
    for text in lines:
        if old_left > 0 or new_left > 0:
            sign, body = text[:1], text[1:]
            if sign == "+":
                yield DiffLine("add", body, None, new, _location(frames, path, new))
                new, new_left = new + 1, new_left - 1
            elif sign == "-":
                yield DiffLine("del", body, old, None)
                old, old_left = old + 1, old_left - 1
            elif sign == "\\":
                yield DiffLine("meta", text)
            else:
                yield DiffLine("same", body, old, new, _location(frames, path, new))
                old, new, old_left, new_left = old + 1, new + 1, old_left - 1, new_left - 1
        elif hunk := _HUNK.match(text):
            old, new = int(hunk[1]), int(hunk[3])
            old_left, new_left = int(hunk[2] or 1), int(hunk[4] or 1)
            yield DiffLine("hunk", text, mark=_function(frames, hunk[5]))
        elif text.startswith("diff --git "):
            path = text.rsplit(" b/", 1)[-1]
            yield DiffLine("file", path, mark=_file(frames, path))
        elif text.startswith("+++ "):
            path = text[4:].split("\t")[0].removeprefix("b/")
        elif not text.startswith(("--- ", "index ")):
            yield DiffLine("meta", text)


def cut_diff(lines: Sequence[DiffLine], most: int) -> tuple[list[DiffLine], int]:
    """Return at most ``most`` lines of a diff, and how many were left out.

    Hunks with a mark are kept before others, those in files with a mark before the rest; what is kept comes
    in the diff's order, each hunk below its file. A hunk that is too long by itself is cut at its end.
    """
    if len(lines) <= most:
        return list(lines), 0
    kept: set[int] = set()
    for heading, hunk in sorted(_hunks(lines), key=lambda found: _rank(lines, *found)):
        room = most - len(kept)
        new = [place for place in (*heading, *hunk) if place not in kept]
        kept.update(new[:room])
        if len(kept) >= most:
            break
    return [lines[place] for place in sorted(kept)], len(lines) - len(kept)


def _hunks(lines: Sequence[DiffLine]) -> Iterator[tuple[range, range]]:
    """Yield each hunk's places, after those of its file's heading."""
    heading, start = range(0), 0
    for place in range(1, len(lines) + 1):
        if place < len(lines) and lines[place].kind not in ("file", "hunk"):
            continue
        if lines[start].kind == "hunk":
            yield heading, range(start, place)
        else:
            heading = range(start, place)
            if place == len(lines) or lines[place].kind == "file":
                yield heading, range(0)
        start = place


def _rank(lines: Sequence[DiffLine], heading: range, hunk: range) -> tuple[bool, bool]:
    return not any(lines[place].mark for place in hunk), not any(lines[place].mark for place in heading)
