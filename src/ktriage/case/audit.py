"""An audit of someone else's bisection: its object for programs, and what a terminal shows of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ktriage.case import text
from ktriage.case.terminal import LETTERS, legend, render_crash
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ktriage.bisect.foreign_types import ForeignLog, ForeignRevision
    from ktriage.bisect.judge_types import Belief, Judgement
    from ktriage.console.types import Crash

_STYLES = {"strong": "bold red", "weak": "yellow", "note": "dim"}
_VERDICTS = {True: ("bug", "red"), False: ("no bug", "green"), None: ("skipped", "bright_black")}


@dataclass(frozen=True, slots=True)
class Audit:
    """What a foreign log says, the crash report in it, and what is to be made of it."""

    source: str
    log: ForeignLog
    crash: Crash | None
    judgement: Judgement

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage bisect audit --json`` prints."""
        belief = self.judgement.belief
        return self.log.to_json() | {
            "crash": self.crash.to_json() if self.crash else None,
            "posterior": belief.to_json() if belief else None,
            "doubts": [doubt.to_json() for doubt in self.judgement.doubts],
        }


def heading(log: ForeignLog) -> str:
    """Say who bisected what, in how many tests and how long."""
    what = "what fixed a crash" if log.kind == "fix" else "the cause of a crash"
    tool = "syzkaller" if log.tool == "syzbot" else "git bisect"
    parts = [f"{tool} looked for {what}", text.plural(len(log.revisions), "test")]
    total, build, test = log.seconds
    if total is not None:
        spent = f" (building {text.duration(build)}, testing {text.duration(test)})" if build and test else ""
        parts.append(text.duration(total) + spent)
    return ", ".join(parts)


def runs_of(revision: ForeignRevision, hunted: str | None) -> list[tuple[OutcomeKind, str]]:
    """Return each run's outcome, with what to say of it; one for all where the log does not list them.

    Crashes of another title than the hunted one are shown as such, whatever the log made of them.
    """
    runs = revision.runs or () if revision.every is None else (revision.every,)
    shown = []
    for run in runs:
        other = run.outcome is OutcomeKind.CRASHED and hunted is not None and run.title != hunted
        name = "all runs" if revision.every is not None else f"run #{run.number}"
        outcome = OutcomeKind.OTHER_CRASH if other else run.outcome
        shown.append((outcome, f"{name}: {run.title or run.note or run.outcome}"))
    return shown


def summary(revision: ForeignRevision, hunted: str | None) -> str:
    """Say what a test came to: ``6 crashed, 1 ok`` or ``all ok``, or why it was not made."""
    kinds = Counter(str(kind) for kind, _ in runs_of(revision, hunted))
    if revision.every is not None:
        return f"all {next(iter(kinds))}"
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or revision.note or ""


def verdict_of(revision: ForeignRevision) -> str:
    """Say what the log took the revision for."""
    return "" if revision.verdict is None else _VERDICTS[revision.buggy][0]


def claim(log: ForeignLog) -> str:
    """Say what the log came to where it names no commit."""
    if log.suspects:
        return f"{text.plural(len(log.suspects), 'commit')} that it could not tell apart"
    return log.ended or "no answer: the log ends before one"


def stretch_words(belief: Belief, place: int) -> str:
    """Say which commits a candidate of the belief stands for."""
    stretch = belief.stretches[place]
    name = f"{stretch.commit[:12]} {stretch.title or ''}".rstrip()
    if stretch.commits is not None and stretch.commits <= 1:
        return name
    among = f"{stretch.after[:12]}..{name}" if stretch.after else f"those up to {name}"
    if stretch.commits is None:
        return f"a commit of {among}"
    about = "about " if belief.approximate else ""
    return f"one of the {about}{stretch.commits:,.0f} commits of {among}"


def outside_words(log: ForeignLog) -> tuple[str, str]:
    """Say what it means that the commit lies before the range, and that it is in no revision at all."""
    if log.kind == "fix":
        return "before the range: the oldest revision is without the bug", "in no commit of the range"
    return "before the range: the good revision has the bug", "in no commit of the range"


