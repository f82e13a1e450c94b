"""The commands of a fleet: workers that end in order, what is shown of them, TLS, imports and dumps there."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fleet as helpers
import pytest

from ktriage.cli import main
from ktriage.jobs.cluster import connected
from ktriage.jobs.crew import crew_of

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[helpers.Fleet]:
    """Return a cluster without workers; what the driver keeps is in a folder of its own."""
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "driver"))
    made = helpers.Fleet(tmp_path / "fleet")
    yield made
    made.close()


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return answer


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the workers and the queue as ``ktriage fleet --json`` prints them."""
    assert main(["fleet", "--json", *argv]) == 0
    *workers, queue = map(json.loads, capsys.readouterr().out.splitlines())
    assert queue.pop("kind") == "queue"
    return workers, queue


def test_what_a_fleet_does(fleet: helpers.Fleet, capsys, monkeypatch) -> None:
    one = fleet.worker("one", 2)
    fleet.wait(1)
    (worker,), queue = shown(capsys, fleet.address)
    assert (worker["name"], worker["vms"], worker["running"], worker["doing"]) == ("one", 2, 0, [])
    assert worker["free"] > 0
    assert (queue["running"], queue["waiting"], queue["failed"]) == (0, 0, 0)
    with connected(fleet.address) as client, ThreadPoolExecutor(1) as pool:
        crew = crew_of(client, fleet.address)
        call = pool.submit(crew.call, helpers.busy, 5.0, seconds=60)
        until(lambda: shown(capsys, fleet.address)[0][0]["doing"])
        # Of these only one more has room, whatever Dask calls them.
        rest = client.map(time.sleep, [3, 3, 3], resources={"vm": 1}, pure=False)
        until(lambda: shown(capsys, fleet.address)[1]["running"] == 2)
        (worker,), queue = shown(capsys, fleet.address)
        assert [(call["kind"], call["what"]) for call in worker["doing"]] == [("trial", "0001-abc")]
        assert 0 < worker["doing"][0]["seconds"] < 60
        assert (queue["running"], queue["waiting"], queue["waits"]) == (2, 2, {"sleep": 2})
        assert main(["fleet", fleet.address]) == 0
        out = capsys.readouterr().out
        assert "trial 0001-abc" in out
        assert "2 running, 2 waiting (sleep 2), 0 failed" in out
        call.result()
        client.gather(rest)
        crew.close()
    one.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("ktriage.jobs.fleet.STALLED_SECONDS", 1.0)
    until(lambda: shown(capsys, fleet.address)[0][0]["status"] == "stalled")
    assert main(["fleet", fleet.address]) == 0
    assert "stalled: not heard of for" in capsys.readouterr().out
    monkeypatch.setattr("ktriage.jobs.under_way.identity", lambda: {"version": "9", "code": "", "python": ""})
    (worker,), queue = shown(capsys, fleet.address)
    assert worker["unlike"] == queue["unlike"] == "ktriage 0.1.0 there, 9 here"
    assert main(["fleet", "nowhere"]) == 2
    assert main(["worker", "--scheduler", "tcp://127.0.0.1:1", "--vms", "0"]) == 2


def test_a_worker_ends_in_order(fleet: helpers.Fleet, tmp_path: Path) -> None:
    """It finishes what it has, takes nothing more, and what lasts too long goes to another one."""
    one = fleet.worker("one", 1)
    fleet.wait(1)
    begun = tmp_path / "begun"
    with connected(fleet.address) as client, ThreadPoolExecutor(2) as pool:
        crew = crew_of(client, fleet.address)
        first = pool.submit(crew.call, helpers.wait_there, str(begun), 3.0, seconds=60)
        until(begun.exists)
        two = fleet.worker("two", 1)
        fleet.wait(2)
        one.terminate()
        assert one.wait(30) == 0
        assert first.result(10) == str(fleet.cache("one"))
        assert crew.call(helpers.wait_there, str(begun), 0, seconds=60) == str(fleet.cache("two"))
        assert begun.read_text().splitlines() == [str(fleet.cache("one")), str(fleet.cache("two"))]
        begun.unlink()
        second = pool.submit(crew.call, helpers.wait_there, str(begun), 3.0, seconds=60)
        until(begun.exists)
        fleet.worker("three", 1)
        fleet.wait(2)
        two.send_signal(signal.SIGINT)
        time.sleep(0.5)
        two.send_signal(signal.SIGINT)
        assert two.wait(2.5) == 0
        assert second.result(30) == str(fleet.cache("three"))
        crew.close()


def test_a_scheduler_that_goes_away(fleet: helpers.Fleet) -> None:
    worker = fleet.worker("one", 1)
    fleet.wait(1)
    fleet.processes[0].kill()
    assert worker.wait(60) == 2
    said = (fleet.place / "one" / "log").read_text().splitlines()
    assert len(said) == 2
    assert re.fullmatch(rf"ktriage worker: {fleet.address} is gone or has given this worker up; .*", said[1])
