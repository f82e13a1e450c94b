"""Gives back what a store need not keep, some bugs to a transaction: others write in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, exists, func, or_, select, update

from ktriage.case.store.models import BlobRow, BugRow, CrashRow, FindingRow, LogRow
from ktriage.case.store.types import Pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection

    from ktriage.case.store.store import Store

MOST_BUGS = 100
MOST_LOGS = 50_000
MOST_BLOBS = 1000


def prune(store: Store, keep: int, before: float | None) -> Pruned:
    """Keep the logs of the best ``keep`` crashes of each bug, and none of those before ``before``.

    Bugs and counts stay. What was done when it is cut short stays done.
    """
    dropped = blobs = size = last = 0
    while True:
        with store.batch() as connection:
            bugs = (
                connection.execute(
                    select(BugRow.id).where(BugRow.id > last).order_by(BugRow.id).limit(MOST_BUGS)
                )
                .scalars()
                .all()
            )
            if not bugs:
                break
            last = bugs[-1]
            dropped += _drop_reports(connection, bugs, keep, before)
    with store.snapshot() as connection:
        newest = connection.execute(select(func.max(LogRow.id))).scalar() or 0
    needed = exists().where(CrashRow.log_id == LogRow.id, CrashRow.report.is_not(None))
    for start in range(1, newest + 1, MOST_LOGS):
        some = LogRow.id.between(start, start + MOST_LOGS - 1)
        with store.batch() as connection:
            connection.execute(
                update(LogRow).where(some, LogRow.blob.is_not(None), ~needed).values(blob=None)
            )
    after = ""
    while True:
        with store.batch() as connection:
            digests = (
                connection.execute(
                    select(BlobRow.digest)
                    .where(BlobRow.digest > after)
                    .order_by(BlobRow.digest)
                    .limit(MOST_BLOBS)
                )
                .scalars()
                .all()
            )
            if not digests:
                return Pruned(dropped, blobs, size)
            unused = and_(BlobRow.digest > after, BlobRow.digest <= digests[-1], _unused())
            after = digests[-1]
            count, room = connection.execute(
                select(func.count(), func.coalesce(func.sum(func.length(BlobRow.data)), 0)).where(unused)
            ).one()
            connection.execute(delete(BlobRow).where(unused))
            blobs, size = blobs + int(count), size + int(room)


def _drop_reports(connection: Connection, bugs: Sequence[int], keep: int, before: float | None) -> int:
    """Take the reports of some bugs' lesser crashes away; return how many."""
    place = func.row_number().over(
        partition_by=CrashRow.bug_id, order_by=(CrashRow.rank.desc(), CrashRow.when.desc(), CrashRow.id)
    )
    ranked = (
        select(CrashRow.id, CrashRow.log_id, CrashRow.when, place.label("place"))
        .where(CrashRow.bug_id.in_(bugs), CrashRow.report.is_not(None))
        .subquery()
    )
    beyond = [ranked.c.place > keep]
    if before is not None:
        beyond.append(ranked.c.when < before)
    lost = connection.execute(select(ranked.c.id).where(or_(*beyond))).scalars().all()
    for start in range(0, len(lost), MOST_BLOBS):
        some = lost[start : start + MOST_BLOBS]
        connection.execute(update(CrashRow).where(CrashRow.id.in_(some)).values(report=None))
    kept = select(func.count()).where(CrashRow.bug_id == BugRow.id, CrashRow.report.is_not(None))
    connection.execute(update(BugRow).where(BugRow.id.in_(bugs)).values(kept=kept.scalar_subquery()))
    return len(lost)


def let_go(connection: Connection, crash: int) -> None:
    """Take the report of one crash away, its log where no other crash of that is kept, and what held them."""
    report, log, blob = connection.execute(
        select(CrashRow.report, CrashRow.log_id, LogRow.blob)
        .outerjoin(LogRow, LogRow.id == CrashRow.log_id)
        .where(CrashRow.id == crash)
    ).one()
    connection.execute(update(CrashRow).where(CrashRow.id == crash).values(report=None))
    needed = exists().where(CrashRow.log_id == LogRow.id, CrashRow.report.is_not(None))
    connection.execute(update(LogRow).where(LogRow.id == log, ~needed).values(blob=None))
    connection.execute(delete(BlobRow).where(BlobRow.digest.in_([report, blob]), _unused()))


def _unused() -> ColumnElement[bool]:
    """Return the condition that nothing needs a blob.

    NOT EXISTS for each: PostgreSQL goes through all of what NOT IN names again for each row, where that is
    more than its working memory holds.
    """
    return and_(
        ~exists().where(CrashRow.report == BlobRow.digest),
        ~exists().where(LogRow.blob == BlobRow.digest),
        ~exists().where(FindingRow.blob == BlobRow.digest),
    )
