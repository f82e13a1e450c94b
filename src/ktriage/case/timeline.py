"""Geometry of a bug's timeline: a lane a title and a lane a kernel, with a bar for each stretch of time."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ktriage.case import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ktriage.case.store.timeline import Timeline

MOST_LANES = 5
"""Titles, or kernels, that have a lane of their own; the others share one."""
WIDTH, RIGHT = 960.0, 60.0
LETTER, MOST_LETTERS = 6.6, 48
"""Room for a letter of a label, and letters of a label that are shown."""
LANE, BAR, HEAD, FOOT = 26.0, 19.0, 20.0, 22.0
WIDEST = 26.0
"""The widest that a bar is drawn."""
DAY = 86400


@dataclass(frozen=True, slots=True)
class Bar:
    """The crashes of one lane in one stretch of time."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True, slots=True)
class Lane:
    """The crashes of one title or kernel."""

    label: str
    count: int
    y: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Lanes below one heading."""

    heading: str
    y: float
    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class TimelinePlot:
    """A timeline as it is drawn, and as a table: from when, how many, of which kernels and titles."""

    width: float
    height: float
    groups: tuple[Group, ...]
    ticks: tuple[tuple[float, str, str], ...]
    rows: tuple[tuple[str, int, str, str], ...]
    each: str
    """How long a stretch is, in words."""
    crashes: int


def plot_timeline(line: Timeline) -> TimelinePlot:
    """Lay out a timeline."""
    titles: dict[str, Counter[int]] = defaultdict(Counter)
    kernels: dict[str, Counter[int]] = defaultdict(Counter)
    for place, title, kernel, count in line.counts:
        titles[title][place] += count
        kernels[_release(kernel)][place] += count
    most = max(max(places.values()) for places in titles.values())
    most = max(most, *(max(places.values()) for places in kernels.values()))
    shown = [("by title", titles), ("by kernel", kernels)]
    if len(titles) == 1 or len(kernels) == 1:
        # Where one of them is always the same, the other says it all.
        shown = shown[1:] if len(titles) == 1 else shown[:1]
    longest = max(len(label) for _, lanes in shown for label in lanes)
    axis = _Axis(line, round(24 + LETTER * min(longest, MOST_LETTERS), 1))
    groups: list[Group] = []
    y = HEAD
    for heading, lanes in shown:
        groups.append(_group(axis, heading, lanes, y, most))
        y += len(groups[-1].lanes) * LANE + HEAD + 6
    return TimelinePlot(
        width=WIDTH, height=y - HEAD + FOOT, groups=tuple(groups), ticks=axis.ticks(), rows=_rows(axis),
        each=_length(line.width), crashes=line.crashes,
    )  # fmt: skip


class _Axis:
    """Where stretches of time are drawn, to the right of ``left``, and what they are called."""

    def __init__(self, line: Timeline, left: float) -> None:
        self.line, self.left = line, left
        self.step = (WIDTH - left - RIGHT) / line.bins
        # To the day is enough where a stretch is that long.
        self.form = "%Y-%m-%d" if line.width >= DAY else "%Y-%m-%d %H:%M"

    def x(self, place: float) -> float:
        return round(self.left + place * self.step, 1)

    def when(self, place: int) -> str:
        return time.strftime(self.form, time.gmtime(self.line.start + place * self.line.width))

    def ticks(self) -> tuple[tuple[float, str, str], ...]:
        """Return where times are written, what, and how that is anchored."""
        last = self.line.bins - 1
        if last == 0:
            return ((self.x(0.5), self.when(0), "middle"),)
        between = (last // 3, 2 * last // 3) if last > 5 else ()
        middle = ((self.x(place + 0.5), self.when(place), "middle") for place in between)
        return (
            (self.x(0), self.when(0), "start"),
            *middle,
            (self.x(last + 1), self.when(last), "end"),
        )


def _release(kernel: str | None) -> str:
    return (kernel or "unknown").split()[0]


def _group(axis: _Axis, heading: str, lanes: Mapping[str, Counter[int]], y: float, most: int) -> Group:
    ranked = sorted(lanes.items(), key=lambda item: (-item[1].total(), item[0]))
    if len(ranked) > MOST_LANES:
        rest: Counter[int] = Counter()
        for _, places in ranked[MOST_LANES - 1 :]:
            rest.update(places)
        ranked = [*ranked[: MOST_LANES - 1], (f"{len(ranked) - MOST_LANES + 1} others", rest)]
    drawn = [_lane(axis, label, places, y + at * LANE, most) for at, (label, places) in enumerate(ranked)]
    return Group(heading, y, tuple(drawn))


def _lane(axis: _Axis, label: str, places: Mapping[int, int], y: float, most: int) -> Lane:
    width = min(axis.step * 0.84, WIDEST)
    bars = []
    for place, count in sorted(places.items()):
        # What is rare among many still has to be seen.
        height = max(2.5, BAR * min(1.0, count / most))
        says = f"{axis.when(place)}: {text.plural(count, 'crash', 'crashes')}"
        x, top = axis.x(place + 0.5) - width / 2, y + LANE - 3 - height
        bars.append(Bar(round(x, 1), round(top, 1), round(width, 1), round(height, 1), says))
    return Lane(label, sum(places.values()), y, tuple(bars))


def _rows(axis: _Axis) -> tuple[tuple[str, int, str, str], ...]:
    counts: Counter[int] = Counter()
    kernels: dict[int, Counter[str]] = defaultdict(Counter)
    titles: dict[int, Counter[str]] = defaultdict(Counter)
    for place, title, kernel, count in axis.line.counts:
        counts[place] += count
        kernels[place][_release(kernel)] += count
        titles[place][title] += count
    return tuple(
        (axis.when(place), counts[place], _some(kernels[place]), _some(titles[place]))
        for place in sorted(counts, reverse=True)
    )


def _some(counts: Counter[str]) -> str:
    named = ", ".join(name for name, _ in counts.most_common(2))
    return f"{named} and {len(counts) - 2} more" if len(counts) > 2 else named


def _length(seconds: int) -> str:
    for size, name in ((DAY, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            return f"a {name}" if seconds == size and name != "hour" else text.plural(seconds // size, name)
    return text.duration(seconds)
