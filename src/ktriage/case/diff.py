"""A unified diff as rows, with the lines that the crash's stack runs through marked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ktriage.console.types import Frame

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)")


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a diff: ``kind`` is ``file``, ``hunk``, ``add``, ``del``, ``same`` or ``meta``.

    ``mark`` names the frame that runs through this very line, or ``in FUNCTION`` on the head of a hunk
    that lies in a function of the stack.
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
            return frame.function
    return None


def _function(frames: Sequence[Frame], heading: str) -> str | None:
    for frame in frames:
        if re.search(rf"\b{re.escape(frame.function.split('.')[0])}\b", heading):
            return f"in {frame.function}"
    return None


def mark_diff(diff: str, frames: Sequence[Frame]) -> list[DiffLine]:
    """Split ``diff`` into lines; mark those that ``frames`` name by file and line of the new side.

    Frames without a file and line mark only the hunks whose heading names their function. What is not
    a unified diff comes back as ``meta`` lines: nothing is lost and nothing raises.
    """
    return list(_walk(diff.splitlines(), frames))


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
            yield DiffLine("file", path)
        elif text.startswith("+++ "):
            path = text[4:].split("\t")[0].removeprefix("b/")
        elif not text.startswith(("--- ", "index ")):
            yield DiffLine("meta", text)
