"""Running make: what it says is kept, and what ends it is told apart."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ktriage.errors import MachineryError

FULL_DISK = "No space left on device"
KILLED = re.compile(r"^.*(Killed signal terminated program|Error 137|\bKilled$).*$", re.MULTILINE)
"""What is left in a build's log where the machine ended a compiler: it ran out of memory."""

TOO_LONG = "the build took over"
"""How the error of a build begins that was cut short by its timeout."""
SMALL_DISK = 1 << 20
"""Bytes: with less room than this, what failed failed for want of it."""
WATCH_SECONDS = 30.0
ERROR = re.compile(r"\berror\b|\bundefined!|\bundefined reference\b|\bfatal\b", re.IGNORECASE)
MADE = re.compile(r" {2}[A-Z]+(?: \[M\])? {1,}\S+$")

FIXED = {
    "KBUILD_BUILD_USER": "ktriage",
    "KBUILD_BUILD_HOST": "ktriage",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}


_running: dict[subprocess.Popen[bytes], int] = {}
"""Each make that runs, and the thread that waits for it."""
_ended: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()
_stops = 0


def stop_makes(thread: int | None = None) -> None:
    """End every make of this process, and those that wait for their turn; they raise MachineryError.

    With ``thread``, as ``threading.get_ident`` gives it, only what that one runs just now.
    """
    global _stops  # noqa: PLW0603 (a count of calls, under the lock)
    with _lock:
        _stops += thread is None
        for process, its in _running.items():
            if thread not in (None, its):
                continue
            _ended.add(process)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def stops() -> int:
    """Return how often ``stop_makes`` was called: what began before a call must not start a make after it."""
    return _stops


def run_make(
    command: list[str],
    log: Path,
    timeout: float,
    *,
    since: int | None = None,
    watch: Callable[[float], None] = lambda _: None,
) -> str | None:
    """Run make into ``log`` and return what went wrong with the sources, or None.

    ``since`` is what ``stops()`` said when the work began that this is part of; ``watch`` is called now and
    then with the seconds that have passed. Raises MachineryError where the machine could not build: no room,
    no memory, killed, or told to stop. However we end, no compiler outlives us.
    """
    since = stops() if since is None else since
    began = time.monotonic()
    with log.open("wb") as out:
        process = _start(command, out, since)
        try:
            code = _wait(process, began + timeout, lambda: watch(time.monotonic() - began))
        finally:
            # Also on ctrl-C: no compiler outlives us, and make removes what it was about to write.
            if process.poll() is None:
                _end(process)
            with _lock:
                del _running[process]
                ended = process in _ended
                _ended.discard(process)
    if ended or since != stops():
        raise MachineryError("the build was stopped", log=str(log))
    text = log.read_text(errors="replace")
    if code is None:
        return f"{TOO_LONG} {timeout:g} s"
    if full := _full(log.parent, text, failed=bool(code)):
        raise MachineryError(f"the build was cut short: {FULL_DISK}: {full}", log=str(log))
    if killed := KILLED.search(text) if code else None:
        raise MachineryError(f"the machine ended a compiler: {killed[0].strip()}", log=str(log))
    if code < 0:
        raise MachineryError(f"the build was killed by signal {-code}", log=str(log))
    return first_error(text) if code else None


def _full(place: Path, said: str, *, failed: bool) -> Path | None:
    """Return which disk was full, that of ``place`` or that of temporary files; None where neither was."""
    full = min(place, Path(tempfile.gettempdir()), key=lambda one: shutil.disk_usage(one).free)
    return full if FULL_DISK in said or (failed and shutil.disk_usage(full).free < SMALL_DISK) else None


def call_make(command: list[str], place: Path) -> None:
    """Run make for something that is done at once and writes to ``place``; it may say nothing.

    Raises MachineryError where it fails, with the first line that tells why.
    """
    done = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    said = done.stderr + done.stdout
    if full := _full(place, said, failed=True):
        raise MachineryError(f"the build was cut short: {FULL_DISK}: {full}", output=said)
    raise MachineryError(f"make {command[-1]} failed: {first_error(said)}", output=said)


def _start(command: list[str], out: BinaryIO, since: int) -> subprocess.Popen[bytes]:
    with _lock:
        if since != _stops:
            raise MachineryError("the build was stopped")
        process = subprocess.Popen(
            # However we end, make gets a SIGTERM, and passes it on to the compilers.
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **FIXED},
        )
        _running[process] = threading.get_ident()
        return process


def _wait(process: subprocess.Popen[bytes], deadline: float, watch: Callable[[], None]) -> int | None:
    """Return make's exit code; None where it is not done at the deadline."""
    while True:
        left = deadline - time.monotonic()
        try:
            return process.wait(max(0.0, min(left, WATCH_SECONDS)))
        except subprocess.TimeoutExpired:
            if left <= WATCH_SECONDS:
                return None
        watch()


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        return
    process.wait()


def first_error(log: str) -> str:
    """Return the line of a build log that says what failed first."""
    return errors_of(log)[0]


def errors_of(log: str, most: int = 5) -> list[str]:
    """Return the lines of a failed build's log that say what failed, in order; never none.

    Lines that name what is made (``  CC      lib/error-inject.o``) don't count.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip() and not MADE.match(line)]
    telling = [line for line in lines if ERROR.search(line) and " *** " not in line]
    stopped = [line for line in lines if " *** " in line]
    return (telling or stopped or lines[-1:] or ["make failed without a word"])[:most]