def render_audit(audit: Audit) -> RenderableType:
    """Return the audit for a rich console; it is plain text without a terminal."""
    log, belief = audit.log, audit.judgement.belief
    parts: list[RenderableType] = [Text(heading(log), "dim"), Text(), _claim(audit)]
    if belief is not None:
        parts += [_candidates(log, belief)]
    if audit.judgement.doubts:
        parts += [Text("\nDoubts", "bold"), _doubts(audit.judgement)]
    if belief is not None and belief.more:
        parts += [Text("\nRuns that would tell most", "bold"), _more(belief)]
    parts += [Text("\nTests, in order", "bold"), _tests(log, belief.hunted if belief else None)]
    if audit.crash is not None:
        parts += [Text("\nThe crash", "bold"), render_crash(audit.crash)]
    return Group(*parts)


def _claim(audit: Audit) -> Text:
    log, belief = audit.log, audit.judgement.belief
    body = Text()
    culprit = log.culprit
    if culprit is None:
        return body.append(f"No commit is named: {text.clean(claim(log))}", "bold")
    body.append("Named  ", "bold").append(culprit.commit[:12], "bold yellow")
    body.append(f" {text.clean(culprit.title or '')}", "bold")
    if culprit.author:
        body.append(f"\n       {text.clean(culprit.author)}")
    if belief is not None and belief.claimed is not None:
        style = "green" if belief.claimed >= 0.9 else "bold red"
        body.append("\n       ").append(text.percent(belief.claimed), style)
        body.append(" by the runs alone, if runs at one revision are alike")
    return body


def _candidates(log: ForeignLog, belief: Belief) -> RenderableType:
    if belief.claimed is not None and belief.claimed > 0.99:
        return Text()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, justify="right", min_width=8)
    table.add_column(overflow="fold")
    for place, stretch in enumerate(belief.stretches[:5]):
        words = Text(text.clean(stretch_words(belief, place)))
        table.add_row(text.percent(stretch.probability), words)
    for name, chance in zip(outside_words(log), (belief.already, belief.nowhere), strict=True):
        if chance > 0.001:
            table.add_row(text.percent(chance), Text(name))
    return Padding(table, (1, 0, 0, 7))


def _doubts(judgement: Judgement) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for doubt in judgement.doubts:
        table.add_row(Text(doubt.weight, _STYLES[doubt.weight]), Text(text.clean(doubt.text)))
    return Padding(table, (0, 0, 0, 2))


def _more(belief: Belief) -> RenderableType:
    lines = [
        Text("  ")
        .append(f"{text.plural(more.runs, 'run')} at {more.commit[:12]} ")
        .append(text.clean(more.title or ""), "dim")
        .append(f"\n      the likeliest commit then has {text.percent(more.reaches)}", "dim")
        for more in belief.more
    ]
    return Group(*lines)


def _tests(log: ForeignLog, hunted: str | None) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    strips = [runs_of(revision, hunted) for revision in log.revisions]
    longest = max(map(len, strips), default=0)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(16, 50 - longest))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=longest <= 30, overflow="fold")
    for revision, runs in zip(log.revisions, strips, strict=True):
        strip = Text("all " if revision.every is not None else "")
        for kind, _ in runs:
            strip.append(*LETTERS[kind])
        word, style = _VERDICTS[revision.buggy] if revision.verdict else ("", "")
        purpose = "" if revision.purpose == "search" else revision.purpose
        named = log.culprit is not None and log.culprit.commit == revision.commit
        table.add_row(
            Text(revision.commit[:12], "bold yellow" if named else "yellow"),
            Text(text.clean(revision.title or revision.release or purpose)),
            Text(word, style),
            strip,
        )
    seen = {kind for runs in strips for kind, _ in runs}
    return Padding(Group(table, Text(), legend(seen)), (0, 0, 0, 2))
