"""The commands of a fleet: workers that end in order, what is shown of them, TLS, imports and dumps there."""

from __future__ import annotations

import copy
import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import fleet as helpers
import fleet_calls
import pytest

from ktriage.case.store import open_store
from ktriage.cli import main
from ktriage.jobs.fleet import children, content
from ktriage.jobs.fleet.children import run_child, stop_children
from ktriage.jobs.fleet.cluster import connected
from ktriage.jobs.fleet.crew import crew_of
from ktriage.jobs.labs import open_lab
from ktriage.kernel import Kernel
from ktriage.trial import load_spec

pytest.importorskip("distributed")
dask = pytest.importorskip("dask")
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
        call = pool.submit(crew.call, fleet_calls.busy, 5.0, seconds=60)
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
    assert main(["worker", "--scheduler", fleet.address, "--name", "one"]) == 2
    assert capsys.readouterr().err.startswith(f"ktriage worker: {fleet.address} has a worker that is called")
    port = fleet.address.rpartition(":")[2]
    assert main(["worker", "--scheduler", fleet.address, "--port", port]) == 2
    assert capsys.readouterr().err == f"ktriage worker: --port: something else listens at {port}\n"
    one.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("ktriage.jobs.fleet.view.STALLED_SECONDS", 1.0)
    until(lambda: shown(capsys, fleet.address)[0][0]["status"] == "stalled")
    assert main(["fleet", fleet.address]) == 0
    assert "stalled: not heard of for" in capsys.readouterr().out
    monkeypatch.setattr(
        "ktriage.jobs.fleet.under_way.identity", lambda: {"version": "9", "code": "", "python": ""}
    )
    (worker,), queue = shown(capsys, fleet.address)
    assert worker["unlike"] == queue["unlike"] == "ktriage 0.1.0 there, 9 here"
    assert main(["fleet", "nowhere"]) == 2
    assert main(["worker", "--scheduler", "tcp://127.0.0.1:1", "--vms", "0"]) == 2


def test_a_worker_ends_in_order(fleet: helpers.Fleet, tmp_path: Path) -> None:
    """It finishes what it has, takes nothing more, and what lasts too long goes to another one."""
    one = fleet.worker("one", 1)
    fleet.wait(1)
    begun, end = tmp_path / "begun", tmp_path / "end"
    files = str(begun), str(end)
    with connected(fleet.address) as client, ThreadPoolExecutor(1) as pool:
        crew = crew_of(client, fleet.address)
        first = pool.submit(crew.call_then, fleet_calls.left, *files, seconds=300, then=fetched_late)
        until(begun.exists)
        two = fleet.worker("two", 1)
        fleet.wait(2)
        until(lambda: crew.room == 2)
        one.terminate()
        until(lambda: "1 calls under way" in (fleet.place / "one" / "log").read_text())
        end.touch()
        assert first.result(120) == str(fleet.cache("one"))
        assert one.wait(60) == 0
        assert crew.call(helpers.wait_there, *files, seconds=60) == str(fleet.cache("two"))
        assert begun.read_text().splitlines() == [str(fleet.cache("one")), str(fleet.cache("two"))]
        begun.unlink()
        end.unlink()
        second = pool.submit(crew.call, helpers.wait_there, *files, seconds=300)
        until(begun.exists)
        fleet.worker("three", 1)
        until(lambda: crew.room == 2)
        two.send_signal(signal.SIGINT)
        until(lambda: "1 calls under way" in (fleet.place / "two" / "log").read_text())
        two.send_signal(signal.SIGINT)
        assert two.wait(60) == 0
        end.touch()
        assert second.result(120) == str(fleet.cache("three"))
        crew.close()


def fetched_late(blob: content.Blob, fetch: Callable[[content.Blob], None]) -> str:
    """Fetch what a call left, after a while, and return what is in it."""
    time.sleep(2)
    fetch(blob)
    return (content.unpacked(blob) / "console.log").read_text()


