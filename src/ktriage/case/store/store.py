"""A store of bugs and what was found about them."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)

from ktriage.case.store import blobs, look
from ktriage.case.store.check import recount
from ktriage.case.store.models import (
    LONGEST_TITLE,
    BugRow,
    CrashRow,
    FindingRow,
    FunctionRow,
    LogRow,
    TitleRow,
    TokenRow,
)
from ktriage.case.store.pruning import let_go, prune
from ktriage.case.store.ranking import functions, rank
from ktriage.case.store.types import Added, BugState, Finding, FindingKind
from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine, Insert
    from sqlalchemy.exc import DBAPIError

    from ktriage.case.store.types import Bug, CrashEntry, Pruned
    from ktriage.console.types import Crash

SHORT = 200
BUSY_SECONDS = 30.0
"""How long a writer waits for another one's transaction."""
MOST_WORDS = 16_000
"""Characters that a search of one bug looks in."""
KEPT = 40
"""Crashes of a bug whose logs are kept, unless another number is asked for."""
WHOLE_LOG = 4 << 20
"""Bytes up to which a log is kept whole; of a longer one what is around the crashes is."""
BEFORE, AFTER = 1 << 20, 256 << 10
"""Bytes kept before and after the crashes of a log that is too long."""

# What an import asks for each log, built once: that costs ten times what asking does.
_LOG = select(LogRow.id).where(LogRow.digest == bindparam("digest"))
_BUG = select(BugRow).where(BugRow.id == bindparam("bug"))
_BUGS_OF_TITLES = select(TitleRow.title, TitleRow.bug_id).where(
    TitleRow.title.in_(bindparam("titles", expanding=True))
)
_NEW_LOG, _NEW_BUG, _NEW_TITLES, _NEW_CRASH = map(insert, (LogRow, BugRow, TitleRow, CrashRow))
_KEEP_LOG = update(LogRow).where(LogRow.id == bindparam("log"))
_COUNT_TITLE = (
    update(TitleRow).where(TitleRow.title == bindparam("named")).values(crashes=TitleRow.crashes + 1)
)
_CHANGE_BUG = update(BugRow).where(BugRow.id == bindparam("bug"))


