"""Geometry of the belief map: which commits are rows, where each cell, glyph and bar goes.

The map has a row a commit (newest on top, as git log prints them) and a column a run. The shade of a
cell is the belief in that commit after that run; a glyph stands where the run was made. Above it runs
the uncertainty left, in bits; on the right are the final probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ktriage.case.lanes import lay_out
from ktriage.case.types import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ktriage.case.types import Bisection, Run

ROW = 20
LABEL = 372
MAP = 470
BAR = 118
HEAD = 78
FOOT = 26
MOST_ROWS = 48
SHADES = 24
LANE = 9


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a commit, or (``commit`` None) ``count`` commits between rows that are drawn as one."""

    y: float
    label: str
    commit: Commit | None
    count: int
    probability: float
    culprit: bool
    end: str | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A stretch of equal belief in one row; ``shade`` is the opacity, 0 to 1."""

    x: float
    y: float
    width: float
    shade: float


@dataclass(frozen=True, slots=True)
class Glyph:
    """The outcome of one run, centred at (x, y)."""

    x: float
    y: float
    run: Run


@dataclass(frozen=True, slots=True)
class BeliefMap:
    """All that the template draws; lengths in SVG user units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    column: float
    glyph: float
    rows: list[Row]
    cells: list[Cell]
    glyphs: list[Glyph]
    ticks: list[tuple[float, int]]
    curve: str
    area: str
    bits: list[tuple[float, str]]
    indent: float
    dots: list[tuple[float, float]]
    lines: list[tuple[float, float, float, float]]


def entropy(belief: Mapping[str, float], commits: int) -> float:
    """Return the bits of uncertainty in a belief.

    Probability that ``belief`` leaves out is taken to be spread evenly over the other ``commits``.
    """
    known = [p for p in belief.values() if p > 0]
    rest = max(0.0, 1.0 - sum(known))
    others = max(1, commits - len(belief))
    bits = -sum(p * math.log2(p) for p in known)
    return bits + (rest * math.log2(others / rest) if rest > 1e-12 else 0.0)


def _kept(bisection: Bisection) -> set[str]:
    """Choose the commits that get a row of their own: all of a short range, else those that matter."""
    commits = bisection.commits
    if len(commits) <= MOST_ROWS:
        return {c.hash for c in commits}
    ranked = [c.hash for c in bisection.candidates()[:8]]
    ranked += [commits[0].hash, commits[-1].hash]
    ranked += [run.commit for run in reversed(bisection.runs)]
    return set(list(dict.fromkeys(ranked))[:MOST_ROWS])


def _rows(bisection: Bisection, top: float) -> tuple[list[Row], dict[str, int]]:
    kept = _kept(bisection)
    best = max(bisection.commits, key=lambda c: c.probability, default=None)
    named = best.hash if best and bisection.verdict == "culprit" else None
    rows: list[Row] = []
    index: dict[str, int] = {}

    def key(commit: Commit) -> str:
        return commit.hash if commit.hash in kept else ""

    for own, group in groupby(reversed(bisection.commits), key=key):
        members = list(group)
        for commit in members:
            index[commit.hash] = len(rows)
        first = members[0]
        rows.append(
            Row(
                y=top + len(rows) * ROW,
                label=first.subject if own else f"{len(members):,} commits",
                commit=first if own else None,
                count=len(members),
                probability=sum(c.probability for c in members),
                culprit=bool(own) and own == named,
                end=_end(first, bisection) if own else None,
            )
        )
    for below in bisection.below or (bisection.good,):
        if below and below not in index:
            # The range begins after it, but runs are made there too.
            index[below] = len(rows)
            commit = Commit(below, "where the range begins")
            end = _end(commit, bisection)
            rows.append(Row(top + len(rows) * ROW, commit.subject, commit, 1, 0.0, culprit=False, end=end))
    return rows, index


def _end(commit: Commit, bisection: Bisection) -> str | None:
    if commit.hash == bisection.bad:
        return "bad"
    return "good" if commit.hash == bisection.good else None


