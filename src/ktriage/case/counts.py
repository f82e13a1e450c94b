"""Geometry of a reference count over time, with what is held against it marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ktriage.case.findings import AccountDocument

Point = tuple[int, int, int, int]
"""The end of a stretch in nanoseconds, and the least, largest and last count in it."""

WIDTH, HEIGHT = 860.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 18.0, 22.0, 30.0
APART = 14.0
MOST_MARKS = 40


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that speaks against someone: where, and what."""

    x: float
    y: float
    says: str
    first: bool
    """Whether the count is wrong from here on."""


@dataclass(frozen=True, slots=True)
class CountPlot:
    """A count over time as it is drawn."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    path: str
    levels: tuple[tuple[float, int], ...]
    ticks: tuple[tuple[float, str, str], ...]
    marks: tuple[Mark, ...]
    zero: float


class _Scale:
    def __init__(self, series: Sequence[Point]) -> None:
        self.start = series[0][0]
        self.end = max(series[-1][0], self.start + 1)
        self.low = min(0, *(least for _, least, _, _ in series))
        self.high = max(self.low + 1, *(most for _, _, most, _ in series))

    def x(self, time: float) -> float:
        share = (time - self.start) / (self.end - self.start)
        return round(LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, count: float) -> float:
        share = (count - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def plot_count(account: AccountDocument) -> CountPlot | None:
    """Lay out the count of an account; None where it was not kept."""
    series = account.series
    if not series:
        return None
    scale = _Scale(series)
    return CountPlot(
        width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT, top=TOP, bottom=HEIGHT - BOTTOM,
        path=_path(scale, series), levels=tuple(_levels(scale)), ticks=tuple(_ticks(scale)),
        marks=tuple(_marks(scale, account, series)), zero=scale.y(0),
    )  # fmt: skip


def _path(scale: _Scale, series: Sequence[Point]) -> str:
    parts = [f"M{scale.x(series[0][0])},{scale.y(series[0][3])}"]
    for time, least, most, last in series:
        parts.append(f"H{scale.x(time)}")
        if least != most:
            parts.append(f"V{scale.y(most)}V{scale.y(least)}")
        parts.append(f"V{scale.y(last)}")
    return "".join(parts)


def _levels(scale: _Scale) -> Iterator[tuple[float, int]]:
    written: list[float] = []
    for count in sorted({scale.low, 0, scale.high}, key=abs):
        y = scale.y(count)
        if all(abs(y - other) >= APART for other in written):
            written.append(y)
            yield y, count


def _ticks(scale: _Scale) -> Iterator[tuple[float, str, str]]:
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        time = scale.start + share * (scale.end - scale.start)
        yield scale.x(time), f"{time / 1e9:.6g} s", anchor


def _marks(scale: _Scale, account: AccountDocument, series: Sequence[Point]) -> Iterator[Mark]:
    for what, entry in account.accused[:MOST_MARKS]:
        if entry.first_seen is not None:
            says = f"{what}: {entry.function} for {entry.holder}, {entry.first_seen:.6f} s"
            yield _mark(scale, series, entry.first_seen, says, first=False)
    if account.underflow is not None:
        wrong = account.underflow
        says = f"the count is wrong from here: {wrong.function}, {wrong.time:.6f} s"
        yield _mark(scale, series, wrong.time, says, first=True)


def _mark(scale: _Scale, series: Sequence[Point], seconds: float, says: str, *, first: bool) -> Mark:
    time = seconds * 1e9
    count = next((last for when, _, _, last in reversed(series) if when <= time), series[0][3])
    return Mark(scale.x(time), scale.y(count), says, first)
