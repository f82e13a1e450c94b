"""Whether a store agrees with itself: what is counted in one table is there in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, select, update

from ktriage.case.store import blobs
from ktriage.case.store.models import BlobRow, BugRow, CrashRow, FunctionRow, LogRow, TitleRow
from ktriage.errors import MachineryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, ScalarSelect

    from ktriage.case.store.store import Store

MOST_BLOBS = 100
"""Blobs that are read at once."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that does not agree: ``what`` of which ``row``, as it is kept and as it was found."""

    what: str
    row: str
    kept: object
    found: object

    def __str__(self) -> str:
        return f"{self.what} of {self.row}: {self.kept} is kept, {self.found} was found"


def check(store: Store, *, mend: bool = False, blobs_too: bool = False) -> list[Wrong]:
    """Return what does not agree: counts of bugs, titles and logs with the crashes, kept logs with blobs.

    ``mend`` sets the counts to what was found, in the same transaction; ``blobs_too`` unpacks every blob and
    compares it with its digest, which takes about a second for 100 MB.
    """
    with store.batch() if mend else store.snapshot() as connection:
        wrong = [*_counts(connection), *_references(connection)]
        if mend and wrong:
            recount(connection)
        return [*wrong, *(_spoilt(connection) if blobs_too else ())]


def recount(connection: Connection, bug: int | None = None) -> None:
    """Set the counts and times of a bug and its titles, or of all, to what its crashes say."""
    bugs = [BugRow.id == bug] if bug is not None else []
    crashes, kept, first, last = _of_bug()
    values = {
        "crashes": crashes,
        "kept": kept,
        "first_seen": func.coalesce(first, BugRow.first_seen),
        "last_seen": func.coalesce(last, BugRow.last_seen),
    }
    connection.execute(update(BugRow).where(*bugs).values(values))
    titles = [TitleRow.bug_id == bug] if bug is not None else []
    connection.execute(update(TitleRow).where(*titles).values(crashes=_of_title()))
    if bug is None:
        connection.execute(update(LogRow).values(findings=_of_log()))


def _of_bug() -> tuple[ScalarSelect[int], ScalarSelect[int], ScalarSelect[float], ScalarSelect[float]]:
    mine = CrashRow.bug_id == BugRow.id
    return (
        select(func.count()).where(mine).scalar_subquery(),
        select(func.count()).where(mine, CrashRow.report.is_not(None)).scalar_subquery(),
        select(func.min(CrashRow.when)).where(mine).scalar_subquery(),
        select(func.max(CrashRow.when)).where(mine).scalar_subquery(),
    )


def _of_title() -> ScalarSelect[int]:
    mine = (CrashRow.bug_id == TitleRow.bug_id, CrashRow.title == TitleRow.title)
    return select(func.count()).where(*mine).scalar_subquery()


def _of_log() -> ScalarSelect[int]:
    return select(func.count()).where(CrashRow.log_id == LogRow.id).scalar_subquery()


def _counts(connection: Connection) -> Iterator[Wrong]:
    names = ("crashes", "kept", "first crash", "last crash")
    columns = (BugRow.crashes, BugRow.kept, BugRow.first_seen, BugRow.last_seen)
    for row in connection.execute(select(BugRow.id, *columns, *_of_bug())):
        for name, kept, found in zip(names, row[1:5], row[5:], strict=True):
            if found is not None and kept != found:
                yield Wrong(name, f"bug {row[0]}", kept, found)
    # All crashes are gone through once: asked title by title, each would be looked up by itself.
    by_title = select(CrashRow.bug_id, CrashRow.title, func.count().label("found"))
    counted = by_title.group_by(CrashRow.bug_id, CrashRow.title).subquery()
    same = and_(counted.c.bug_id == TitleRow.bug_id, counted.c.title == TitleRow.title)
    number = func.coalesce(counted.c.found, 0)
    titles = select(TitleRow.title, TitleRow.crashes, number).select_from(TitleRow).outerjoin(counted, same)
    for title, kept, found in connection.execute(titles.where(TitleRow.crashes != number)):
        yield Wrong("crashes", f"title {title!r}", kept, found)
    logs = select(LogRow.id, LogRow.findings, _of_log().label("found")).subquery()
    for log, kept, found in connection.execute(select(logs).where(logs.c.findings != logs.c.found)):
        yield Wrong("crashes", f"log {log}", kept, found)


def _references(connection: Connection) -> Iterator[Wrong]:
    """Yield crashes whose report is kept and whose log is not, and bugs that nothing leads to."""
    lost = (
        select(CrashRow.id)
        .join(LogRow, LogRow.id == CrashRow.log_id)
        .where(CrashRow.report.is_not(None), LogRow.blob.is_(None))
    )
    for (crash,) in connection.execute(lost):
        yield Wrong("log", f"crash {crash}", "its report", "no log")
    untitled = select(BugRow.id).where(~exists().where(TitleRow.bug_id == BugRow.id))
    for (bug,) in connection.execute(untitled):
        yield Wrong("titles", f"bug {bug}", "a title", "none")
    unseen = select(BugRow.id).where(BugRow.stack != "", ~exists().where(FunctionRow.bug_id == BugRow.id))
    for (bug,) in connection.execute(unseen):
        yield Wrong("functions", f"bug {bug}", "a stack", "none that a search finds")


def _spoilt(connection: Connection) -> Iterator[Wrong]:
    last = ""
    while True:
        digests = connection.execute(
            select(BlobRow.digest).where(BlobRow.digest > last).order_by(BlobRow.digest).limit(MOST_BLOBS)
        ).scalars().all()  # fmt: skip
        if not digests:
            return
        for digest in digests:
            try:
                blobs.get(connection, digest)
            except MachineryError as error:
                yield Wrong("content", f"blob {digest[:12]}", digest, error.message)
        last = digests[-1]
