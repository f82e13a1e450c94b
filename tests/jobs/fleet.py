"""A cluster of processes that share nothing, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ktriage.errors import UserError
from ktriage.jobs.fleet.cluster import connected


class Fleet:
    """A scheduler and workers of ``ktriage worker``, each with a cache and a current folder of its own."""

    def __init__(self, place: Path, *tls: str) -> None:
        self.place = place
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.address = f"{'tls' if tls else 'tcp'}://127.0.0.1:{port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        arguments = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard", *tls]
        arguments += ["--protocol", "tls"] if tls else []
        self._start("scheduler", "distributed.cli.dask_scheduler", *arguments)

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        home = self.place / name
        home.mkdir(parents=True)
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"KTRIAGE_CACHE": str(home / "cache"), "XDG_CACHE_HOME": str(home / "xdg")}
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=log,
                stderr=log,
                cwd=home,
                env={**os.environ, **own, "PYTHONPATH": os.pathsep.join(path)},
            )
        self.processes.append(process)
        return process

    def worker(self, name: str, vms: int = 1, *options: str) -> subprocess.Popen[bytes]:
        """Start a worker that is called ``name``; its files are in a folder of that name."""
        arguments = ["worker", "--scheduler", self.address, "--vms", str(vms), "--name", name]
        arguments += options
        return self._start(name, "ktriage", *arguments)

    def wait(self, workers: int) -> None:
        """Wait until so many workers are there."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            with suppress(UserError), connected(self.address) as client:
                client.wait_for_workers(workers, timeout=max(1.0, deadline - time.monotonic()))
                return
            time.sleep(0.2)
        raise AssertionError("the workers did not come")

    def cache(self, name: str) -> Path:
        """Return the folder of a worker's cache."""
        return self.place / name / "cache"

    def close(self) -> None:
        """End all of it."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def here() -> str:
    """Return the folder of this process's cache: a worker's, where it is called on one."""
    return os.environ["KTRIAGE_CACHE"]


def wait_there(note: str, until: str) -> str:
    """Note in a file that this was called, wait until another one is there, and return where."""
    with Path(note).open("a") as out:
        out.write(f"{here()}\n")
    while not Path(until).exists():
        time.sleep(0.1)
    return here()
