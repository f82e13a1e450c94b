"""When the crashes of a bug came: counted by the store, so that many cost no more than few."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Integer, bindparam, cast, func, select

from ktriage.case.store.models import CrashRow

if TYPE_CHECKING:
    from sqlalchemy import Select

    from ktriage.case.store.store import Store

MOST_TIMED = 3_000
"""Crashes, the newest, that are looked at: counting a million takes longer than a reader waits."""
MOST_BINS = 48
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
WIDTHS = (
    *(_MINUTE * n for n in (1, 5, 15, 30)),
    *(_HOUR * n for n in (1, 3, 6, 12)),
    *(_DAY * n for n in (1, 2, 7, 14, 30, 91, 182, 365)),
)
"""Seconds that a bin may be wide, so that it has a name."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Crashes by when they came: ``counts`` by bin, title and kernel.

    A bin is ``width`` seconds wide; bin 0 begins at ``start``, seconds since the epoch, and there are
    ``bins`` of them. ``crashes`` are counted in it, which is less than a bug has where it has very many.
    """

    start: float
    width: int
    bins: int
    crashes: int
    counts: tuple[tuple[int, str, str | None, int], ...]


def timeline(store: Store, bug: int) -> Timeline | None:
    """Return when a bug's crashes came, None where it has none."""
    with store.snapshot() as connection:
        last = connection.execute(_NEWEST, {"bug": bug, "place": 0}).scalar()
        if last is None:
            return None
        first = connection.execute(_NEWEST, {"bug": bug, "place": MOST_TIMED - 1}).scalar()
        if first is None:
            first = connection.execute(_OLDEST, {"bug": bug}).scalar_one()
        width = _width(last - first)
        start = first // width * width
        asked = {"bug": bug, "first": first, "start": start, "width": float(width)}
        rows = connection.execute(_counted(connection.dialect.name), asked).all()
    counts = tuple((int(row[0]), row[1], row[2], int(row[3])) for row in rows)
    bins = int((last - start) // width) + 1
    return Timeline(start, width, bins, sum(count for *_, count in counts), counts)


_OF_BUG = CrashRow.bug_id == bindparam("bug")
_NEWEST = (
    select(CrashRow.when).where(_OF_BUG).order_by(CrashRow.when.desc()).offset(bindparam("place", 0)).limit(1)
)
_OLDEST = select(func.min(CrashRow.when)).where(_OF_BUG)


@cache
def _counted(dialect: str) -> Select[int, str, str | None, int]:
    share = (CrashRow.when - bindparam("start", 0.0)) / bindparam("width", 1.0)
    # A cast rounds on PostgreSQL and cuts on SQLite, which need not have been built with floor().
    place = cast(share if dialect == "sqlite" else func.floor(share), Integer).label("place")
    return (
        select(place, CrashRow.title, CrashRow.kernel, func.count())
        .where(_OF_BUG, CrashRow.when >= bindparam("first", 0.0))
        .group_by(place, CrashRow.title, CrashRow.kernel)
    )


def _width(seconds: float) -> int:
    widest = next((width for width in WIDTHS if seconds / width <= MOST_BINS - 1), None)
    return widest or int(seconds // (MOST_BINS - 1)) + 1
