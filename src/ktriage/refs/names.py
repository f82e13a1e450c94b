"""Tasks, objects and call paths as small numbers, so that an event is a few integers.

A trace may be hostile: the tables are bounded, and what comes after they are full shares one entry.
"""

from __future__ import annotations

from ktriage.refs.types import Counted, Path, Task

MOST_TASKS = 1 << 20
MOST_PATHS = 1 << 17

NOTHING = Path(())


class Names:
    """The tables. Number 0 of tasks is nobody, of paths the empty one."""

    def __init__(self) -> None:
        self.tasks: list[Task] = [Task("", 0, "unknown")]
        self.objects: list[Counted] = []
        self.paths: list[Path] = [NOTHING]
        self.modules: dict[str, str] = {}
        """Function to module, as far as the trace showed it somewhere."""
        self._task_ids: dict[Task, int] = {}
        self._object_ids: dict[Counted, int] = {}
        self._path_ids: dict[Path, int] = {NOTHING: 0}

    def task(self, task: Task) -> int:
        """Return the task's number."""
        known = self._task_ids.get(task)
        if known is None:
            if len(self.tasks) >= MOST_TASKS:
                return 0
            known = self._task_ids[task] = len(self.tasks)
            self.tasks.append(task)
        return known

    def counted(self, counted: Counted) -> int:
        """Return the object's number."""
        known = self._object_ids.get(counted)
        if known is None:
            known = self._object_ids[counted] = len(self.objects)
            self.objects.append(counted)
        return known

    def known(self, counted: Counted) -> int:
        """Return the number of an object that has one, else -1."""
        return self._object_ids.get(counted, -1)

    def path(self, path: Path) -> int:
        """Return the path's number."""
        known = self._path_ids.get(path)
        if known is None:
            if len(self.paths) >= MOST_PATHS:
                short = Path(path.places[: path.site + 1], path.site, path.way, path.context)
                return self._path_ids.get(short, 0)
            known = self._path_ids[path] = len(self.paths)
            self.paths.append(path)
        return known
