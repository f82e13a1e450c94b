"""Commands on a Dask cluster of processes: a killed worker loses no run, and none is counted twice."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktriage.bisect.log import read_log
from ktriage.errors import MachineryError, UserError
from ktriage.jobs.fleet.cluster import cluster

pytest.importorskip("distributed")


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.processes = [
            self._start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        ]

    def _start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.place / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            )

    def add_worker(self, *resources: str) -> subprocess.Popen[bytes]:
        """Start a worker of one thread."""
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.place)]
        self.processes.append(self._start("worker", self.address, *options, *resources))
        return self.processes[-1]

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Cluster]:
    """Return a cluster without workers."""
    made = Cluster(tmp_path)
    yield made
    made.close()


def wait_for(address: str, vms: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with cluster(address) as (_, found):
                if found >= vms:
                    return
        except UserError:
            time.sleep(0.2)
    raise AssertionError("the workers did not come")


def test_no_scheduler_and_no_room(dask: Cluster) -> None:
    with pytest.raises(UserError, match="no Dask scheduler at not-an-address"), cluster("not-an-address"):
        pass
    dask.add_worker()
    time.sleep(3)
    with pytest.raises(UserError, match=r"takes guests .ktriage worker"), cluster(dask.address):
        pass


def fail(how: str) -> str:
    if how == "user":
        raise UserError("put right by a person")
    if how == "other":
        raise ZeroDivisionError("not ours")
    return how


def test_errors_keep_their_family(dask: Cluster) -> None:
    dask.add_worker("--resources", "vm=1")
    wait_for(dask.address, 1)
    with cluster(dask.address) as (executor, vms):
        assert vms == 1
        same = [executor.submit(fail, "fine") for _ in range(3)]
        assert [future.result(30) for future in same] == ["fine"] * 3
        with pytest.raises(UserError, match="put right"):
            executor.submit(fail, "user").result(30)
        with pytest.raises(MachineryError, match="a worker failed: ZeroDivisionError"):
            executor.submit(fail, "other").result(30)


COMMAND = """#!/bin/bash
setsid sleep TOKEN &
wait
if [ -e bug ]; then exit $((RANDOM % 10 < 7)); fi
exit 0
"""


def git(where: Path, *arguments: str) -> str:
    """Run git, with a name to commit under."""
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(where), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | who).stdout


def commands(token: str) -> list[str]:
    """Return the processes that have this in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and token.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("build", [(), ("--build", "cp f1 made")])
def test_a_command_on_a_cluster(dask: Cluster, tmp_path: Path, monkeypatch, build) -> None:
    """A worker that is killed in the middle loses no run, and leaves no worktree and no process behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repo = tmp_path / "repo"
    git(tmp_path, "init", "-q", "-b", "main", str(repo))
    for i in range(31):
        (repo / ("bug" if i == 17 else f"f{i}")).write_text("x\n")
        git(repo, "add", "-A")
        git(repo, "commit", "-q", "-m", f"change {i}")
    commits = git(repo, "rev-list", "--reverse", "main").split()
    token = f"0.2{random.randrange(10**6):06}1"
    script = tmp_path / "command"
    script.write_text(COMMAND.replace("TOKEN", token))
    script.chmod(0o755)
    first, _ = dask.add_worker("--resources", "vm=1"), dask.add_worker("--resources", "vm=1")
    wait_for(dask.address, 2)
    log = tmp_path / "log"
    argv = [sys.executable, "-m", "ktriage", "bisect", "run", "--json", "--cluster", dask.address, "--log"]
    argv += [str(log), "--repo", str(repo), "--good", commits[1], "--bad", "main", *build, "--", str(script)]
    run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        if log.exists() and b"\n" in log.read_bytes() and len(read_log(log).runs) >= 4:
            break
        time.sleep(0.05)
    first.kill()
    if build:
        run.kill()
        run.wait()
        dask.add_worker("--resources", "vm=1")
        argv = [
            sys.executable,
            "-m",
            "ktriage",
            "bisect",
            "resume",
            str(log),
            "--json",
            "--cluster",
            dask.address,
        ]
        run = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    answer = json.loads(out.splitlines()[-1])
    assert answer["culprit"] == commits[17]
    runs = read_log(log).runs
    assert len({one.attempt for one in runs}) == len(runs)
    assert sum(1 for one in runs if one.purpose == "search") == answer["runs"]
    left = ["?"]
    while left and time.monotonic() < deadline + 60:
        left = git(repo, "worktree", "list").splitlines()[1:] + commands(token)
        left += [str(path) for path in (tmp_path / "cache").rglob("*.lock")]
        time.sleep(0.1)
    assert not left