def test_a_scheduler_that_goes_away(fleet: helpers.Fleet, tmp_path: Path) -> None:
    """Its workers, and who imports or looks, end with one line."""
    worker = fleet.worker("one", 1)
    fleet.wait(1)
    write_logs(tmp_path / "logs", 300)
    importing = ["import", "--cluster", fleet.address, "--case", str(tmp_path / "db"), str(tmp_path / "logs")]
    watching = ["fleet", "--json", "--watch", "0.2", fleet.address]
    drivers = [
        subprocess.Popen(
            [sys.executable, "-m", "ktriage", *one], stdout=log, stderr=subprocess.PIPE, text=True
        )
        for one, log in zip((importing, watching), (subprocess.DEVNULL, subprocess.PIPE), strict=True)
    ]
    assert drivers[1].stdout
    until(lambda: '"kind": "import"' in drivers[1].stdout.readline())
    fleet.processes[0].kill()
    assert worker.wait(60) == 2
    said = (fleet.place / "one" / "log").read_text().splitlines()
    assert len(said) == 2
    assert re.fullmatch(rf"ktriage worker: {fleet.address} is gone or has given this worker up; .*", said[1])
    for driver, name in zip(drivers, ("import", "fleet"), strict=True):
        told = [line for line in driver.communicate(timeout=60)[1].splitlines() if "different" not in line]
        assert driver.returncode == 2
        assert len(told) == 1
        assert told[0].startswith(f"ktriage {name}: ")
        assert "scheduler" in told[0]


OOPS = """[    1.000000] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: {number:#x}
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: {number} Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:culprit_{bug}+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  caller+0x1be/0x22c
"""


def write_logs(folder: Path, count: int) -> None:
    """Write logs as a night leaves them: many, some compressed, journals, one broken, a large one."""
    crash = folder / "crashes/0123456789abcdef"
    crash.mkdir(parents=True)
    (crash / "description").write_text("x\n")
    (crash / "log0").write_text(OOPS.format(number=1, bug="syz"))
    (crash / "repro.prog").write_text("r0 = socket(0x2, 0x1, 0x0)\n")
    for number in range(count):
        text = OOPS.format(number=number, bug=number % 7).encode()
        name = folder / f"{number % 3}" / f"{number:04d}.log"
        name.parent.mkdir(exist_ok=True)
        if number % 5 == 0:
            name.with_suffix(".log.gz").write_bytes(gzip.compress(text, mtime=0))
        else:
            name.write_bytes(text)
    (folder / "cut.log.gz").write_bytes(gzip.compress(b"x" * 9999)[:-9])
    filler = b"[    2.000000] all is well\n" * 400_000
    (folder / "large.log").write_bytes(filler + OOPS.format(number=1, bug="large").encode())
    (folder / "large.log.gz").write_bytes(gzip.compress(filler * 4 + b"end\n", 1))
    entry = "__REALTIME_TIMESTAMP=1700000000%06d\n_BOOT_ID=b%d\n_TRANSPORT=kernel\nMESSAGE=%s\n\n"
    lines = [line.split("] ", 1)[1] for line in OOPS.format(number=1, bug="journal").splitlines()]
    (folder / "journal.export").write_text(
        "".join(entry % (at, boot, line) for boot in (1, 2) for at, line in enumerate(lines))
    )


def content_of(place: Path) -> Any:
    """Return what a store has, without what depends on the order of things."""
    store = open_store(place)
    bugs = []
    for bug in store.bugs(limit=1000)[0]:
        crashes = sorted((one.title, one.when, one.source) for one in store.crashes(bug.id, limit=10_000))
        bugs.append((bug.title, bug.crashes, bug.first_seen, bug.last_seen, crashes))
    findings = [(one.kind, one.summary, store.blob(one.blob)) for one in store.findings()]
    store.close()
    return sorted(bugs), findings


def counts(out: str) -> dict[str, int]:
    """Return what ``ktriage import --json`` says in the end, but for the time it took."""
    last = json.loads(out.splitlines()[-1])
    del last["seconds"]
    return last


def processes_of(fleet: helpers.Fleet, name: str) -> list[str]:
    """Return the processes that a worker has, itself among them."""
    mark, found = f"KTRIAGE_CACHE={fleet.cache(name)}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found


