"""The lines of a commit graph, laid out in lanes beside a list of commits, newest on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Lanes:
    """``lane[row]`` is where each commit stands; ``edges`` go from one row to the next: (row, from, to)."""

    lane: list[int]
    edges: list[tuple[int, int, int]]

    @property
    def width(self) -> int:
        """The number of lanes."""
        return 1 + max([*self.lane, *(max(a, b) for _, a, b in self.edges)], default=0)


def lay_out(parents: Sequence[Sequence[int]]) -> Lanes:
    """Lay out a graph whose row r has the rows ``parents[r]`` as parents, all of them below r.

    A lane is kept for each commit that a child above waits for. A commit takes the first lane that waits
    for it, its first parent goes on in the same lane, and its others get the next free ones.
    """
    waiting: list[int | None] = []
    lane: list[int] = []
    edges: list[tuple[int, int, int]] = []
    open_edges: list[tuple[int, int]] = []
    for row, above in enumerate(parents):
        here = _place(waiting, row)
        lane.append(here)
        # What came down from the row before: to this commit, or past it in its own lane.
        edges += [
            (row - 1, origin, here if target == row else waiting.index(target))
            for origin, target in open_edges
        ]
        waiting = [None if target == row else target for target in waiting]
        open_edges = [(at, target) for at, target in enumerate(waiting) if target is not None]
        for number, parent in enumerate(dict.fromkeys(above)):
            if number == 0 and parent in waiting and waiting.index(parent) > here:
                # Two lines meet further down: they do so in the lane more to the left.
                waiting[waiting.index(parent)] = None
            if parent not in waiting:
                _wait(waiting, parent, here if number == 0 else None)
            open_edges.append((here, parent))
    return Lanes(lane, edges)


def _place(waiting: list[int | None], row: int) -> int:
    if row not in waiting:
        _wait(waiting, row, None)
    return waiting.index(row)


def _wait(waiting: list[int | None], row: int, lane: int | None) -> None:
    """Let ``row`` be waited for in ``lane``, or in the first free one."""
    if lane is None or waiting[lane] is not None:
        lane = waiting.index(None) if None in waiting else len(waiting)
    if lane == len(waiting):
        waiting.append(row)
    else:
        waiting[lane] = row
