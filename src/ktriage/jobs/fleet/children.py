"""Processes that a call runs beside it, which end with the call, with this process, or when it is told so."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import tty
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import IO

_running: dict[subprocess.Popen[bytes], int] = {}
"""Each process, and the thread that waits for it."""
_lock = threading.Lock()


def stop_children(thread: int | None = None) -> None:
    """Kill all of them, or those that one thread waits for, as ``threading.get_ident`` gives it."""
    with _lock:
        for process, its in _running.items():
            if thread in (None, its):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def run_child(
    command: Sequence[str],
    out: Path,
    errors: Path,
    *,
    terminal: tuple[int, int] | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run a command into two files and return its exit code, negative for the signal that killed it.

    With ``terminal``, columns and lines of one, its standard output is a terminal of that size.
    """
    with ExitStack() as stack:
        log = stack.enter_context(errors.open("wb"))
        file: IO[bytes] = stack.enter_context(out.open("wb"))
        copier = None
        output: IO[bytes] | int = file
        if terminal is not None:
            master, output = _terminal(*terminal)
            copier = threading.Thread(target=_copy, args=(master, file), daemon=True)
        process = subprocess.Popen(
            # The thread that waits for it is its parent: prctl(2), PR_SET_PDEATHSIG.
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL, stdout=output, stderr=log, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        if copier is not None and isinstance(output, int):
            os.close(output)
            copier.start()
        with _lock:
            _running[process] = threading.get_ident()
        try:
            code = process.wait()
        finally:
            with _lock:
                del _running[process]
        if copier is not None:
            copier.join()
        return code


def _terminal(columns: int, lines: int) -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)  # what is written comes out as it is
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    return master, slave


def _copy(master: int, file: IO[bytes]) -> None:
    with (
        closing(os.fdopen(master, "rb", buffering=0)) as source,
        suppress(OSError),
    ):  # EIO: all have closed it
        while data := source.read(1 << 16):
            file.write(data)
