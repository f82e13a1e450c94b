"""No command outlives the process that started it, whatever kills that.

A helper process waits until the pipe from its parent closes, which the kernel sees to even on kill -9, and
then kills every process that has the session's mark in its environment. Process groups would miss commands
that make groups of their own. Where the parent did not close it in order, a command cleans up after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

MARK = "KTRIAGE_SESSION"


class Watchdog:
    """Guards all processes started with ``environment`` for as long as it is open.

    ``cleanup`` is run once they are gone if this process was killed.
    """

    def __init__(self, cleanup: Sequence[str] = ()) -> None:
        self.session = uuid.uuid4().hex
        self.environment = {MARK: self.session}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self.session, *cleanup],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what is typed on the terminal is not for it
            cwd="/",
        )

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill what is still there of the session, and end the helper."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b".")
            self._process.stdin.flush()
        self._process.stdin.close()
        self._process.wait()


def marked(session: str, *also: str) -> list[int]:
    """Return the processes that have the session's mark, and all else that is asked for, NAME=VALUE each."""
    marks = {f"{MARK}={session}".encode(), *(other.encode() for other in also)}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if marks <= set((entry / "environ").read_bytes().split(b"\0")):
                found.append(int(entry.name))
        except OSError:
            continue  # gone, or someone else's
    return found


def kill_marked(session: str, *also: str) -> None:
    """Kill all processes of a session, those too that they start meanwhile. Gives up after 10 s.

    ``also`` as for ``marked``.
    """
    for _ in range(200):
        pids = marked(session, *also)
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.05)


if __name__ == "__main__":
    orderly = os.read(0, 1)
    kill_marked(sys.argv[1])
    if not orderly and sys.argv[2:]:
        subprocess.run(sys.argv[2:], check=False)
