"""A picture of counts over time, with the events that were wrong marked, as SVG."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ktriage.errors import MachineryError, UserError
from ktriage.refs.series import Series
from ktriage.refs.types import Account

WIDTH, HEIGHT = 860, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 40
_SECONDS = 60
_MOST_MARKS = 60
_APART = 14


def svg(pictures: Sequence[tuple[Account, Series]]) -> str:
    """Return one picture below the other: the count of each object as steps, and what is held against it."""
    height = HEIGHT * max(1, len(pictures))
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for at, (account, series) in enumerate(pictures):
        parts.append(f'<g transform="translate(0 {at * HEIGHT})">{_picture(account, series)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


class _Scale:
    def __init__(self, series: Series) -> None:
        self.start, self.end = int(series.times[0]), max(int(series.times[-1]), int(series.times[0]) + 1)
        self.low = min(0, int(series.least.min()))
        self.high = max(self.low + 1, int(series.most.max()))

    def x(self, time: float) -> float:
        share = (time - self.start) / (self.end - self.start)
        return round(_LEFT + min(1.0, max(0.0, share)) * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, count: float) -> float:
        share = (count - self.low) / (self.high - self.low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def _picture(account: Account, series: Series) -> str:
    scale = _Scale(series)
    leaks = sum(entry.count for entry in account.unmatched_gets)
    puts = sum(entry.count for entry in account.unmatched_puts)
    verdict = ", ".join(
        text
        for text in (
            f"{leaks} never put" if leaks else "",
            f"{puts} put too many" if puts else "",
        )
        if text
    )
    facts = f"{account.events} events, count {account.last}{', ' + verdict if verdict else ''}"
    parts = [
        f'<text x="{_LEFT}" y="20" font-weight="600">{escape(account.object)}</text>',
        f'<text x="{WIDTH - _RIGHT}" y="20" text-anchor="end" fill="#666">{escape(facts)}</text>',
        *_axes(scale),
        _steps(scale, series),
        *_marks(scale, account, series),
    ]
    return "\n".join(parts)


def _axes(scale: _Scale) -> list[str]:
    parts = []
    written: list[float] = []
    for count in sorted({scale.low, 0, scale.high}, key=abs):
        y = scale.y(count)
        if any(abs(y - other) < _APART for other in written):
            continue
        written.append(y)
        weight = ' stroke-dasharray="3 3"' if count else ""
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#bbb"{weight}/>'
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#666">{count}</text>'
        )
    for share in (0.0, 0.5, 1.0):
        time = scale.start + share * (scale.end - scale.start)
        anchor = ("start", "middle", "end")[int(share * 2)]
        parts.append(
            f'<text x="{scale.x(time)}" y="{HEIGHT - 14}" text-anchor="{anchor}" fill="#666">'
            f"{time / 1e9:.6g} s</text>"
        )
    return parts


def _steps(scale: _Scale, series: Series) -> str:
    points = []
    for time, least, most, last in zip(
        series.times.tolist(), series.least.tolist(), series.most.tolist(), series.last.tolist(), strict=True
    ):
        x = scale.x(time)
        points.append(f"H{x}")
        if least != most:
            points.append(f"V{scale.y(most)}V{scale.y(least)}")
        points.append(f"V{scale.y(last)}")
    start = f"M{scale.x(scale.start)} {scale.y(int(series.last[0]))}"
    return f'<path d="{start}{"".join(points)}" fill="none" stroke="#2b6cb0" stroke-width="1.3"/>'


def _marks(scale: _Scale, account: Account, series: Series) -> list[str]:
    marks = [(entry.first_seen, "#c05621", "never put") for entry in account.unmatched_gets]
    marks += [(entry.first_seen, "#c53030", "put too many") for entry in account.unmatched_puts]
    if account.underflow is not None:
        marks.append((account.underflow.time, "#c53030", "the count is wrong from here"))
    parts = []
    for seconds, colour, text in marks[:_MOST_MARKS]:
        x = scale.x(seconds * 1e9)
        count = _at(series, seconds)
        ends = f'y1="{_TOP - 8}" y2="{HEIGHT - _BOTTOM}"'
        parts.append(
            f'<line x1="{x}" x2="{x}" {ends} stroke="{colour}" opacity="0.5"/>'
            f'<circle cx="{x}" cy="{scale.y(count)}" r="4" fill="{colour}"><title>{escape(text)}, '
            f"{seconds:.6f} s</title></circle>"
        )
    if account.underflow is not None:
        x = scale.x(account.underflow.time * 1e9)
        anchor = "end" if x > WIDTH / 2 else "start"
        shift = -6 if anchor == "end" else 6
        parts.append(
            f'<text x="{x + shift}" y="{_TOP + 18}" text-anchor="{anchor}" fill="#c53030"'
            ' stroke="#fff" stroke-width="4" paint-order="stroke">'
            f"{escape(account.underflow.function)}</text>"
        )
    return parts


def _at(series: Series, seconds: float) -> int:
    import numpy as np

    at = int(np.searchsorted(series.times, int(seconds * 1e9), side="right")) - 1
    return int(series.last[max(0, at)])


def draw(pictures: Sequence[tuple[Account, Series]], path: Path) -> None:
    """Write the picture to ``path``: SVG or, by a program that turns it into one, PNG.

    Raises UserError for another suffix, where nothing was counted, or where no such program is installed.
    """
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"{path}: the picture is either .svg or .png", path=str(path))
    if not pictures:
        raise UserError("no object whose count was printed: there is nothing to draw")
    text = svg(pictures)
    if path.suffix == ".svg":
        path.write_text(text)
        return
    with tempfile.TemporaryDirectory(prefix="ktriage-plot-") as folder:
        source = Path(folder) / "plot.svg"
        source.write_text(text)
        _rasterized(source, path, HEIGHT * len(pictures), folder)


def _rasterized(source: Path, target: Path, height: int, folder: str) -> None:
    browser = next(
        (name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
    )
    if shutil.which("rsvg-convert"):
        words = ["rsvg-convert", "-z", "2", "-o", str(target), str(source)]
    elif browser is not None:
        words = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}/browser", "--force-device-scale-factor=2",
            f"--window-size={WIDTH},{height}", f"--screenshot={target.absolute()}", source.as_uri(),
        ]  # fmt: skip
    else:
        raise UserError(
            f"{target}: nothing here makes PNG of SVG", hint="rsvg-convert or chromium does; or give .svg"
        )
    try:
        done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise MachineryError(f"{words[0]} took more than {_SECONDS} s to draw {target}") from None
    if done.returncode or not target.exists():
        raise MachineryError(f"{words[0]} could not draw {target}")
