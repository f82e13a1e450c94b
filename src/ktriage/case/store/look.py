"""Questions to a store, each within a transaction that its caller has begun."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, or_, select, union, update

from ktriage.case.store.models import (
    BlobRow,
    BugRow,
    CrashRow,
    FindingRow,
    FunctionRow,
    LogRow,
    TitleRow,
)
from ktriage.case.store.types import Bug, BugState, CrashEntry, Finding, FindingKind
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

SORTS: dict[str, tuple[ColumnElement[Any], ...]] = {
    "last": (BugRow.last_seen.desc(), BugRow.id.desc()),
    "first": (BugRow.first_seen.desc(), BugRow.id.desc()),
    "crashes": (BugRow.crashes.desc(), BugRow.id.desc()),
    "title": (BugRow.title.asc(), BugRow.id.asc()),
}
"""Orders in which bugs can be listed: the newest, the most frequent, by title."""
MOST_WORDS = 8
MOST_ALIKE = 300
"""Bugs that share a function with a stack and are compared with it."""


def bug(connection: Connection, number: int) -> Bug:
    """Return a bug; raises UserError where there is none of that number."""
    row = connection.execute(select(BugRow).where(BugRow.id == number)).first()
    if row is None:
        raise UserError(f"there is no bug {number}", bug=number)
    return _bug(row)


def _bug(row: Any) -> Bug:  # noqa: ANN401 (a row)
    return Bug(
        id=row.id, title=row.title, type=row.type, state=BugState(row.state),
        crashes=row.crashes, kept=row.kept,
        first_seen=row.first_seen, last_seen=row.last_seen, frame=row.frame, guilty_file=row.guilty_file,
        stack=tuple(row.stack.split()), culprit=row.culprit, fixed_by=row.fixed_by,
        duplicate_of=row.duplicate_of,
    )  # fmt: skip


def bugs(
    connection: Connection,
    text: str,
    state: BugState | None,
    function: str | None,
    sort: str,
    limit: int,
    offset: int,
) -> tuple[list[Bug], int]:
    """Return bugs that match, and how many do. Raises UserError for an order that is not known."""
    if sort not in SORTS:
        raise UserError(f"{sort}: bugs can't be sorted by that", hint=f"by {', '.join(SORTS)}")
    conditions = [BugRow.words.contains(word, autoescape=True) for word in text.lower().split()[:MOST_WORDS]]
    if state is not None:
        conditions.append(BugRow.state == str(state))
    if function is not None:
        conditions.append(BugRow.id.in_(select(FunctionRow.bug_id).where(FunctionRow.name == function)))
    total = connection.execute(select(func.count()).select_from(BugRow).where(*conditions)).scalar_one()
    rows = connection.execute(
        select(BugRow).where(*conditions).order_by(*SORTS[sort]).limit(limit).offset(offset)
    ).all()
    return [_bug(row) for row in rows], int(total)


def crashes(connection: Connection, number: int, limit: int, offset: int) -> list[CrashEntry]:
    """Return a bug's crashes, those that are kept first, the best of them foremost."""
    rows = connection.execute(
        _ENTRIES.where(CrashRow.bug_id == number)
        .order_by(CrashRow.report.is_(None), CrashRow.rank.desc(), CrashRow.when.desc(), CrashRow.id)
        .limit(limit)
        .offset(offset)
    ).all()
    return [_entry(row) for row in rows]


def crash(connection: Connection, number: int) -> CrashEntry:
    """Return a crash; raises UserError where there is none of that number."""
    row = connection.execute(_ENTRIES.where(CrashRow.id == number)).first()
    if row is None:
        raise UserError(f"there is no crash {number}", crash=number)
    return _entry(row)


_ENTRIES = select(CrashRow, LogRow.source, LogRow.blob).outerjoin(LogRow, LogRow.id == CrashRow.log_id)


def _entry(row: Any) -> CrashEntry:  # noqa: ANN401 (a row)
    return CrashEntry(
        id=row.id, bug=row.bug_id, title=row.title, when=row.when, line=row.line, start=row.start,
        kernel=row.kernel, corrupted=row.corrupted, rank=row.rank, source=row.source, report=row.report,
        log=row.blob if row.report else None,
    )  # fmt: skip


def titles(connection: Connection, number: int) -> list[tuple[str, int]]:
    """Return a bug's titles, the most frequent first."""
    rows = connection.execute(
        select(TitleRow.title, TitleRow.crashes)
        .where(TitleRow.bug_id == number)
        .order_by(TitleRow.crashes.desc(), TitleRow.title)
    ).all()
    return [(row.title, row.crashes) for row in rows]


def findings(connection: Connection, number: int | None, kind: FindingKind | None) -> list[Finding]:
    """Return findings, the newest first."""
    question = select(FindingRow).order_by(FindingRow.when.desc(), FindingRow.id.desc())
    if number is not None:
        question = question.where(FindingRow.bug_id == number)
    if kind is not None:
        question = question.where(FindingRow.kind == str(kind))
    return [_finding(row) for row in connection.execute(question).all()]


