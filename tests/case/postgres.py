"""A PostgreSQL server of our own, in a folder of its own, on a socket only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

USER = "postgres"


def binaries() -> Path | None:
    """Return the folder with the server's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).parent if program else None


@dataclass
class Server:
    """A server that can be killed and started again."""

    programs: Path
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The database's URL, for SQLAlchemy."""
        return f"postgresql+psycopg://{USER}@/postgres?host={self.folder}"

    def run(self, *command: str | Path) -> None:
        """Run a program of the server's, as the user whose it is."""
        subprocess.run(self._guarded(*command), check=True, capture_output=True, timeout=60)

    def _guarded(self, *command: str | Path) -> list[str]:
        """Return a command that runs as no root, which the server refuses, and dies with us."""
        user = ["--reuid", USER, "--regid", USER, "--init-groups"] if os.geteuid() == 0 else []
        # What a server that was killed has started ends by itself.
        return ["setpriv", *user, "--pdeathsig", "KILL", *map(str, command)]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.process = subprocess.Popen(
            self._guarded(
                self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder,
                "-c", "listen_addresses=", "-c", "shared_buffers=32MB",
            ),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.ready()

    def ready(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            ready = subprocess.run(
                [self.programs / "pg_isready", "-h", self.folder], capture_output=True, check=False
            )
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL did not come up")

    def kill(self) -> None:
        """Kill the server and all of its processes, as a power cut would."""
        if self.process is None:
            return
        # Backends are in sessions of their own; all of them stand in the data folder.
        while mine := self._processes():
            for process in mine:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()
        self.process = None
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def _processes(self) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (place / "cwd").readlink() == self.folder / "data" and "Z" not in _state(place):
                    found.append(int(place.name))
        return found


def _state(place: Path) -> str:
    return (place / "stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def server() -> Iterator[Server]:
    """Run a server while the block lasts."""
    programs = binaries()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="ktriage-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        mine = Server(programs, folder)
        mine.run(programs / "initdb", "-D", folder / "data", "-U", USER, "-A", "trust", "-N", "-E", "UTF8")
        mine.start()
        try:
            yield mine
        finally:
            mine.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
