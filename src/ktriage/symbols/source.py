"""The lines of a source tree around a place that a report names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ktriage.console.types import Frame

MOST_BYTES = 16 << 20
"""Size of the largest file that is read: generated headers of the kernel reach 10 MB."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line of a file; ``here`` says that it is the one that was asked for."""

    number: int
    text: str
    here: bool


def source_lines(root: Path, file: str, line: int, around: int = 3) -> list[SourceLine]:
    """Return ``line`` of ``file`` with ``around`` lines on each side; empty where the tree lacks it.

    Paths come out of logs and debug information: one that leads out of ``root`` is as good as none.
    """
    top = root.resolve()
    try:
        path = (top / file).resolve()
        if not path.is_relative_to(top) or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []
    if not 1 <= line <= len(lines):
        return []
    first, last = max(1, line - around), min(len(lines), line + around)
    return [SourceLine(n, lines[n - 1].expandtabs(8), n == line) for n in range(first, last + 1)]


def frame_source(root: Path, frame: Frame, around: int = 3) -> list[SourceLine]:
    """Return the lines around a frame's place; empty where it has none or the tree lacks it."""
    return source_lines(root, frame.file, frame.line, around) if frame.file and frame.line else []
