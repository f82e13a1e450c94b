"""An import that is killed, or its database: what was said is there, and another one makes good the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from ktriage.case.store import Store, open_store
from ktriage.case.store.check import check

LOGS = 320
"""Several batches for each of two readers."""


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """A folder of logs of 40 bugs."""
    folder = tmp_path_factory.mktemp("logs")
    for number in range(LOGS):
        letters = "ghjkmnpq"
        function = f"f_{letters[number % 8]}{letters[number // 8 % 5]}"
        log = f"""[    1.{number:06d}] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:{function}+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  caller_{function}+0x1be/0x22c
"""
        path = folder / f"{number:03d}.log"
        path.write_text(log)
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    return folder


@pytest.fixture(scope="module")
def whole(logs, tmp_path_factory) -> dict[str, list]:
    """What an import in one go makes of them."""
    place = str(tmp_path_factory.mktemp("whole") / "case.db")
    assert importing(place, logs).wait(120) == 0
    return content(place)


def importing(place: str, logs: Path) -> subprocess.Popen[str]:
    """Begin an import that says each log that it has kept."""
    command = [sys.executable, "-m", "ktriage", "import", "--json", "--jobs", "2", "--case", place, str(logs)]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **out)


QUESTIONS = {
    "bugs": "SELECT title, type, state, frame, stack, first_seen, last_seen, crashes, kept, words FROM bug",
    "titles": "SELECT title.title, bug.title AS bug, title.crashes FROM title JOIN bug ON bug.id = bug_id",
    "logs": "SELECT digest, source, size, findings, blob, first_byte FROM log",
    "crashes": 'SELECT digest, bug.title AS bug, crash.title, crash."when", start, line, rank, report'
    " FROM crash JOIN bug ON bug.id = bug_id JOIN log ON log.id = log_id",
    "functions": "SELECT name, title FROM function JOIN bug ON bug.id = bug_id",
    "blobs": "SELECT digest, size FROM blob",
}


def content(place: str) -> dict[str, list]:
    """Return all that a store has, whatever the numbers of its rows."""
    store = open_store(place)
    assert check(store, blobs_too=True) == []
    with store.snapshot() as connection:
        rows = {name: connection.execute(text(question)).all() for name, question in QUESTIONS.items()}
    store.close()
    return {name: sorted(map(tuple, found), key=str) for name, found in rows.items()}


def said(process: subprocess.Popen[str], count: int) -> list[str]:
    """Return the first logs that an import says that it has kept."""
    assert process.stdout
    return [json.loads(process.stdout.readline())["source"] for _ in range(count)]


def kept(store: Store) -> set[str]:
    with store.snapshot() as connection:
        return set(connection.execute(text("SELECT source FROM log")).scalars())


def test_an_import_that_is_killed_is_made_good_by_another(place, logs, whole):
    for count in (1, 150):
        process = importing(place, logs)
        acknowledged = said(process, count)
        process.kill()
        assert process.stdout
        acknowledged += [json.loads(line)["source"] for line in process.stdout if line.endswith("\n")]
        assert process.wait(30) == -signal.SIGKILL
        store = open_store(place)
        assert check(store, blobs_too=True) == []
        assert set(acknowledged) <= kept(store)
        store.close()
    process = importing(place, logs)
    last = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])
    assert process.returncode == 0
    assert last["logs"] == LOGS
    assert content(place) == whole


def test_two_imports_at_once_end_as_one(place, logs, whole):
    """They meet the same logs, titles and bugs: each is taken in by one of them."""
    open_store(place).close()
    both = [importing(place, logs) for _ in range(2)]
    ends = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(end["crashing"] for end in ends) == LOGS
    assert content(place) == whole


def backends(url: str) -> list[int]:
    """Return the processes that serve connections, but for the one that is asked."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT pid FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        ).scalars().all()  # fmt: skip
    engine.dispose()
    return list(found)


@pytest.mark.parametrize("what", ["a backend", "all of it"])
def test_a_database_that_is_killed_under_an_import(postgresql, what, logs, whole):
    engine = create_engine(postgresql.url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    process = importing(postgresql.url, logs)
    acknowledged = said(process, 70)
    if what == "all of it":
        postgresql.kill()
    else:
        # One backend that dies takes all connections with it, and the server recovers from its log.
        os.kill(backends(postgresql.url)[0], signal.SIGKILL)
    rest, errors = process.communicate(timeout=120)
    acknowledged += [one["source"] for one in map(json.loads, rest.splitlines()) if one["kind"] == "imported"]
    assert process.returncode == 2, errors
    assert errors.count("\n") == 1, errors
    assert errors.startswith("ktriage import: the case store failed: "), errors
    assert "Traceback" not in errors
    if what == "all of it":
        postgresql.start()
    else:
        postgresql.ready()
    store = open_store(postgresql.url)
    assert set(acknowledged) <= kept(store)
    assert len(kept(store)) < LOGS
    store.close()
    assert importing(postgresql.url, logs).wait(120) == 0
    assert content(postgresql.url) == whole
