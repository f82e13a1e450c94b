"""Workers that share nothing with their driver, and that die or stop in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import fleet as helpers
import pytest

from ktriage.bisect.log import read_log
from ktriage.bisect.types import Run
from ktriage.cache import cache_root
from ktriage.case.trials import load_outcome
from ktriage.errors import MachineryError, UserError
from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.cluster import connected
from ktriage.jobs.fleet.content import Blob
from ktriage.jobs.fleet.crew import Crew, crew_of
from ktriage.jobs.fleet.lab import open_fleet_lab
from ktriage.jobs.labs import open_lab
from ktriage.trial import load_spec

pytest.importorskip("distributed")


SOON = 600.0
"""Seconds that nothing takes, however busy the machine is."""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[helpers.Fleet]:
    """Return a cluster without workers; what the driver keeps is in a folder of its own."""
    packages = cache_root() / "kernel"
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "driver"))
    packages.mkdir(parents=True, exist_ok=True)
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver/kernel").symlink_to(packages)
    made = helpers.Fleet(tmp_path / "fleet")
    yield made
    made.close()


def size_of(blob: Blob) -> int:
    """Return the size of a file that was sent; runs on a worker."""
    with content.using(blob) as (path,):
        return path.stat().st_size


def offer(blob: Blob) -> Blob:
    """Make a folder of a file that was sent, and offer it; runs on a worker."""
    with content.using(blob) as (path,):
        folder = path.parent.parent.parent / "made"
        folder.mkdir(exist_ok=True)
        (folder / "copy").write_bytes(path.read_bytes())
    return content.offer(folder)


def fail(how: str) -> None:
    if how == "user":
        raise UserError("put right by a person")
    raise ZeroDivisionError("not ours")


def test_blobs_reach_workers_once_and_come_back(fleet: helpers.Fleet, tmp_path: Path) -> None:
    fleet.worker("one", 2)
    fleet.worker("two", 2)
    fleet.wait(2)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * content.PIECE + 5))
    blob = content.register(path)
    with connected(fleet.address) as client:
        crew = crew_of(client, fleet.address)
        assert crew.room == 4
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(crew.call, size_of, blob, seconds=30, needs=[blob]) for _ in range(16)]
            assert {call.result() for call in calls} == {blob.size}
        assert sorted(crew.sent.values()) == [1, 1]
        # One that was not said to be needed, and one that was taken away behind the driver's back.
        for name in ("one", "two"):
            assert (fleet.cache(name) / "content" / blob.sha256 / "data").is_file()
            (fleet.cache(name) / "content" / blob.sha256 / "data").unlink()
            (fleet.cache(name) / "content" / blob.sha256 / "bytes").unlink()
            (fleet.cache(name) / "content" / blob.sha256).rmdir()
        assert crew.call(size_of, blob, seconds=30) == blob.size
        back = crew.call_then(offer, blob, seconds=30, then=fetched)
        assert (content.unpacked(back) / "copy").read_bytes() == path.read_bytes()
        assert not [*fleet.place.glob("*/cache/content/*.offer")]
        with pytest.raises(UserError, match="put right"):
            crew.call(fail, "user", seconds=30)
        with pytest.raises(MachineryError, match="ZeroDivisionError: not ours"):
            crew.call(fail, "other", seconds=30)
        crew.close()


def fetched(blob: Blob, fetch: object) -> Blob:
    fetch(blob)  # type: ignore[operator]
    return blob


def test_calls_of_workers_that_die_or_stop_are_made_again(fleet: helpers.Fleet, tmp_path: Path) -> None:
    workers = {str(fleet.cache(name)): fleet.worker(name) for name in ("one", "two", "three")}
    fleet.wait(3)
    note, go = tmp_path / "note", tmp_path / "go"
    with connected(fleet.address) as client:
        crew = Crew(client)
        with ThreadPoolExecutor(3) as pool:
            said = str(note), str(go)
            calls = [pool.submit(crew.call, helpers.wait_there, *said, seconds=SOON) for _ in range(3)]
            wait_for(lambda: note.exists() and len(note.read_text().splitlines()) == 3)
            killed, stopped, well = workers
            workers[killed].kill()
            workers[stopped].send_signal(signal.SIGSTOP)
            go.touch()
            assert [call.result(SOON) for call in calls] == [well] * 3
        assert crew.room == 2
        workers[stopped].send_signal(signal.SIGCONT)
        # One that takes too long is given to another, which here takes as long.
        slow = threading.Thread(target=stop_soon, args=(crew, note))
        slow.start()
        with pytest.raises(MachineryError, match="stopped"):
            crew.call(helpers.wait_there, str(note), str(tmp_path / "never"), seconds=2)
        slow.join()
        assert set(note.read_text().splitlines()[-2:]) == {stopped, well}
        crew.close()


def stop_soon(crew: Crew, note: Path) -> None:
    """End all calls once two more than the first five have begun."""
    wait_for(lambda: len(note.read_text().splitlines()) >= 7)
    crew.stop()


def wait_for(there: object) -> None:
    deadline = time.monotonic() + SOON
    while not there():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


TREE = """\
[kernel]
tree = "."
jobs = 1
[run]
commands = ["true"]
[hunted]
titles = ["WARNING in x"]
"""


def test_revisions_of_a_tree_are_built_by_workers_once(
    small_kernel, tmp_path: Path, fleet: helpers.Fleet
) -> None:
    old = small_kernel.git("rev-parse", "HEAD")
    new = small_kernel.commit("new", {"init.c": "int other;\nvoid _start(void) { for (;;) other++; }\n"})
    broken = small_kernel.commit("broken", {"more.c": "int undeclared = x;\n"})
    spec = tmp_path / "ktriage.toml"
    spec.write_text(TREE)
    fleet.worker("one")
    fleet.worker("two")
    fleet.wait(2)
    with closing(
        open_fleet_lab(load_spec(spec), tmp_path / "trials", fleet.address, repo=small_kernel.path)
    ) as lab:
        with ThreadPoolExecutor(6) as pool:
            builds = list(pool.map(lab.build, [old, new, broken] * 2))
        assert [build.error is None for build in builds] == [True, True, False] * 2
        assert sum(build.fresh for build in builds) == 3
        assert max(lab.remote.crew.sent.values()) == 1
        built = [path for path in fleet.place.glob("*/cache/built/*") if path.is_dir()]
        assert len(built) == 3
        assert "more.c" in (builds[2].error or "")
        assert "undeclared" not in builds[0].log.read_text()
        image = builds[0].kernel.image
        there = fleet.place / next(path for path in built if path.name == image.parent.name) / "image"
        assert image.read_bytes() == there.read_bytes() != builds[1].kernel.image.read_bytes()
    # What was built is here now, and nobody is asked for it.
    here = open_lab(load_spec(spec), tmp_path / "trials", repo=small_kernel.path)
    assert [here.build(commit).fresh for commit in (old, new, broken)] == [False] * 3


def guests(fleet: helpers.Fleet) -> list[str]:
    """Return the processes of guests that the workers run."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"qemu-system" in line and str(fleet.place).encode() in line:
                found.append(entry.name)
    return found


