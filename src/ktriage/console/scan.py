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
_SMALL = 128 << 10


@cache
def _database() -> hyperscan.Database:
    """Return the Vectorscan database of all headers; literals compile in about a millisecond."""
    import hyperscan

    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=list(_LITERALS),
        ids=list(range(len(_LITERALS))),
        elements=len(_LITERALS),
        flags=0,
        literal=True,
    )
    return database


def candidates(data: bytes | memoryview) -> list[int]:
    """Return the offsets of all headers in ``data``, in order."""
    return _small(bytes(data)) if len(data) <= _SMALL else _large(data)


def _small(data: bytes) -> list[int]:
    offsets: list[int] = []
    for literal in _LITERALS:
        position = data.find(literal)
        while position >= 0:
            offsets.append(position)
            position = data.find(literal, position + len(literal))
    return sorted(offsets)


def _large(data: bytes | memoryview) -> list[int]:
    offsets: list[int] = []

    def found(which: int, _start: int, end: int, _flags: int, _context: object) -> None:
        offsets.append(end - len(_LITERALS[which]))

    _database().scan(cast("bytes", data), match_event_handler=found)
    return sorted(offsets)
