"""A command's runs on a Dask cluster, whose workers see the repository at the same path.

Each worker process has worktrees and a watchdog of its own, opened with the first run that it is given and
closed when the bisection ends. A worker that dies takes its commands and worktrees with it (the watchdog
sees to that), and what it was running is run by another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktriage.bisect.command import CommandRunner, open_runner
from ktriage.bisect.types import RunResult
from ktriage.history.repository import Repository
from ktriage.jobs.fleet.cluster import ClusterExecutor, cluster
from ktriage.jobs.fleet.under_way import doing


@dataclass(frozen=True, slots=True)
class RemoteCommand:
    """A command by what the log says of it, which can be sent to another machine and is opened there."""

    repo: str
    output: str
    call: dict[str, Any] = field(hash=False)

    def __call__(self, commit: str, patches: tuple[str, ...], attempt: str) -> RunResult:
        """Run the command once at ``commit``, on the machine where this is called."""
        with _lock:
            if self.output not in _open:
                with ExitStack() as stack:
                    # A worker may run several at once, so that no build's worktree is used directly.
                    runner = open_runner(stack, Repository(Path(self.repo)), self.call, Path(self.output), 2)
                    _open[self.output] = runner, stack.pop_all()
            runner, _ = _open[self.output]
        with doing("command", attempt):
            return runner(commit, patches, attempt)


# By the bisection's folder: what this process has open for it.
_open: dict[str, tuple[CommandRunner, ExitStack]] = {}
_lock = threading.Lock()


def cancel(output: str) -> None:
    """End what this process is running for a bisection."""
    if output in _open:
        _open[output][0].cancel()


def close(output: str) -> None:
    """End what this process is running for a bisection, and close what it has open for it."""
    with _lock:
        runner, stack = _open.pop(output, (None, None))
    if runner is not None and stack is not None:
        runner.cancel()
        stack.close()


@contextmanager
def on_cluster(
    address: str, repository: Repository, output: Path, call: dict[str, Any]
) -> Iterator[tuple[RemoteCommand, ClusterExecutor, int, Callable[[], None]]]:
    """Give a runner for the cluster at ``address``, its executor, how many runs it has room for, and what
    cancels those under way. Raises ``UserError`` as ``cluster`` does.
    """  # noqa: D205 (one sentence)
    with cluster(address) as (executor, room):
        remote = RemoteCommand(str(repository.path), str(output), call)
        try:
            yield remote, executor, room, lambda: executor.everywhere(cancel, str(output))
        finally:
            executor.everywhere(close, str(output))
