"""How far files that grow were read, on disk: a watch that begins anew goes on there.

A crash that is read again beside what has come since is not the same text, and would count twice.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from ktriage.cache import digest, locked

SECONDS = 1.0
"""So often at the most the marks are written."""


class Marks:
    """The marks of one store's watches: for each file its inode, and the offset up to which it was read."""

    def __init__(self, store: str) -> None:
        home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
        self._path = Path(home) / "ktriage" / f"watched-{digest(store)}.json"
        self._new: dict[str, tuple[int, int]] = {}
        self._written = 0.0

    def of(self, file: str) -> tuple[int, int]:
        """Return inode and offset of a file; zeros where it was not read before."""
        return self._known().get(_name(file), (0, 0))

    def note(self, file: str, inode: int, offset: int) -> None:
        """Say how far a file was read; it may be a second until that is on disk."""
        self._new[_name(file)] = inode, offset
        if time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Put on disk what was said; other watches' marks stay."""
        if not self._new:
            return
        with locked(self._path.with_suffix(".lock")):
            draft = self._path.with_suffix(".draft")
            draft.write_text(json.dumps(self._known() | self._new))
            draft.replace(self._path)
        self._new.clear()
        self._written = time.monotonic()

    def _known(self) -> dict[str, tuple[int, int]]:
        try:
            rows = json.loads(self._path.read_text())
            return {str(name): (int(inode), int(offset)) for name, (inode, offset) in rows.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _name(file: str) -> str:
    return str(Path(file).resolve())