def test_an_import_on_a_cluster(fleet: helpers.Fleet, tmp_path: Path, capsys) -> None:
    """A worker killed in the middle loses nothing and doubles nothing; the same again adds nothing."""
    first = fleet.worker("one", 1)
    fleet.worker("two", 1)
    write_logs(tmp_path / "logs", 400)
    away = ["import", "--json", "--case", str(tmp_path / "away.db"), "--cluster", fleet.address]
    fleet.wait(2)
    command = [sys.executable, "-m", "ktriage", *away, str(tmp_path / "logs")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout
    head = run.stdout.readline()
    until(lambda: len(processes_of(fleet, "one")) > 1)
    first.kill()
    first.wait()
    until(lambda: not processes_of(fleet, "one"))
    out, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    here = ["import", "--json", "--case", str(tmp_path / "here.db"), str(tmp_path / "logs")]
    assert main(here) == 0
    told = capsys.readouterr().out
    assert counts(out) == counts(told)
    assert errors_of(head + out) == errors_of(told)
    assert content_of(tmp_path / "away.db") == content_of(tmp_path / "here.db")
    assert main([*away, str(tmp_path / "logs")]) == 0
    again = counts(capsys.readouterr().out)
    assert (again["new"], again["known"]) == (0, again["logs"] - again["unreadable"])
    assert content_of(tmp_path / "away.db") == content_of(tmp_path / "here.db")


def errors_of(out: str) -> list[tuple[str, str]]:
    told = [json.loads(line) for line in out.splitlines()[:-1]]
    return sorted((one["source"], one["error"]) for one in told if one["error"])


def test_a_child_of_a_call(tmp_path: Path) -> None:
    """It may have a terminal, and ends when its call is stopped."""
    out, errors = tmp_path / "out", tmp_path / "errors"
    look = "import os, sys; print(os.get_terminal_size(1)); print('so', file=sys.stderr)"
    assert run_child([sys.executable, "-c", look], out, errors, terminal=(77, 20)) == 0
    assert out.read_text() == "os.terminal_size(columns=77, lines=20)\n"
    assert errors.read_text() == "so\n"
    with ThreadPoolExecutor(2) as pool:
        threads: list[int] = []

        def wait() -> int:
            threads.append(threading.get_ident())
            return run_child(["sleep", "60"], tmp_path / f"{len(threads)}", errors)

        one = pool.submit(wait)
        until(lambda: threads)
        two = pool.submit(wait)
        until(lambda: len(threads) == 2 and len(children._running) == 2)
        stop_children(threads[0])
        assert one.result(10) == -signal.SIGKILL
        assert not two.done()
        stop_children()
        assert two.result(10) == -signal.SIGKILL


SPEC = """
[kernel]
package = "linux-image-cloud-amd64"
[module]
name = "misbehave"
source = "{source}"
[guest]
memory = "128M"
[run]
commands = ["echo warn >/proc/misbehave", "echo put >/proc/misbehave"]
vmcore = "crashed"
[hunted]
module_count_below_zero = ["misbehave"]
"""


@pytest.fixture
def dumped(kernel: Kernel, tmp_path: Path) -> list[str]:
    """Return a dump's name with options: a guest in which a module warned and put a reference too many."""
    if kernel.vmlinux is None:
        pytest.skip(f"no debug information for {kernel.release}")
    (tmp_path / "ktriage.toml").write_text(SPEC.format(source=ROOT / "tests/modules/misbehave"))
    lab = open_lab(load_spec(tmp_path / "ktriage.toml"), tmp_path / "trials")
    outcome, build = lab.trial("it", None)
    assert outcome.vmcore
    assert build
    modules = tmp_path / "modules"
    modules.mkdir()
    for path in lab.modules(None):
        shutil.copy(path, modules)
    return [outcome.vmcore, "--vmlinux", str(kernel.vmlinux), "--modules", str(modules)]


@pytest.mark.vm
def test_a_dump_on_a_cluster(dumped: list[str], fleet: helpers.Fleet, tmp_path: Path, capfd) -> None:
    """Text and JSON are the same as here, files go to one worker once, and its memory does not hold them."""
    workers = [fleet.worker("one", 1), fleet.worker("two", 1)]
    fleet.wait(2)
    stores = {"here": tmp_path / "here.db", "away": tmp_path / "away.db"}
    for reports in (["summary", "--json", "--case"], ["modules", "bt", "--task", "nosuch"]):
        shows = {}
        for where, store in stores.items():
            options = [*reports, *([str(store)] if "--case" in reports else [])]
            options += ["--cluster", fleet.address] if where == "away" else []
            code = main(["dump", "show", *dumped, *options])
            out, err = capfd.readouterr()
            shows[where] = (
                code,
                out,
                [line for line in err.splitlines() if "of different sources" not in line],
            )
        assert shows["away"] == shows["here"]
    kept = [
        [(one.kind, one.summary, one.data) for one in open_store(at).findings()] for at in stores.values()
    ]
    assert kept[0] == kept[1]
    assert kept[0]
    assert content_of(stores["away"])[0][0][0] == content_of(stores["here"])[0][0][0]
    (kept_there,) = (fleet.cache(name) / "content" for name in ("one", "two") if fleet.cache(name).exists())
    assert len(list(kept_there.glob("*/data"))) == 3
    sent = max(path.stat().st_size for path in kept_there.glob("*/data"))
    for worker in workers:
        status = Path(f"/proc/{worker.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+)", status)[1]) << 10 < sent / 2
    assert main(["dump", "show", *dumped, "--src", str(tmp_path), "--cluster", fleet.address]) == 2