def finding(connection: Connection, number: int) -> Finding:
    """Return a finding; raises UserError where there is none of that number."""
    row = connection.execute(select(FindingRow).where(FindingRow.id == number)).first()
    if row is None:
        raise UserError(f"there is no finding {number}", finding=number)
    return _finding(row)


def _finding(row: Any) -> Finding:  # noqa: ANN401 (a row)
    return Finding(row.id, row.bug_id, FindingKind(row.kind), row.when, row.summary, row.data, row.blob)


def similar(connection: Connection, stack: Sequence[str], limit: int) -> list[tuple[Bug, float]]:
    """Return the bugs whose stacks are most like ``stack``.

    The likeness is what both have over what either has, each function weighing by how rare it is: the entry
    code of system calls that every stack ends with counts for next to nothing.
    """
    names = list(dict.fromkeys(stack))
    if not names:
        return []
    total = connection.execute(select(func.count()).select_from(BugRow)).scalar_one()
    rows = connection.execute(
        select(FunctionRow.name, func.count()).where(FunctionRow.name.in_(names)).group_by(FunctionRow.name)
    ).all()
    counts = {name: int(count) for name, count in rows}
    weight = {name: math.log((total + 1) / (1 + count)) for name, count in counts.items()}
    candidates = select(FunctionRow.bug_id).where(FunctionRow.name.in_(_telling(counts)))
    shared = connection.execute(
        select(BugRow.id, BugRow.stack).where(BugRow.id.in_(candidates)).limit(MOST_ALIKE)
    ).all()
    unknown = math.log(total + 1)
    ours = set(names)
    found = []
    for number, text in shared:
        theirs = set(text.split())
        both = sum(weight.get(name, unknown) for name in theirs & ours)
        either = sum(weight.get(name, unknown) for name in theirs | ours)
        if both > 0 and either > 0:
            found.append((number, both / either))
    best = sorted(found, key=lambda pair: (-pair[1], pair[0]))[:limit]
    return [(bug(connection, number), likeness) for number, likeness in best]


def _telling(counts: Mapping[str, int]) -> list[str]:
    """Return the rarest functions that few enough bugs share; the rarest of all in any case."""
    chosen: list[str] = []
    room = MOST_ALIKE
    for name in sorted(counts, key=lambda name: counts[name]):
        room -= counts[name]
        if chosen and room < 0:
            break
        chosen.append(name)
    return chosen


def worst_kept(connection: Connection, number: int) -> Any:  # noqa: ANN401 (a row)
    """Return the kept crash of a bug that tells least, the oldest of those; None where none is kept."""
    return connection.execute(
        select(CrashRow.id, CrashRow.rank)
        .where(CrashRow.bug_id == number, CrashRow.report.is_not(None))
        .order_by(CrashRow.rank, CrashRow.when, CrashRow.id)
        .limit(1)
    ).first()


def best_rank(connection: Connection, number: int) -> float | None:
    """Return the rank of the best kept crash of a bug."""
    return connection.execute(
        select(func.max(CrashRow.rank)).where(CrashRow.bug_id == number, CrashRow.report.is_not(None))
    ).scalar()


def drop_reports(connection: Connection, keep: int, before: float | None) -> int:
    """Keep the reports of the best ``keep`` crashes of each bug; return how many lost theirs."""
    place = func.row_number().over(
        partition_by=CrashRow.bug_id, order_by=(CrashRow.rank.desc(), CrashRow.when.desc(), CrashRow.id)
    )
    ranked = (
        select(CrashRow.id, CrashRow.when, place.label("place"))
        .where(CrashRow.report.is_not(None))
        .subquery()
    )
    beyond = [ranked.c.place > keep]
    if before is not None:
        beyond.append(ranked.c.when < before)
    lost = select(ranked.c.id).where(or_(*beyond))
    dropped = connection.execute(update(CrashRow).where(CrashRow.id.in_(lost)).values(report=None)).rowcount
    kept = (
        select(func.count())
        .where(CrashRow.bug_id == BugRow.id, CrashRow.report.is_not(None))
        .scalar_subquery()
    )
    connection.execute(update(BugRow).values(kept=kept))
    wanted = select(CrashRow.log_id).where(CrashRow.report.is_not(None), CrashRow.log_id.is_not(None))
    connection.execute(update(LogRow).where(LogRow.id.not_in(wanted)).values(blob=None))
    return int(dropped)


def used_blobs() -> Select[Any]:
    """Return the question for the digests that something needs."""
    parts = union(
        select(CrashRow.report).where(CrashRow.report.is_not(None)),
        select(LogRow.blob).where(LogRow.blob.is_not(None)),
        select(FindingRow.blob).where(FindingRow.blob.is_not(None)),
    ).subquery()
    return select(BlobRow.digest).where(BlobRow.digest.in_(select(parts.c[0])))
