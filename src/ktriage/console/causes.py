"""Which crash follows from which: after the first, a kernel often says the same again, or dies of it."""

from __future__ import annotations

from dataclasses import dataclass

from ktriage.console.types import Crash

_NEAR_SECONDS = 10.0
_NEAR_SECONDS_OF_HANGS = 300.0
_NEAR_BYTES = 256 << 10


@dataclass(slots=True)
class _Root:
    index: int
    title: str
    type: str | None
    offset: int
    time: float | None
    taints: bool


class Causes:
    """Links the crashes of one log, told of in order."""

    def __init__(self) -> None:
        self._count = 0
        self._root: _Root | None = None

    def of(self, crash: Crash, time: float | None) -> int | None:
        """Return the index of the crash that ``crash`` follows from, or None.

        ``time`` is the announcing line's, in seconds since boot.
        """
        index, self._count = self._count, self._count + 1
        root = self._root
        if root is not None and self._follows(root, crash, time):
            root.offset = crash.end
            root.time = time if time is not None else root.time
            return root.index
        self._root = _Root(index, crash.title, crash.type, crash.start, time, _taints(crash))
        return None

    def _follows(self, root: _Root, crash: Crash, time: float | None) -> bool:
        if crash.start - root.offset > _NEAR_BYTES:
            return False
        if time is None or root.time is None:
            return True
        passed = time - root.time
        if passed < -1:  # another boot
            return crash.title == "unexpected kernel reboot"
        if crash.title == root.title or crash.title.startswith("kernel panic:"):
            return passed <= _NEAR_SECONDS_OF_HANGS
        if root.type == crash.type == "HANG":
            return passed <= _NEAR_SECONDS_OF_HANGS
        if root.taints and crash.kernel is not None and crash.taint is None and passed > 1:
            return False
        return passed <= _NEAR_SECONDS


def _taints(crash: Crash) -> bool:
    """Return whether every later report would say "Tainted"."""
    return crash.title.startswith(
        ("WARNING in", "WARNING: refcount", "KASAN:", "kernel BUG", "BUG: unable", "general")
    )
