"""Small logs to import, and a large store as years of imports would leave it; used by ``case.py``."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, text

from ktriage.case.store import Store, blobs
from ktriage.case.store.models import BugRow, FunctionRow, TitleRow
from ktriage.case.store.ranking import functions, rank
from ktriage.case.store.types import BugState
from ktriage.console import read_crashes

if TYPE_CHECKING:
    from sqlalchemy import Connection

FIXTURE = Path(__file__).parents[1] / "tests/fixtures/console/null-read.log"
KEPT = 40
LETTERS = "ghjkmnpqrstuvwxyz"
"""No hexadecimal digits: titles leave out addresses."""

STRIDE, SPREAD = 7919, 100_003
"""Primes: which bug a crash is of runs through the bugs without order, the first ones far more often."""


def log_of(bug: int, number: int) -> bytes:
    """Return a real kernel's log (22 kB, an oops with registers) with other functions in it."""
    log = _template()
    for one, other in zip(names(0), names(bug), strict=True):
        log = log.replace(one, other)
    return f"[    0.000000] run {number}\n{log}".encode()


def names(bug: int) -> tuple[str, str]:
    """Return the functions that make a bug another one: the one that crashes, and one that calls several.

    They are as long for every number, so that all that the reader says of one log holds for another.
    """
    word = "".join(LETTERS[bug // len(LETTERS) ** place % len(LETTERS)] for place in range(5))
    shared = "".join(LETTERS[bug % 500 // len(LETTERS) ** place % len(LETTERS)] for place in range(5))
    return f"function_{word}", f"caller_{shared}"


@cache
def _template() -> str:
    found = FIXTURE.read_text()
    return found.replace("mishap_null_read", names(0)[0]).replace("mishap_write", names(0)[1])


def write_logs(folder: Path, count: int, bugs: int, *, first: int = 0) -> None:
    """Write small logs of the first ``bugs`` bugs, none like any other."""
    for number in range(first, first + count):
        place = folder / f"{number // 1000:05d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.log").write_bytes(log_of(number % bugs, number))


def fill(store: Store, bugs: int, crashes: int) -> None:
    """Put bugs and crashes into an empty store, as imports leave them, by statements of the database.

    The first bugs have by far the most crashes (of 10,000 bugs with 1,000,000 crashes the first has 46,000,
    the last 33). Every crash has its log; 40 of a bug are kept, which share one report and one log: a page
    shows the best only.
    """
    now = time.time()
    with store.batch() as connection:
        if connection.dialect.name == "sqlite":
            # Digests come in no order; with the cache that readers have, each would be a page from the disk.
            connection.execute(text("PRAGMA cache_size = -500000"))
        _put_bugs(connection, bugs, now)
        for statement in _statements(connection.dialect.name):
            connection.execute(text(statement), _needed(statement, bugs=bugs, crashes=crashes, now=now))
    if store.engine.dialect.name == "postgresql":
        # Autovacuum would have, long since.
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _needed(statement: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401 (a statement's)
    return {name: value for name, value in values.items() if f":{name}" in statement}


def _put_bugs(connection: Connection, bugs: int, now: float) -> None:
    (crash,) = (found for found in read_crashes(log_of(0, 0)) if found.cause is None)
    report = json.dumps(crash.to_json())
    first = functions(crash)
    connection.execute(text("CREATE TEMP TABLE filled (bug_id INTEGER PRIMARY KEY, report TEXT, log TEXT)"))
    rows, titles, known, kept = [], [], [], []
    for number in range(bugs):
        mine, caller = names(number)

        def renamed(said: str, mine: str = mine, caller: str = caller) -> str:
            return said.replace(names(0)[0], mine).replace(names(0)[1], caller)

        stack = [renamed(name) for name in first]
        title = renamed(crash.title)
        rows.append({
            "id": number + 1, "title": title, "type": crash.type, "state": str(BugState.OPEN),
            "frame": mine, "guilty_file": f"drivers/net/file_{number % 900}.c", "stack": " ".join(stack),
            "first_seen": now, "last_seen": now, "crashes": 0, "kept": 0,
            "words": " ".join([title.lower(), *stack, f"drivers/net/file_{number % 900}.c"]),
        })  # fmt: skip
        titles += [
            {"title": renamed(one), "bug_id": number + 1, "crashes": 0}
            for one in dict.fromkeys((crash.title, *crash.alt_titles))
        ]
        known += [{"name": name, "bug_id": number + 1} for name in stack]
        kept.append({
            "bug_id": number + 1, "report": blobs.put(connection, renamed(report).encode()),
            "log": blobs.put(connection, log_of(number, 0)),
        })  # fmt: skip
    connection.execute(insert(BugRow), rows)
    connection.execute(insert(TitleRow), titles)
    connection.execute(insert(FunctionRow), known)
    connection.execute(text("INSERT INTO filled VALUES (:bug_id, :report, :log)"), kept)
    connection.execute(
        text("CREATE TEMP TABLE best (rank FLOAT)"),
    )
    connection.execute(text("INSERT INTO best VALUES (:rank)"), {"rank": rank(crash)})


def _statements(dialect: str) -> list[str]:
    digest = (
        "md5(CAST(i AS TEXT)) || md5(CAST(-i AS TEXT))"
        if dialect == "postgresql"
        else "lower(hex(randomblob(32)))"
    )
    share = f"((:bugs * 1000 * u / {SPREAD}) * u / {SPREAD}) * u / {SPREAD} / 1000"
    made = [
        f"""
        CREATE TEMP TABLE made AS
        WITH RECURSIVE n(i) AS (
            SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :crashes
        ),
        spread(i, u) AS (SELECT i, i * {STRIDE} % {SPREAD} FROM n),
        chosen(i, bug) AS (SELECT i, 1 + {share} FROM spread)
        SELECT i, bug, row_number() OVER (PARTITION BY bug ORDER BY i) AS place FROM chosen
        """,
        f"""
        INSERT INTO log (id, digest, source, size, imported, findings, blob, first_byte)
        SELECT i + 1, {digest}, '/srv/ci/logs/night-' || (i / 1000) || '/' || i || '.log', 22000, :now - i, 1,
        CASE WHEN place <= {KEPT} THEN log END, 0 FROM made JOIN filled ON bug_id = bug
        """,
        f"""
        INSERT INTO crash (id, bug_id, log_id, start, line, title, "when", kernel, rank, report)
        SELECT i + 1, bug, i + 1, 15000, 250, title, :now - i, '6.1.0-56-cloud-amd64',
        CASE WHEN place <= {KEPT} THEN (SELECT rank FROM best) ELSE (SELECT rank FROM best) - i % 2 END,
        CASE WHEN place <= {KEPT} THEN report END
        FROM made JOIN filled ON filled.bug_id = made.bug JOIN bug ON bug.id = made.bug
        """,
        """
        UPDATE bug SET crashes = (SELECT count(*) FROM crash WHERE bug_id = bug.id),
        kept = (SELECT count(report) FROM crash WHERE bug_id = bug.id),
        first_seen = (SELECT min("when") FROM crash WHERE bug_id = bug.id),
        last_seen = (SELECT max("when") FROM crash WHERE bug_id = bug.id)
        """,
        """
        UPDATE title SET crashes = (SELECT crashes FROM bug WHERE bug.id = bug_id)
        WHERE title IN (SELECT title FROM bug)
        """,
    ]
    made += [f"DROP TABLE {name}" for name in ("made", "filled", "best")]
    if dialect == "postgresql":
        made += [
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
            for table in ("bug", "log", "crash")
        ]
    return made