def _cells(bisection: Bisection, index: Mapping[str, int], rows: Sequence[Row], column: float) -> list[Cell]:
    beliefs = bisection.beliefs
    table = [[0.0] * len(beliefs) for _ in rows]
    for step, belief in enumerate(beliefs):
        for commit, probability in belief.items():
            if commit in index:
                table[index[commit]][step] += probability
    cells: list[Cell] = []
    for row, series in zip(rows, table, strict=True):
        step = 0
        # The square root lets a belief of 2% still be seen; 24 shades let equal neighbours be one cell.
        for shade, run in groupby(round(SHADES * math.sqrt(min(1.0, p))) for p in series):
            length = len(list(run))
            if shade:
                cells.append(Cell(LABEL + step * column, row.y, length * column, shade / SHADES))
            step += length
    return cells


def belief_map(bisection: Bisection) -> BeliefMap:
    """Lay out the belief map of ``bisection``; runs at commits outside of its range are left out."""
    count = max(1, len(bisection.runs))
    column = min(20.0, MAP / count)
    left, top = float(LABEL), float(HEAD)
    right = left + max(column * count, 120.0)
    rows, index = _rows(bisection, top)
    bottom = top + len(rows) * ROW
    glyphs = [
        Glyph(left + (i + 0.5) * column, rows[index[run.commit]].y + ROW / 2, run)
        for i, run in enumerate(bisection.runs)
        if run.commit in index
    ]
    indent, dots, lines = _graph(bisection, rows, index)
    stride = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500) if s * column >= 30), 1000)
    ticks = [(left + (n - 0.5) * column, n) for n in range(stride, count + 1, stride)]
    curve, area, bits = _uncertainty(bisection, column)
    return BeliefMap(
        width=right + BAR,
        height=bottom + FOOT,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        column=column,
        glyph=max(4.0, min(14.0, column * 0.92)),
        rows=rows,
        cells=_cells(bisection, index, rows, column),
        glyphs=glyphs,
        ticks=ticks,
        curve=curve,
        area=area,
        bits=bits,
        indent=indent,
        dots=dots,
        lines=lines,
    )


def _graph(
    bisection: Bisection, rows: Sequence[Row], index: Mapping[str, int]
) -> tuple[float, list[tuple[float, float]], list[tuple[float, float, float, float]]]:
    """Draw the commit graph beside the labels: its width, its dots and its lines; nothing of a cut range."""
    commits = bisection.commits
    if len(rows) < len(commits) or not any(commit.merge for commit in commits):
        return 0.0, [], []
    parents: list[list[int]] = [[] for _ in rows]
    outside = index.get((bisection.below or (bisection.good,))[0])
    for commit in commits:
        places = [index[commits[p].hash] if p >= 0 else outside for p in commit.parents]
        parents[index[commit.hash]] = [place for place in places if place is not None]
    lanes = lay_out(parents)

    def x(lane: int) -> float:
        return 5.0 + lane * LANE

    def y(row: int) -> float:
        return rows[row].y + ROW / 2

    dots = [(x(lane), y(row)) for row, lane in enumerate(lanes.lane)]
    lines = [(x(a), y(row), x(b), y(row + 1)) for row, a, b in lanes.edges]
    return lanes.width * LANE + 6.0, dots, lines


def _uncertainty(bisection: Bisection, column: float) -> tuple[str, str, list[tuple[float, str]]]:
    """Draw the bits left after each run as a step curve; return it, the area below it, and its scale."""
    left, low, high = float(LABEL), HEAD - 10.0, 24.0
    commits = max(2, bisection.count())
    most = max(math.log2(commits), 1.0)

    def y(bits: float) -> float:
        return low - (low - high) * min(1.0, bits / most)

    points = [(left, y(most))]
    levels = bisection.entropies or [entropy(belief, commits) for belief in bisection.beliefs]
    for i, level in enumerate(map(y, levels)):
        points += [(left + i * column, level), (left + (i + 1) * column, level)]
    curve = "M" + "L".join(f"{px:.1f},{py:.1f}" for px, py in points)
    area = f"{curve}L{points[-1][0]:.1f},{low}L{left},{low}Z"
    return curve, area, [(y(most), f"{most:.1f} bits"), (y(0), "0")]
