"""Locks as structures: lockdep's dependency chain, and who holds or waits for which lock.

lockdep marks a lock as taken before the task really has it, so the last lock that a blocked task is listed
with is the one it waits for (debug_show_all_locks() in kernel/locking/lockdep.c).
"""

from __future__ import annotations

import re

from ktriage.console.stacks import frame
from ktriage.console.types import Frame, Link, Lock

_LOCK = re.compile(
    r"^(?: #\d+: )?(?P<address>[0-9a-f]{8,16}) \((?P<name>.+?)\)\{(?P<usage>[^}]*\}(?:-\{[^}]*\})?)"
    r"(?:, at: (?:\[<[0-9a-f]+>\] )?(?P<function>[\w.]+))?",
    re.ASCII,
)
_LINK = re.compile(r"^-> #(?P<number>\d+) \((?P<name>.+?)\)\{", re.ASCII)
_WANTS = re.compile(r"^(?P<task>\S.*)/(?P<pid>\d+)(?: \[.*\])? is trying to acquire(?: lock)?:", re.ASCII)
_HOLDS = re.compile(r"already holding(?: lock)?:|^but task .* (?:is|was) already holding", re.ASCII)
_HELD_BY = re.compile(r"^\d+ locks? held by (?P<task>.+)/(?P<pid>\d+)(?:, last CPU#\d+)?:", re.ASCII)
_HUNG = re.compile(r"^INFO: task (?P<task>.+):(?P<pid>\d+) blocked (?:in I/O wait )?for more than", re.ASCII)
# Kernels that remember the owner say it themselves, with no help from lockdep.
_OWNED = re.compile(
    r"^INFO: task (?P<task>.+):(?P<pid>\d+) is blocked on an? (?P<name>[\w-]+),? (?:likely|probably) "
    r"(?:owned|last held|held) by task (?P<owner>.+):(?P<owner_pid>\d+)",
    re.ASCII,
)
_WAITING = re.compile(
    r"^ *(?:\[<[0-9a-f]+>\] )?\w*(?:mutex_lock|rwsem_down|down_(?:read|write)|rt_mutex|slowlock)", re.ASCII
)
_MARKS = ("locks held by", "lock held by", "trying to acquire", "blocked")


def read_locks(lines: list[str], text: str) -> tuple[tuple[Lock, ...], tuple[Link, ...]]:
    """Return the locks of a report, and the dependency chain of a possible deadlock.

    ``lines`` are its lines, ``text`` all of it.
    """
    if not any(mark in text for mark in _MARKS):
        return (), ()
    reader = _Reader()
    for line in lines:
        reader.read(line)
    return tuple(reader.settled()), tuple(reader.links())


class _Reader:
    def __init__(self) -> None:
        self._locks: dict[Lock, None] = {}
        self._links: list[tuple[int, str, list[Frame]]] = []
        self._task: str | None = None
        self._pid: int | None = None
        self._wanted = False
        self._deadlock: tuple[str, int] | None = None
        self._hung: int | None = None
        self._waiting: set[int | None] = set()

    def read(self, line: str) -> None:
        if match := _WANTS.match(line):
            self._task, self._pid, self._wanted = match["task"], int(match["pid"]), True
            self._deadlock = match["task"], int(match["pid"])
        elif match := _HELD_BY.match(line):
            self._task, self._pid, self._wanted = match["task"], int(match["pid"]), False
            self._hung = None
        elif match := _OWNED.match(line):
            self._owned(match)
        elif match := _HUNG.match(line):
            self._hung = int(match["pid"])
        elif self._deadlock and _HOLDS.search(line):
            (self._task, self._pid), self._wanted = self._deadlock, False
        elif match := _LINK.match(line):
            self._links.append((int(match["number"]), match["name"], []))
        elif "){" in line and (match := _LOCK.match(line)):
            self._lock(match)
        elif self._links:
            self._frame(line)
        elif self._hung is not None and _WAITING.match(line):
            self._waiting.add(self._hung)

    def _lock(self, match: re.Match[str]) -> None:
        lock = Lock(
            name=match["name"],
            wanted=self._wanted,
            task=self._task,
            pid=self._pid,
            address=int(match["address"], 16),
            usage=match["usage"].replace("}", "", 1),
            function=match["function"],
        )
        self._locks.setdefault(lock)

    def _owned(self, match: re.Match[str]) -> None:
        self._locks.setdefault(Lock(match["name"], True, match["task"], int(match["pid"])))
        self._locks.setdefault(Lock(match["name"], False, match["owner"], int(match["owner_pid"])))

    def _frame(self, line: str) -> None:
        found = frame(line)
        if found is not None:
            self._links[-1][2].append(found)
        elif line.startswith(("other info", "stack backtrace")):
            self._links.append((-1, "", []))

    def settled(self) -> list[Lock]:
        """Return the locks; the last one of a task that hangs in a lock is the one that it waits for."""
        last = {lock.pid: lock for lock in self._locks if lock.pid in self._waiting}
        return [
            Lock(lock.name, True, lock.task, lock.pid, lock.address, lock.usage, lock.function)
            if last.get(lock.pid) is lock
            else lock
            for lock in self._locks
        ]

    def links(self) -> list[Link]:
        return [Link(number, name, tuple(stack)) for number, name, stack in self._links if number >= 0]
