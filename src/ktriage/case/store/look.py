"""Questions to a store, each within a transaction that its caller has begun.

Those that are asked often are built once: that costs ten times what asking them of a small table does.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, func, select

from ktriage.case.store.models import (
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

    from sqlalchemy import ColumnElement, Connection

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
COMMON_SECONDS = 600.0
"""How long it is believed how many bugs have a function, where more than that have it."""


def bug(connection: Connection, number: int) -> Bug:
    """Return a bug; raises UserError where there is none of that number."""
    row = connection.execute(_BUG, {"bug": number}).first()
    if row is None:
        raise UserError(f"there is no bug {number}", bug=number)
    return _bug(row)


_BUGS = select(
    BugRow.stack, BugRow.state, BugRow.id, BugRow.title, BugRow.type, BugRow.crashes, BugRow.kept,
    BugRow.first_seen, BugRow.last_seen, BugRow.frame, BugRow.guilty_file, BugRow.culprit, BugRow.fixed_by,
    BugRow.duplicate_of,
)  # fmt: skip
_BUG = _BUGS.where(BugRow.id == bindparam("bug"))
_SOME_BUGS = _BUGS.where(BugRow.id.in_(bindparam("bugs", expanding=True)))
_SORTED_BUGS = {
    sort: _BUGS.order_by(*order).limit(bindparam("limit", 0)).offset(bindparam("offset", 0))
    for sort, order in SORTS.items()
}
_ALL_BUGS = select(func.count()).select_from(BugRow)


def _bug(row: Any) -> Bug:  # noqa: ANN401 (a row)
    # By place: a row's names are looked up each time, which for a list of bugs is most of its time.
    stack, state, number, title, type_, crashes_, kept, first, last, frame, file, culprit, fixed, other = row
    return Bug(
        number, title, type_, _STATES[state], crashes_, kept, first, last, frame, file,
        tuple(stack.split()), culprit, fixed, other,
    )  # fmt: skip


_STATES = {str(state): state for state in BugState}


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
    if not conditions:
        total = connection.execute(_ALL_BUGS).scalar_one()
        page = {"limit": limit, "offset": offset}
        return [_bug(row) for row in connection.execute(_SORTED_BUGS[sort], page)], int(total)
    # All bugs are looked at once, for the count and for the page.
    numbered = select(BugRow.id, func.count().over()).where(*conditions).order_by(*SORTS[sort])
    found = connection.execute(numbered.limit(limit).offset(offset)).all()
    total = found[0][1] if found else connection.execute(_ALL_BUGS.where(*conditions)).scalar_one()
    rows = connection.execute(_SOME_BUGS, {"bugs": [row[0] for row in found]})
    bugs_ = {row.id: _bug(row) for row in rows}
    return [bugs_[row[0]] for row in found], int(total)


def crashes(connection: Connection, number: int, limit: int, offset: int) -> list[CrashEntry]:
    """Return a bug's crashes: those that are kept, the best foremost, then the others, the newest foremost.

    Each part is read along an index: a bug may have a hundred thousand crashes.
    """
    page = {"bug": number, "limit": limit, "offset": offset}
    rows = list(connection.execute(_KEPT_ENTRIES, page).all())
    if len(rows) < limit:
        before = offset + len(rows)
        if offset and not rows:
            before = int(connection.execute(_KEPT_COUNT, {"bug": number}).scalar_one())
        page |= {"limit": limit - len(rows), "offset": max(0, offset - before)}
        rows += connection.execute(_OTHER_ENTRIES, page).all()
    return [_entry(row) for row in rows]


def crash(connection: Connection, number: int) -> CrashEntry:
    """Return a crash; raises UserError where there is none of that number."""
    row = connection.execute(_ENTRY, {"crash": number}).first()
    if row is None:
        raise UserError(f"there is no crash {number}", crash=number)
    return _entry(row)


_ENTRIES = select(
    CrashRow.id, CrashRow.bug_id, CrashRow.title, CrashRow.when, CrashRow.line, CrashRow.start,
    CrashRow.kernel, CrashRow.corrupted, CrashRow.rank, LogRow.source, CrashRow.report, LogRow.blob,
).outerjoin(LogRow, LogRow.id == CrashRow.log_id)  # fmt: skip
_ENTRY = _ENTRIES.where(CrashRow.id == bindparam("crash"))
_OF_BUG = CrashRow.bug_id == bindparam("bug")
_IS_KEPT = CrashRow.report.is_not(None)
_KEPT_ENTRIES = (
    _ENTRIES.where(_OF_BUG, _IS_KEPT)
    .order_by(CrashRow.rank.desc(), CrashRow.when.desc(), CrashRow.id)
    .limit(bindparam("limit", 0))
    .offset(bindparam("offset", 0))
)
_OTHER_ENTRIES = (
    _ENTRIES.where(_OF_BUG, CrashRow.report.is_(None))
    .order_by(CrashRow.when.desc(), CrashRow.id.desc())
    .limit(bindparam("limit", 0))
    .offset(bindparam("offset", 0))
)
_KEPT_COUNT = select(func.count()).where(_OF_BUG, _IS_KEPT)


def _entry(row: Any) -> CrashEntry:  # noqa: ANN401 (a row)
    entry = CrashEntry(*row)
    return entry if entry.report else replace(entry, log=None)


def titles(connection: Connection, number: int) -> list[tuple[str, int]]:
    """Return a bug's titles, the most frequent first."""
    return [(row[0], row[1]) for row in connection.execute(_TITLES, {"bug": number})]


