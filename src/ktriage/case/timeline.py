"""Geometry of a bug's timeline: a lane a title and a lane a kernel, with a bar for each stretch of time."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ktriage.case import text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ktriage.case.store.timeline import Timeline

MOST_LANES = 5
"""Titles, or kernels, that have a lane of their own; the others share one."""
WIDTH, LEFT, RIGHT = 960.0, 330.0, 60.0
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
    left: float
    right: float
    bottom: float
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
    groups: list[Group] = []
    y = HEAD
    for heading, lanes in (("by title", titles), ("by kernel", kernels)):
        if heading == "by title" and len(titles) == 1 and len(kernels) > 1:
            continue
        if heading == "by kernel" and len(kernels) == 1 and groups:
            continue
        groups.append(_group(line, heading, lanes, y, most))
        y += len(groups[-1].lanes) * LANE + HEAD + 6
    bottom = y - HEAD
    return TimelinePlot(
        width=WIDTH, height=bottom + FOOT, left=LEFT, right=WIDTH - RIGHT, bottom=bottom,
        groups=tuple(groups), ticks=_ticks(line), rows=_rows(line), each=_length(line.width),
        crashes=line.crashes,
    )  # fmt: skip


def _release(kernel: str | None) -> str:
    return (kernel or "unknown").split()[0]


def _group(line: Timeline, heading: str, lanes: Mapping[str, Counter[int]], y: float, most: int) -> Group:
    ranked = sorted(lanes.items(), key=lambda item: (-item[1].total(), item[0]))
    if len(ranked) > MOST_LANES:
        rest: Counter[int] = Counter()
        for _, places in ranked[MOST_LANES - 1 :]:
            rest.update(places)
        ranked = [*ranked[: MOST_LANES - 1], (f"{len(ranked) - MOST_LANES + 1} others", rest)]
    drawn = [_lane(line, label, places, y + at * LANE, most) for at, (label, places) in enumerate(ranked)]
    return Group(heading, y, tuple(drawn))


def _lane(line: Timeline, label: str, places: Mapping[int, int], y: float, most: int) -> Lane:
    step = (WIDTH - LEFT - RIGHT) / line.bins
    width = min(step * 0.84, WIDEST)
    bars = []
    for place, count in sorted(places.items()):
        height = max(2.0, BAR * count / most)
        says = f"{_when(line, place)}: {text.plural(count, 'crash', 'crashes')}"
        x = LEFT + (place + 0.5) * step - width / 2
        bars.append(
            Bar(round(x, 1), round(y + LANE - 3 - height, 1), round(width, 1), round(height, 1), says)
        )
    return Lane(label, sum(places.values()), y, tuple(bars))


def _form(line: Timeline) -> Callable[[float], str]:
    """Return how a time is written: to the day where a stretch is that long."""
    written = "%Y-%m-%d" if line.width >= DAY else "%Y-%m-%d %H:%M"
    return lambda when: time.strftime(written, time.gmtime(when))


def _when(line: Timeline, place: int) -> str:
    return _form(line)(line.start + place * line.width)


def _ticks(line: Timeline) -> tuple[tuple[float, str, str], ...]:
    """Return where times are written, what, and how that is anchored."""
    step = (WIDTH - LEFT - RIGHT) / line.bins
    if line.bins == 1:
        return ((round(LEFT + step / 2, 1), _when(line, 0), "middle"),)
    chosen = sorted(
        {0, line.bins // 3, 2 * line.bins // 3, line.bins - 1} if line.bins > 6 else {0, line.bins - 1}
    )
    anchors = {chosen[0]: "start", chosen[-1]: "end"}
    return tuple(
        (
            round(
                LEFT + {"start": place, "end": place + 1}.get(anchors.get(place, ""), place + 0.5) * step, 1
            ),
            _when(line, place),
            anchors.get(place, "middle"),
        )
        for place in chosen
    )


def _rows(line: Timeline) -> tuple[tuple[str, int, str, str], ...]:
    counts: Counter[int] = Counter()
    kernels: dict[int, Counter[str]] = defaultdict(Counter)
    titles: dict[int, Counter[str]] = defaultdict(Counter)
    for place, title, kernel, count in line.counts:
        counts[place] += count
        kernels[place][_release(kernel)] += count
        titles[place][title] += count
    return tuple(
        (_when(line, place), counts[place], _some(kernels[place]), _some(titles[place]))
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
