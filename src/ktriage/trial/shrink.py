"""Delta debugging of a text under flakiness: what can go, and the crash stays.

Pieces are tried in ever smaller groups, from the end of the text to its beginning, for what stands later uses
what stands earlier; then the pieces inside of those that are left, and all over again until nothing changes.
Zeller and Hildebrandt, IEEE TSE 28 (2002); for nested pieces Misherghi and Su, ICSE 2006.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ktriage.trial.pieces import Piece, cut

Split = Callable[[bytes], list[Piece]]
Keeps = Callable[[bytes], bool]
"""Whether a shorter text still does it. It is asked once for each text."""


def shrink(text: bytes, splits: Sequence[Split], keeps: Keeps) -> bytes:
    """Return ``text`` without the pieces that it can do without: taking any one more would lose the crash.

    Each of ``splits`` says in its own way what the pieces are.
    """
    while True:
        before = text
        for split in splits:
            depth = 1
            while depth <= max((piece.depth for piece in split(text)), default=0):
                text = _level(text, [piece for piece in split(text) if piece.depth == depth], keeps)
                depth += 1
        if text == before:
            return text


def _level(text: bytes, pieces: Sequence[Piece], keeps: Keeps) -> bytes:
    """Take out of ``text`` what can go of some pieces that do not lie in each other."""
    gone: list[Piece] = []
    waiting = [list(pieces)] if pieces else []
    while waiting:
        group = waiting.pop()
        if keeps(cut(text, [*gone, *group])):
            gone += group
        elif len(group) > 1:
            middle = len(group) // 2
            waiting += [group[:middle], group[middle:]]
    return cut(text, gone)