class Store:
    """An open store. Each method is a transaction of its own; ``batch`` makes several into one."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # With PostgreSQL's own level each question would see what was written since the last one.
        level = {} if engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        self._engines = {
            True: engine.execution_options(writes=True),
            False: engine.execution_options(**level),
        }
        self._mine = threading.local()
        self._common = look.Common()

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()

    @contextmanager
    def batch(self) -> Iterator[Connection]:
        """Make what is written within the block one transaction: all of it is kept, or nothing."""
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Make what is read within the block one picture, whatever others write meanwhile."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        """Begin a transaction, or go on with the one that this thread is in.

        Raises MachineryError where the database fails: nothing of the transaction is kept then, unless it
        failed while that was being said.
        """
        if (connection := getattr(self._mine, "connection", None)) is not None:
            yield connection
            return
        try:
            with self._engines[writes].begin() as connection:
                self._mine.connection = connection
                try:
                    yield connection
                finally:
                    self._mine.connection = None
        except (IntegrityError, ProgrammingError, DataError, NotSupportedError):
            raise  # ours
        except (InterfaceError, DatabaseError) as error:
            raise failure(error) from error

    # What is brought in.

    def has_log(self, digest: str) -> bool:
        """Return whether a log with this content was brought in before."""
        with self.snapshot() as connection:
            return connection.execute(_LOG, {"digest": digest}).first() is not None

    def add_log(
        self,
        source: str,
        data: bytes,
        crashes: Sequence[Crash],
        *,
        when: float | None = None,
        keep: int = KEPT,
    ) -> Added:
        """Take in a log and its crashes; one that was taken in before adds nothing.

        ``source`` says where it came from, ``when`` when it happened (now). ``keep`` is how many crashes of a
        bug keep their logs. A crash that follows from another of the same log is a part of that one, not a
        bug of its own: the panic after a warning, the stall after an oops.
        """
        digest = blobs.digest_of(data)
        when = time.time() if when is None else when
        crashes = [crash for crash in crashes if crash.cause is None]
        with self.batch() as connection:
            known = connection.execute(_LOG, {"digest": digest}).scalar()
            if known is not None:
                return Added(known, known=True)
            values = {
                "digest": digest, "source": _clean(source), "size": len(data), "imported": time.time(),
                "findings": len(crashes), "first_byte": 0,
            }  # fmt: skip
            log = _new(connection, _NEW_LOG, values)
            bugs: list[int] = []
            new: list[int] = []
            kept = False
            for crash in crashes:
                bug, fresh = self._bug_of(connection, crash, when)
                bugs.append(bug)
                new += [bug] if fresh else []
                kept |= self._add_crash(connection, bug, log, crash, when, keep)
            if kept:
                first, part = _kept_part(data, crashes)
                blob = blobs.put(connection, part)
                connection.execute(_KEEP_LOG, {"log": log, "blob": blob, "first_byte": first})
            return Added(log, tuple(dict.fromkeys(bugs)), tuple(dict.fromkeys(new)))

    def add_finding(
        self, kind: FindingKind, key: str, summary: str, data: dict[str, Any], *,
        bug: int | None = None, content: bytes | None = None, when: float | None = None,
    ) -> int:  # fmt: skip
        """Take in something else that was found; ``key`` names it, so that a second time replaces it.

        Raises UserError where there is no such bug.
        """
        when = time.time() if when is None else when
        with self.batch() as connection:
            if bug is not None:
                look.bug(connection, bug)
            digest = blobs.put(connection, content) if content is not None else None
            key = blobs.digest_of(f"{kind}\0{key}".encode())
            values = {
                "bug_id": bug, "kind": str(kind), "when": when,
                "summary": _clean(summary), "data": data, "blob": digest,
            }  # fmt: skip
            known = connection.execute(select(FindingRow.id).where(FindingRow.key == key)).scalar()
            if known is None:
                known = _new(connection, insert(FindingRow), {"key": key, **values})
            else:
                connection.execute(update(FindingRow).where(FindingRow.id == known).values(**values))
            if bug is not None and kind is FindingKind.BISECTION and data.get("culprit"):
                connection.execute(update(BugRow).where(BugRow.id == bug).values(culprit=data["culprit"]))
            return known

    def _bug_of(self, connection: Connection, crash: Crash, when: float) -> tuple[int, bool]:
        """Return the bug of a crash, made where there is none, and whether it was."""
        titles = list(dict.fromkeys(_fit(title) for title in (crash.title, *crash.alt_titles)))
        rows = connection.execute(_BUGS_OF_TITLES, {"titles": titles})
        found: dict[str, int] = {row[0]: row[1] for row in rows}
        bug = next((found[title] for title in titles if title in found), None)
        fresh = bug is None
        if bug is None:
            values = {
                "title": titles[0], "type": crash.type, "state": str(BugState.OPEN), "first_seen": when,
                "last_seen": when, "crashes": 0, "kept": 0, "stack": "", "words": "",
            }  # fmt: skip
            bug = _new(connection, _NEW_BUG, values)
        fresh_titles = [{"title": name, "bug_id": bug, "crashes": 0} for name in titles if name not in found]
        if fresh_titles:
            connection.execute(_NEW_TITLES, fresh_titles)
        connection.execute(_COUNT_TITLE, {"named": titles[0]})
        return bug, fresh

    def _add_crash(
        self, connection: Connection, bug: int, log: int, crash: Crash, when: float, keep: int
    ) -> bool:
        """Write a crash down, with its report where it is one of the best; return whether it is."""
        row = connection.execute(_BUG, {"bug": bug}).one()
        points = rank(crash)
        best = look.best_rank(connection, bug)
        worst = None
        if row.kept >= keep:
            worst = look.worst_kept(connection, bug)
        keeps = keep > 0 and (row.kept < keep or (worst is not None and worst.rank < points))
        report = blobs.put(connection, json.dumps(crash.to_json()).encode()) if keeps else None
        entry = {
            "bug_id": bug, "log_id": log, "start": crash.start, "line": crash.line,
            "title": _fit(crash.title), "when": when, "kernel": _short(crash.kernel),
            "corrupted": _short(crash.corrupted), "rank": points, "report": report,
        }  # fmt: skip
        connection.execute(_NEW_CRASH, entry)
        if keeps and worst is not None:
            let_go(connection, worst.id)
        values: dict[str, Any] = {
            "crashes": row.crashes + 1,
            "first_seen": min(row.first_seen, when),
            "last_seen": max(row.last_seen, when),
            "words": _words(row.words, [crash.title, *crash.alt_titles]),
        }
        if keeps and worst is None:
            values["kept"] = row.kept + 1
        if not row.stack or (keeps and points > (best or 0)):
            values |= self._described(connection, bug, row, crash)
        connection.execute(_CHANGE_BUG, {"bug": bug, **values})
        return keeps

    def _described(self, connection: Connection, bug: int, row: Any, crash: Crash) -> dict[str, Any]:  # noqa: ANN401 (a row)
        """Return the columns that the best crash gives its bug, and index its functions."""
        names = [_clean(name)[:SHORT] for name in functions(crash)]
        known = set(
            connection.execute(select(FunctionRow.name).where(FunctionRow.bug_id == bug)).scalars().all()
        )
        fresh = [{"name": name, "bug_id": bug} for name in dict.fromkeys(names) if name not in known]
        if fresh:
            connection.execute(insert(FunctionRow), fresh)
        files = [frame.file for frame in crash.stack if frame.file]
        return {
            "stack": " ".join(names),
            "frame": _short(crash.frame),
            "guilty_file": _short(crash.guilty_file),
            "type": row.type or crash.type,
            "words": _words(
                row.words, [crash.title, *crash.alt_titles, crash.guilty_file or "", *names, *files]
            ),
        }

    # Who may upload.

    def new_token(self, name: str) -> str:
        """Make a token for ``name``, in place of an older one, and return it: only its hash is kept."""
        token = secrets.token_urlsafe(32)
        values = {"name": _fit(name)[:100], "hash": _hash(token), "created": time.time(), "last_used": None}
        with self.batch() as connection:
            connection.execute(delete(TokenRow).where(TokenRow.name == values["name"]))
            connection.execute(insert(TokenRow).values(**values))
        return token

    def token_name(self, token: str) -> str | None:
        """Return whose token it is, or None."""
        with self.snapshot() as connection:
            return connection.execute(select(TokenRow.name).where(TokenRow.hash == _hash(token))).scalar()

    def drop_token(self, name: str) -> bool:
        """Take a token back; return whether there was one."""
        with self.batch() as connection:
            return connection.execute(delete(TokenRow).where(TokenRow.name == name)).rowcount > 0

    # What people say of bugs.

    def mark(
        self, bug: int, state: BugState, *, fixed_by: str | None = None, duplicate_of: int | None = None
    ) -> None:
        """Say what became of a bug. Raises UserError where it is not there, or its own duplicate."""
        with self.batch() as connection:
            look.bug(connection, bug)
            if state is BugState.DUPLICATE:
                if duplicate_of is None or duplicate_of == bug:
                    raise UserError(f"bug {bug}: say of which other bug it is a duplicate")
                other = look.bug(connection, duplicate_of)
                if other.duplicate_of == bug:
                    raise UserError(f"bug {duplicate_of} is a duplicate of bug {bug} already")
            values = {
                "state": str(state),
                "fixed_by": fixed_by if state is BugState.FIXED else None,
                "duplicate_of": duplicate_of if state is BugState.DUPLICATE else None,
            }
            connection.execute(update(BugRow).where(BugRow.id == bug).values(**values))

    def merge(self, bug: int, into: int) -> None:
        """Make ``bug`` a part of ``into``: its titles, crashes and findings; it is gone afterwards."""
        if bug == into:
            raise UserError(f"bug {bug} can't be merged into itself")
        with self.batch() as connection:
            mine, other = look.bug(connection, bug), look.bug(connection, into)
            for table in (TitleRow, CrashRow, FindingRow):
                connection.execute(update(table).where(table.bug_id == bug).values(bug_id=into))
            there = select(FunctionRow.name).where(FunctionRow.bug_id == into)
            connection.execute(
                delete(FunctionRow).where(FunctionRow.bug_id == bug, FunctionRow.name.in_(there))
            )
            connection.execute(update(FunctionRow).where(FunctionRow.bug_id == bug).values(bug_id=into))
            connection.execute(update(BugRow).where(BugRow.duplicate_of == bug).values(duplicate_of=into))
            words = connection.execute(select(BugRow.words).where(BugRow.id.in_((bug, into)))).scalars().all()
            values = {
                "culprit": other.culprit or mine.culprit,
                "words": " ".join(words),
                "duplicate_of": None if other.duplicate_of == bug else other.duplicate_of,
            }
            connection.execute(update(BugRow).where(BugRow.id == into).values(**values))
            connection.execute(delete(BugRow).where(BugRow.id == bug))
            recount(connection, into)

    def split(self, bug: int, title: str) -> int:
        """Give the crashes of ``title`` a bug of their own, and return it.

        Raises UserError where the bug has no such title, or is named by it.
        """
        with self.batch() as connection:
            look.bug(connection, bug)
            titles = connection.execute(select(TitleRow.title).where(TitleRow.bug_id == bug)).scalars().all()
            if title not in titles:
                raise UserError(f"bug {bug} has no title {title!r}")
            main = look.bug(connection, bug).title
            if title == main:
                raise UserError(f"{title!r} is the bug's own title", hint="split off one of the others")
            moved = select(CrashRow.id).where(CrashRow.bug_id == bug, CrashRow.title == title)
            old = connection.execute(select(BugRow).where(BugRow.id == bug)).one()
            values = {
                "title": title, "type": old.type, "state": str(BugState.OPEN), "crashes": 0, "kept": 0,
                "first_seen": old.first_seen, "last_seen": old.last_seen, "stack": old.stack,
                "frame": old.frame, "guilty_file": old.guilty_file,
                "words": _words(title.lower(), old.stack.split()),
            }  # fmt: skip
            new = _new(connection, _NEW_BUG, values)
            connection.execute(update(CrashRow).where(CrashRow.id.in_(moved)).values(bug_id=new))
            connection.execute(update(TitleRow).where(TitleRow.title == title).values(bug_id=new))
            names = (
                connection.execute(select(FunctionRow.name).where(FunctionRow.bug_id == bug)).scalars().all()
            )
            if names:
                connection.execute(insert(FunctionRow), [{"name": name, "bug_id": new} for name in names])
            recount(connection, bug)
            recount(connection, new)
            return new

    def prune(self, keep: int = KEPT, *, before: float | None = None) -> Pruned:
        """Keep the logs of the best ``keep`` crashes of each bug, and none of those before ``before``."""
        return prune(self, keep, before)

    # What is asked.

    def bug(self, bug: int) -> Bug:
        """Return a bug; raises UserError where there is none of that number."""
        with self.snapshot() as connection:
            return look.bug(connection, bug)

    def bugs(
        self, *, text: str = "", state: BugState | None = None, function: str | None = None,
        sort: str = "last", limit: int = 100, offset: int = 0,
    ) -> tuple[list[Bug], int]:  # fmt: skip
        """Return the bugs that have all words of ``text``, and how many there are; see ``look.SORTS``."""
        with self.snapshot() as connection:
            return look.bugs(connection, text, state, function, sort, limit, offset)

    def crashes(self, bug: int, *, limit: int = 100, offset: int = 0) -> list[CrashEntry]:
        """Return a bug's crashes, those whose logs are kept first, the best of them foremost."""
        with self.snapshot() as connection:
            return look.crashes(connection, bug, limit, offset)

    def crash(self, crash: int) -> CrashEntry:
        """Return a crash; raises UserError where there is none of that number."""
        with self.snapshot() as connection:
            return look.crash(connection, crash)

    def finding(self, finding: int) -> Finding:
        """Return a finding; raises UserError where there is none of that number."""
        with self.snapshot() as connection:
            return look.finding(connection, finding)

    def bug_of_title(self, title: str) -> int | None:
        """Return the bug that crashes of a title belong to, or None."""
        with self.snapshot() as connection:
            return connection.execute(select(TitleRow.bug_id).where(TitleRow.title == _fit(title))).scalar()

    def titles(self, bug: int) -> list[tuple[str, int]]:
        """Return the titles that a bug is known by, and how many crashes had each as their own."""
        with self.snapshot() as connection:
            return look.titles(connection, bug)

    def findings(self, bug: int | None = None, kind: FindingKind | None = None) -> list[Finding]:
        """Return what else was found, the newest first: about one bug, or all."""
        with self.snapshot() as connection:
            return look.findings(connection, bug, kind)

    def similar(self, stack: Sequence[str], *, limit: int = 10) -> list[tuple[Bug, float]]:
        """Return the bugs whose stacks are most like ``stack``, each with a likeness from 0 to 1."""
        with self.snapshot() as connection:
            return look.similar(connection, stack, limit, self._common)

    def blob(self, digest: str) -> bytes | None:
        """Return what is kept under a digest."""
        with self.snapshot() as connection:
            return blobs.get(connection, digest)


