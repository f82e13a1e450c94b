"""Finding the lines that may announce a crash, at memory speed.

All headers are searched for at once by Vectorscan; what it finds are candidates, read on line by line. Logs
of a few hundred kilobytes are searched header by header, which needs no database and is as fast.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, cast

from ktriage.console.formats.headers import HEADERS

if TYPE_CHECKING:
    import hyperscan

_LITERALS = tuple(header.encode() for header in HEADERS)
_LONGEST = max(map(len, _LITERALS))
_SMALL = 128 << 10


_BLOCK = 1 << 30
"""Vectorscan takes up to 4 GB at a time."""


@cache
def _database() -> hyperscan.Database | None:
    """Return the Vectorscan database of all headers, or None where the processor can't run it.

    Literals compile in about a millisecond: there is nothing to gain from keeping the database on disk.
    """
    import hyperscan

    try:
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        database.compile(
            expressions=list(_LITERALS),
            ids=list(range(len(_LITERALS))),
            elements=len(_LITERALS),
            flags=0,
            literal=True,
        )
    except hyperscan.ArchitectureError:
        return None
    return database


def candidates(data: bytes | memoryview) -> list[int]:
    """Return the offsets of all headers in ``data``, in order."""
    database = _database() if len(data) > _SMALL else None
    if database is None:
        return _small(bytes(data))
    offsets: set[int] = set()
    with memoryview(data) as view:
        for start in range(0, len(view), _BLOCK):
            with view[start : start + _BLOCK + _LONGEST] as block:
                _large(database, block, start, offsets)
    return sorted(offsets)


def _small(data: bytes) -> list[int]:
    offsets: list[int] = []
    for literal in _LITERALS:
        position = data.find(literal)
        while position >= 0:
            offsets.append(position)
            position = data.find(literal, position + len(literal))
    return sorted(offsets)


def _large(database: hyperscan.Database, block: memoryview, start: int, offsets: set[int]) -> None:
    def found(which: int, _start: int, end: int, _flags: int, _context: object) -> None:
        offsets.add(start + end - len(_LITERALS[which]))

    database.scan(cast("bytes", block), match_event_handler=found)
