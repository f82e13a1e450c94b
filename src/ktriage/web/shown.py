"""A bug as its page shows it: what the store has of it, read once and laid out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from ktriage.bisect.log import parse_log
from ktriage.case import text
from ktriage.case.bisection import from_log
from ktriage.case.findings import BisectionDocument, Findings, Shown, show, show_all, source_of
from ktriage.case.page import build_view
from ktriage.case.store.timeline import timeline
from ktriage.case.store.types import FindingKind
from ktriage.case.timeline import plot_timeline
from ktriage.case.types import CaseFile
from ktriage.errors import UserError
from ktriage.web import live
from ktriage.web.memo import Memo
from ktriage.web.render import crash_of, fragment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ktriage.case.store import Store
    from ktriage.case.store.types import Bug, CrashEntry, Finding
    from ktriage.case.timeline import TimelinePlot

LIST_OF_CRASHES = 100
SIMILAR = 5
GIVEN_UP_SECONDS = 86400.0
"""A bisection without an end that wrote nothing for so long was given up: a build or a run takes hours."""
MOST_DRAWN = 64
"""Bugs whose findings are kept drawn, of up to some 200 kB each."""
MOST_LINES = 500
"""Timelines that are kept: of a bug with many crashes one takes longer than all else of its page."""
NAMES = {
    FindingKind.TRIALS: "Reproducer",
    FindingKind.REPRODUCER: "Reproducer",
    FindingKind.BISECTION: "Bisection",
    FindingKind.LEDGER: "References",
    FindingKind.DUMP: "Dump",
    FindingKind.MAIL: "Mail",
    FindingKind.SOURCE: "Source lines",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One fact at the top of a page, and the section that has more of it."""

    name: str
    value: str
    small: str
    href: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was found about a bug, drawn: it stays so until there is another finding or a better crash.

    ``html`` is the part of the page from the crash to the mails, ``sections`` what is in it. ``running`` is a
    bisection that goes on.
    """

    html: Markup
    tiles: tuple[Tile, ...]
    sections: tuple[tuple[str, str], ...]
    mails: bool
    running: Finding | None = None


@dataclass(frozen=True, slots=True)
class ShownBug:
    """All that the page of a bug needs."""

    bug: Bug
    titles: list[tuple[str, int]]
    crashes: list[CrashEntry]
    timeline: TimelinePlot | None
    similar: list[tuple[Bug, float]]
    tiles: list[Tile]
    sections: list[tuple[str, str]]
    found: Found


_drawn: Memo[Found] = Memo(MOST_DRAWN)
_lines: Memo[TimelinePlot | None] = Memo(MOST_LINES)


def show_bug(store: Store, number: int) -> ShownBug:
    """Read a bug; raises UserError where there is none of that number."""
    with store.snapshot():
        bug, titles = store.bug(number), store.titles(number)
        findings = store.findings(number)
        crashes = store.crashes(number, limit=LIST_OF_CRASHES)
        similar = [pair for pair in store.similar(bug.stack, limit=SIMILAR + 1) if pair[0].id != number]
        report = next((entry.report for entry in crashes if entry.report), None)
        seen = (str(store.engine.url), number, bug.crashes, bug.first_seen, bug.last_seen, len(titles))
        line = _lines.get(seen, lambda: (_line(store, number), True))
        key = (
            str(store.engine.url), number, bug.title, report,
            tuple((one.id, one.blob, one.when, one.summary) for one in findings),
        )  # fmt: skip
        found = _drawn.get(key, lambda: _draw(store, bug, report, findings))
    kept = f"the logs of {bug.kept:,} are kept" if bug.kept < bug.crashes else "all logs are kept"
    return ShownBug(
        bug=bug, titles=titles, crashes=crashes, timeline=line,
        similar=similar[:SIMILAR], found=found,
        tiles=[Tile("Crashes", f"{bug.crashes:,}", kept, "#crashes"), *found.tiles],
        sections=[
            ("timeline", "Timeline"), *found.sections, ("crashes", "All crashes"),
            *([("similar", "Similar")] if similar else []), ("state", "State"),
        ],
    )  # fmt: skip


def _line(store: Store, number: int) -> TimelinePlot | None:
    line = timeline(store, number)
    return plot_timeline(line) if line else None


def _draw(store: Store, bug: Bug, report: str | None, rows: list[Finding]) -> tuple[Found, bool]:
    """Draw what was found about a bug; return it, and whether that holds until there is something new."""
    findings = show_all(rows, store.blob)
    data = store.blob(report) if report else None
    crash = crash_of(json.loads(data)) if data else None
    chosen, running = _bisections(findings["bisection"])
    case = CaseFile(title=bug.title, crash=crash)
    bisection = None
    if chosen is not None and (read := bisection_case(chosen)) is not None:
        bisection = chosen.finding
        case = replace(read, title=bug.title, crash=crash)
    view = build_view(case)
    view.sources = source_of(findings["source"], crash.kernel if crash else None)
    html = fragment(
        "bug.found.html.j2",
        bug=bug,
        f=findings,
        case=case,
        view=view,
        bisection=bisection,
        kinds=NAMES,
        running=running.id if running else None,
    )
    found = Found(
        html=Markup(html),  # noqa: S704 (a template's, which escapes)
        tiles=tuple(_tiles(findings, case)), sections=tuple(_sections(findings, case)),
        mails=bool(findings["mail"]), running=running,
    )  # fmt: skip
    return found, all(shown.document is not None for shown in findings["bisection"])


def bisection_case(shown: Shown) -> CaseFile | None:
    """Return a bisection as a case: as it was kept when it had ended, else as its log stands now.

    None where neither is there any more.
    """
    finding, document = shown.finding, shown.document
    if isinstance(document, BisectionDocument):
        name = str(finding.data.get("log") or "the log")
        bisection = from_log(parse_log(document.log.encode(), name))
        return CaseFile(finding.summary, bisection=bisection, culprit=document.change, log=name)
    try:
        case, _, _ = live.bisection_of(finding)
    except UserError:
        return None
    return case


def _bisections(found: list[Shown]) -> tuple[Shown | None, Finding | None]:
    """Return the bisection to show, one with a culprit before others, and the newest that goes on."""
    running = None
    for shown in found:
        if running is None and shown.document is None and not shown.finding.data.get("verdict"):
            try:
                quiet = time.time() - Path(str(shown.finding.data.get("log"))).stat().st_mtime
                goes_on = live.bisection_of(shown.finding)[2] and quiet < GIVEN_UP_SECONDS
                running = shown.finding if goes_on else None
            except (UserError, OSError):
                continue
    named = next((shown for shown in found if shown.finding.data.get("culprit")), None)
    return named or next(iter(found), None), running


def shown_finding(store: Store, number: int) -> Shown:
    """Return a finding with what is kept of it; raises UserError where there is none of that number."""
    return show(store.finding(number), store.blob)


def _tiles(findings: Findings, case: CaseFile) -> Iterator[Tile]:
    for shown in findings["trials"][:1]:
        rates = shown.document
        if rates is not None and rates.rate is not None:
            low, high = (text.percent(end) for end in rates.interval)
            small = f"of {text.plural(rates.telling, 'run')}; 95% interval: {low} to {high}"
            yield Tile("Reproduces in", text.percent(rates.rate), small, "#reproducer")
    if case.bisection is not None and case.bisection.verdict == "culprit" and case.bisection.candidates():
        best = case.bisection.candidates()[0]
        small = f"{text.percent(best.probability)}: {text.shorten(best.subject, 60)}"
        yield Tile("Culprit", best.short, small, "#bisection")
    for shown in findings["ledger"][:1]:
        wrong = [one for one in shown.document.accounts if one.wrong] if shown.document else []
        puts = sum(entry.count for one in wrong for entry in one.unmatched_puts)
        gets = sum(entry.count for one in wrong for entry in one.unmatched_gets)
        said = [f"{puts:,} put too often"] * bool(puts) + [f"{gets:,} never put"] * bool(gets)
        names = ", ".join(one.object for one in wrong[:3]) or "nothing speaks against anyone"
        yield Tile("References", ", ".join(said) or "even", text.shorten(names, 60), "#references")
    for shown in findings["dump"][:1]:
        said = [one.says for one in shown.document.diagnosis.findings] if shown.document else []
        value = text.plural(len(said), "finding")
        yield Tile("Dump", value, text.shorten(said[0], 80) if said else "nothing found", "#dump")


def _sections(findings: Findings, case: CaseFile) -> Iterator[tuple[str, str]]:
    there: Mapping[tuple[str, str], object] = {
        ("crash", "Crash"): case.crash,
        ("reproducer", "Reproducer"): findings["trials"] or findings["reproducer"],
        ("bisection", "Bisection"): case.bisection,
        ("culprit", "Culprit"): case.culprit,
        ("references", "References"): findings["ledger"],
        ("dump", "Dump"): findings["dump"],
        ("mail", "Mail"): findings["mail"],
    }
    yield from (section for section, has in there.items() if has)


def shared(names: list[str], bug: Bug) -> list[str]:
    """Return the functions that a bug's stack has of some, in their order."""
    theirs = set(bug.stack)
    return [name for name in names if name in theirs]
