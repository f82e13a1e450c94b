"""Running make: what it says is kept, and what ends it is told apart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from ktriage.errors import MachineryError

FULL_DISK = "No space left on device"
KILLED = re.compile(r"^.*(Killed signal terminated program|Error 137|\bKilled$).*$", re.MULTILINE)
"""What is left in a build's log where the machine ended a compiler: it ran out of memory."""

FIXED = {
    "KBUILD_BUILD_USER": "ktriage",
    "KBUILD_BUILD_HOST": "ktriage",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}


def run_make(command: list[str], log: Path, timeout: float) -> str | None:
    """Run make into ``log`` and return what went wrong with the sources, or None.

    Raises MachineryError where the machine could not build: no room, no memory, killed. However we end, no
    compiler outlives us.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            # However we end, make gets a SIGTERM, and passes it on to the compilers.
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **FIXED},
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Also on ctrl-C: no compiler outlives us, and make removes what it was about to write.
            if process.poll() is None:
                _end(process)
    text = log.read_text(errors="replace")
    if code is None:
        return f"the build took over {timeout:g} s"
    if FULL_DISK in text:
        raise MachineryError(f"the build was cut short: {FULL_DISK}", log=str(log))
    if killed := KILLED.search(text) if code else None:
        raise MachineryError(f"the machine ended a compiler: {killed[0].strip()}", log=str(log))
    if code < 0:
        raise MachineryError(f"the build was killed by signal {-code}", log=str(log))
    return first_error(text) if code else None


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
    lines = log.splitlines()
    telling = [line for line in lines if re.search(r"\berror\b|\bundefined!|\bfatal\b", line, re.IGNORECASE)]
    stopped = [line for line in lines if " *** " in line]
    return (telling or stopped or lines or ["make failed without a word"])[0].strip()