_TITLES = (
    select(TitleRow.title, TitleRow.crashes)
    .where(TitleRow.bug_id == bindparam("bug"))
    .order_by(TitleRow.crashes.desc(), TitleRow.title)
)


def findings(connection: Connection, number: int | None, kind: FindingKind | None) -> list[Finding]:
    """Return findings, the newest first."""
    question = _FINDINGS if number is None else _FINDINGS_OF_BUG
    if kind is not None:
        question = question.where(FindingRow.kind == str(kind))
    return [_finding(row) for row in connection.execute(question, {"bug": number})]


_FINDINGS = select(FindingRow).order_by(FindingRow.when.desc(), FindingRow.id.desc())
_FINDINGS_OF_BUG = _FINDINGS.where(FindingRow.bug_id == bindparam("bug"))


def finding(connection: Connection, number: int) -> Finding:
    """Return a finding; raises UserError where there is none of that number."""
    row = connection.execute(select(FindingRow).where(FindingRow.id == number)).first()
    if row is None:
        raise UserError(f"there is no finding {number}", finding=number)
    return _finding(row)


def _finding(row: Any) -> Finding:  # noqa: ANN401 (a row)
    return Finding(row.id, row.bug_id, FindingKind(row.kind), row.when, row.summary, row.data, row.blob)


class Common:
    """How many bugs have the functions that very many have: counting those anew would be most of a search."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}

    def counts(self, connection: Connection, names: Sequence[str]) -> dict[str, int]:
        """Return how many bugs have each function, those left out that none has; the large may be old."""
        now = time.monotonic()
        known = {
            name: count
            for name in names
            for count, counted in [self._counts.get(name, (0, 0.0))]
            if count and now - counted < COMMON_SECONDS
        }
        asked = {"names": [name for name in names if name not in known]}
        for name, count in connection.execute(_HAVING, asked).all() if asked["names"] else ():
            known[name] = int(count)
            if count > MOST_ALIKE:
                self._counts[name] = int(count), now
        return known


_HAVING = (
    select(FunctionRow.name, func.count())
    .where(FunctionRow.name.in_(bindparam("names", expanding=True)))
    .group_by(FunctionRow.name)
)
_WITH_ANY = (
    select(BugRow.id, BugRow.stack)
    .where(
        BugRow.id.in_(
            select(FunctionRow.bug_id).where(FunctionRow.name.in_(bindparam("names", expanding=True)))
        )
    )
    .limit(MOST_ALIKE)
)


def similar(
    connection: Connection, stack: Sequence[str], limit: int, common: Common
) -> list[tuple[Bug, float]]:
    """Return the bugs whose stacks are most like ``stack``.

    The likeness is what both have over what either has, each function weighing by how rare it is: the entry
    code of system calls that every stack ends with counts for next to nothing.
    """
    names = list(dict.fromkeys(stack))
    if not names:
        return []
    total = connection.execute(_ALL_BUGS).scalar_one()
    counts = common.counts(connection, names)
    weight = {name: math.log((total + 1) / (1 + count)) for name, count in counts.items()}
    shared = connection.execute(_WITH_ANY, {"names": _telling(counts)}).all()
    unknown = math.log(total + 1)
    ours = set(names)
    found = []
    for number, text in shared:
        theirs = set(text.split())
        both = sum(weight.get(name, unknown) for name in theirs & ours)
        either = sum(weight.get(name, unknown) for name in theirs | ours)
        if both > 0 and either > 0:
            found.append((number, both / either))
    best = dict(sorted(found, key=lambda pair: (-pair[1], pair[0]))[:limit])
    bugs_ = {row.id: _bug(row) for row in connection.execute(_SOME_BUGS, {"bugs": list(best)})}
    return [(bugs_[number], likeness) for number, likeness in best.items()]


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
    return connection.execute(_WORST, {"bug": number}).first()


def best_rank(connection: Connection, number: int) -> float | None:
    """Return the rank of the best kept crash of a bug."""
    return connection.execute(_BEST, {"bug": number}).scalar()


_WORST = (
    select(CrashRow.id, CrashRow.rank)
    .where(_OF_BUG, _IS_KEPT)
    .order_by(CrashRow.rank, CrashRow.when, CrashRow.id)
    .limit(1)
)
_BEST = select(func.max(CrashRow.rank)).where(_OF_BUG, _IS_KEPT)
