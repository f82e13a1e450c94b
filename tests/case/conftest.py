"""Stores of both kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import postgres
import pytest
from sqlalchemy import create_engine, text

from ktriage.case.store import Store, open_store


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Server]:
    """A real PostgreSQL server."""
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with postgres.server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path) -> str:
    """Where an empty store is to be."""
    if request.param == "sqlite":
        return str(tmp_path / "case.db")
    server = request.getfixturevalue("postgresql")
    engine = create_engine(server.url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return str(server.url)


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    """An empty store."""
    opened = open_store(place)
    yield opened
    opened.close()


@pytest.fixture
def make_log() -> Callable[..., bytes]:
    """Return what makes a log with an oops in a function."""

    def make(function: str, *, extra: str = "", number: int = 0) -> bytes:
        return f"""[    1.{number:06d}] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345679] #PF: supervisor read access in kernel mode
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: sh Tainted: G           OE      6.1.0 #1
[   12.345682] RIP: 0010:{function}+0x9/0x20
[   12.345683] Call Trace:
[   12.345684]  <TASK>
[   12.345685]  {extra or "caller_of_it"}+0x1be/0x22c
[   12.345686]  do_syscall_64+0x5d/0x90
[   12.345687]  entry_SYSCALL_64_after_hwframe+0x6e/0xd8
[   12.345688]  </TASK>
""".encode()

    return make