def runs_of(log: Path) -> tuple[Run, ...]:
    """Return the runs in a log, which may be about to be written."""
    return read_log(log).runs if log.exists() and b"\n" in log.read_bytes() else ()


@pytest.fixture
def start() -> Iterator[Callable[[list[str]], subprocess.Popen[str]]]:
    """Return a function that starts a command, which ends with the test."""
    with ExitStack() as stack:

        def go(command: list[str]) -> subprocess.Popen[str]:
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
            stack.callback(process.kill)
            return process

        yield go


@pytest.mark.vm
@pytest.mark.timeout(1500)
def test_driver_and_worker_killed_and_another_worker_stopped(fleet, example, start, tmp_path: Path) -> None:
    """No trial is lost, none counted twice, and all that they left is here; nothing outlives its driver."""
    workers = {name: fleet.worker(name) for name in ("one", "two", "three")}
    fleet.wait(3)
    log = tmp_path / "bisection.jsonl"
    options = ["--json", "--cluster", fleet.address]
    # Eleven commits will do: what is tested is not the search.
    near = replace(example, good="HEAD^{/Merge branch .requests}", bad="HEAD^{/Merge branch .lazy-children}")
    run = start(near.bisect(log, "--no-verify", "--confidence", "0.99", *options))
    wait_for(lambda: run.poll() is not None or (len(runs_of(log)) >= 2 and guests(fleet)))
    run.kill()
    _, errors = run.communicate()
    assert run.returncode == -signal.SIGKILL, errors
    known = runs_of(log)
    wait_for(lambda: not guests(fleet))
    run = start([sys.executable, "-m", "ktriage", "bisect", "resume", str(log), *options])
    wait_for(lambda: run.poll() is not None or len(runs_of(log)) >= len(known) + 2)
    workers["one"].kill()
    workers["two"].send_signal(signal.SIGSTOP)
    out, errors = run.communicate(timeout=SOON)
    assert run.returncode == 0, errors
    answer = json.loads(out.splitlines()[-1])
    assert answer["culprit"] == example.culprit
    runs = runs_of(log)
    assert runs[: len(known)] == known
    assert len({one.attempt for one in runs}) == len(runs) == answer["runs"]
    assert "infra" not in answer["outcomes"], errors
    place = log.with_name(log.name + ".runs")
    for one in runs:
        outcome = load_outcome(Path(one.where or ""))
        assert outcome.directory == one.where == str(place / "trials" / one.attempt)
        assert (Path(one.where) / "console.log").is_file() == (outcome.kind != "build-failed")
    assert "is given to another worker" in errors
    assert "none of them more than once" in errors
    assert (place / "index.html").is_file()
    assert (place / "trials/culprit/vmcore").is_file()
