"""A log gone through again: what is believed after each run, and the bisection as git would log it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect.answer import belief
from ktriage.bisect.drive import Drive, options_of
from ktriage.bisect.log import read_log
from ktriage.bisect.nodes import span
from ktriage.history.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.bisect.types import Belief, Log, Run

# A revision is good or bad for git where it is that sure; git has no word for what lies between.
_SURE = 0.95


def _again(log: Log) -> Drive:
    options = options_of(log.start)
    repository = Repository(Path(log.start.repo))
    start = log.start
    graph, _ = span(repository, start.kind, start.good, start.bad, first_parent=options.first_parent)
    return Drive(repository, graph, log.start, options, None, None, None)


def replay(path: Path) -> Iterator[tuple[Run, Belief]]:
    """Yield each run of the search with the belief after it, worked out anew."""
    log = read_log(path)
    drive = _again(log)
    for run in log.runs:
        if run.purpose == "search":
            drive.replay([run])
            yield run, belief(drive.search, drive.nodes, drive.runs, jobs=drive.options.jobs)


def git_log(path: Path) -> Iterator[str]:
    """Yield the lines of a log that ``git bisect replay`` takes.

    Revisions are good or bad by the belief at the end. Those it is not sure of become comments. Where a fix
    was looked for, the words are git's for that: broken and fixed.
    """
    log = read_log(path)
    drive = _again(log)
    drive.replay(log.runs)
    start = log.start
    fix = start.kind == "fix"
    old, new = ("broken", "fixed") if fix else ("good", "bad")
    yield "git bisect start '--term-new' 'fixed' '--term-old' 'broken'" if fix else "git bisect start"
    for word, commit in (
        ((old, start.bad), (new, start.good)) if fix else ((new, start.bad), (old, start.good))
    ):
        yield f"# {word}: [{commit}] {drive.repository.commit(commit).subject}"
        yield f"git bisect {word} {commit}"
    has = np.clip(drive.search.sums.sums(drive.search.view.weights), 0, 1)
    broken = set(drive.search.untestable.broken)
    for commit in dict.fromkeys(run.commit for run in drive.runs):
        v = drive.nodes.places[commit]
        subject = f"[{commit}] {drive.repository.commit(commit).subject}"
        if commit in (start.bad, start.good):
            continue
        if v in broken:
            word = "skip"
        elif has[v] >= _SURE or has[v] <= 1 - _SURE:
            word = new if has[v] >= _SURE else old
        else:
            yield f"# undecided, {has[v]:.2f} {new}: {subject}"
            continue
        yield f"# {word}: {subject}"
        yield f"git bisect {word} {commit}"
    if log.end is not None and log.end.culprit is not None:
        yield f"# first {new} commit: [{log.end.culprit}] {log.end.subject}"