@pytest.fixture
def dask_config() -> Iterator[None]:
    """Put Dask's configuration back as it was."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)


@pytest.mark.usefixtures("dask_config")
def test_tls_as_the_page_says(tmp_path: Path, monkeypatch, capfd) -> None:
    """The page's own commands make the certificates; who has none of that CA is told so in one line."""
    page = (ROOT / "docs/fleet.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?openssl.*?)^```", page, re.MULTILINE | re.DOTALL)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        subprocess.run(["sh", "-ec", script], cwd=tmp_path / name, check=True, capture_output=True)
    place = tmp_path / "ours"
    assert (place / "worker.key").stat().st_mode & 0o77 == 0

    def files(who: str, ca: str = "ours", pair: str = "ours") -> list[str]:
        options = ["--tls-ca-file", str(tmp_path / ca / "ca.pem")]
        options += ["--tls-cert", str(tmp_path / pair / f"{who}.pem")]
        return [*options, "--tls-key", str(tmp_path / pair / f"{who}.key")]

    def refused(*options: str, command: str = "fleet") -> str:
        address = [fleet.address] if command == "fleet" else ["--scheduler", fleet.address]
        assert main([command, *address, *options]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        return line

    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "true")
    fleet = helpers.Fleet(tmp_path / "fleet", *files("scheduler"))
    try:
        fleet.worker("one", 1, *files("worker"))
        monkeypatch.delenv("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION")
        assert "TLS needs a CA file" in refused()
        assert "TLS needs a certificate for this client" in refused(*files("client")[:2])
        assert "TLS needs a certificate for this worker" in refused(*files("worker")[:2], command="worker")
        dask.config.refresh()
        plain = fleet.address.replace("tls", "tcp")
        assert main(["fleet", plain]) == 2
        assert "tls://" in capfd.readouterr().err
        assert main(["fleet", plain, *files("client")]) == 2
        assert "not encrypted, which is required here" in capfd.readouterr().err
        assert "the key is not the certificate's" in refused(*files("client")[:5], files("worker")[-1])
        assert "this certificate is not of the CA" in refused(*files("client", pair="theirs"))
        assert "is not of the CA that is trusted here" in refused(*files("client", "theirs"))
        until(lambda: shown_by(capfd, fleet.address, *files("client")))
        dask.config.refresh()
        for name, file in (
            ("CA_FILE", "ca.pem"),
            ("CLIENT__CERT", "client.pem"),
            ("CLIENT__KEY", "client.key"),
        ):
            monkeypatch.setenv(f"DASK_DISTRIBUTED__COMM__TLS__{name}", str(place / file))
        write_logs(tmp_path / "logs", 3)
        command = [sys.executable, "-m", "ktriage", "import", "--case", str(tmp_path / "case.db")]
        command += ["--cluster", fleet.address, str(tmp_path / "logs/0")]
        assert re.match("1 logs? in ", subprocess.run(command, capture_output=True, text=True).stdout)
    finally:
        fleet.close()


def shown_by(capture: pytest.CaptureFixture[str], *argv: str) -> bool:
    """Return whether the fleet has its one worker."""
    return [worker["name"] for worker in shown(capture, *argv)[0]] == ["one"]
