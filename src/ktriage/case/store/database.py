"""Opens a store's database and brings it to the newest form.

SQLite is a file of its own in WAL mode, so that readers go on while an import writes; PostgreSQL is named by
its URL. Migrations are Alembic's, in ``migrations/``; they run when a store is opened.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from ktriage.case.store.store import BUSY_SECONDS, Store, failure
from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

MIGRATIONS = Path(__file__).parent / "migrations"
CONNECTIONS = 8
"""Connections that a process keeps open: as many as the threads of a server that ask or write at once."""
ASK_SECONDS = 0.002
"""How often a writer of SQLite's asks whether the other one is done."""
MIGRATION_LOCK = 0x6B747269
"""PostgreSQL's advisory lock that is held while a store is brought to the newest form."""


WRITE_LOCK = MIGRATION_LOCK + 1
"""PostgreSQL's advisory lock that a transaction holds which writes."""


def default_place() -> Path:
    """Return where the store is by default: ktriage/case.db in the XDG data folder."""
    root = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(root) / "ktriage" / "case.db"


def open_store(place: str | Path | None = None) -> Store:
    """Open the store at ``place``, made where there is none: a file, a database's URL, or the default one.

    Raises UserError where it can't be opened, is none, or was made by a newer ktriage.
    """
    url = _url(place)
    engine = _engine(url)
    try:
        with engine.begin() as connection:
            _upgrade(connection, url)
    except (DBAPIError, CommandError) as error:
        engine.dispose()
        raise _said(error, url) from error
    return Store(engine)


def _url(place: str | Path | None) -> URL:
    text_ = str(place) if place else str(default_place())
    if "://" in text_:
        try:
            url = make_url(text_)
        except ArgumentError as error:
            raise UserError(f"{text_}: no database's URL") from error
        if url.get_backend_name() == "postgresql" and url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() in ("postgresql", "sqlite"):
            return url
        raise UserError(f"{url.get_backend_name()}: only SQLite and PostgreSQL are known")
    path = Path(text_).expanduser()
    if path.is_dir():
        raise UserError(f"{path}: a directory, not a case store")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    return make_url("sqlite://").set(database=str(path))


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, pool_size=CONNECTIONS)
            event.listen(engine, "connect", _set_up_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        waits = {"options": f"-c lock_timeout={BUSY_SECONDS:.0f}s"} if "options" not in url.query else {}
        engine = create_engine(
            url, pool_pre_ping=True, pool_size=CONNECTIONS, connect_args={"connect_timeout": 10, **waits}
        )
        event.listen(engine, "begin", _begin_postgresql)
        return engine
    except (ImportError, NoSuchModuleError) as error:
        raise UserError(
            f"{url.get_backend_name()}: its driver is not installed", hint="pip install 'ktriage[postgres]'"
        ) from error


def _set_up_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # The driver's own transactions begin too late, which lets two writers run into each other.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY", "cache_size=-8000",
    ):  # fmt: skip
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite itself asks every 100 ms, which hardly ever falls between two transactions of an import.
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    deadline = time.monotonic() + BUSY_SECONDS
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        while time.monotonic() < deadline:
            try:
                raw.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                time.sleep(ASK_SECONDS)
            else:
                return
    finally:
        raw.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
    raise OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))


def _begin_postgresql(connection: Connection) -> None:
    # One writer at a time, as with SQLite: two that meet the same new title, or the same bugs in another
    # order, would else end in a duplicate key or a deadlock, and two counts of what is kept in a wrong one.
    if connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (WRITE_LOCK,))


def _upgrade(connection: Connection, url: URL) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    newest = ScriptDirectory.from_config(config).get_current_head()
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    now = MigrationContext.configure(connection).get_current_revision()
    if now == newest:
        return
    if now is None and connection.dialect.get_table_names(connection):
        raise UserError(f"{url.render_as_string()}: a database, but no case store")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _said(error: DBAPIError | CommandError, url: URL) -> UserError | MachineryError:
    place = url.database if url.get_backend_name() == "sqlite" else url.render_as_string()
    if isinstance(error, CommandError):
        return UserError(f"{place}: made by a newer ktriage", hint="bring this ktriage up to date")
    failed = failure(error)
    if isinstance(error, OperationalError) and failed.data["busy"]:
        return MachineryError(f"{place}: {failed.message}")
    return UserError(f"{place}: can't be opened as a case store: {failed.data['said']}")