def failure(error: DBAPIError) -> MachineryError:
    """Return what a database's failure is to whoever asked; ``data`` has ``busy`` and what was ``said``."""
    said = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
    if "locked" in said or "lock timeout" in said:
        text = f"another process has been writing to the case store for {BUSY_SECONDS:.0f} s"
        return MachineryError(text, hint="try again", busy=True, said=said)
    hint = "what was said to be kept is kept; try again when the database answers"
    return MachineryError(f"the case store failed: {said}", hint=hint, busy=False, said=said)


def _fit(title: str) -> str:
    """Return a title as it can be kept: PostgreSQL's text takes no NUL, and UTF-8 no half of a pair."""
    return _clean(title)[:LONGEST_TITLE]


def _new(connection: Connection, statement: Insert, values: dict[str, Any]) -> int:
    """Insert a row and return its number."""
    key = connection.execute(statement, values).inserted_primary_key
    assert key is not None
    return int(key[0])


def _hash(token: str) -> str:
    # A token has 256 random bits: there is nothing to guess, so a plain hash will do.
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


def _words(known: str, more: Sequence[str]) -> str:
    """Return what a search for a bug looks in, with more words where they are not there yet."""
    for word in more:
        if (clean := _clean(word).lower()) not in known and len(known) + len(clean) < MOST_WORDS:
            known = f"{known} {clean}".lstrip()
    return known


def _short(text: str | None) -> str | None:
    return _clean(text)[:SHORT] if text is not None else None


def _clean(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _kept_part(data: bytes, crashes: Sequence[Crash]) -> tuple[int, bytes]:
    """Return what is kept of a log, and the offset of its first byte."""
    if len(data) <= WHOLE_LOG or not crashes:
        return 0, data[:WHOLE_LOG]
    first = max(min(crash.start for crash in crashes) - BEFORE, 0)
    last = max(crash.end for crash in crashes) + AFTER
    return first, data[first : min(last, first + WHOLE_LOG)]
