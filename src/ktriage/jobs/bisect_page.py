"""The page of a bisection, made from its log: also of one with a command, and of one under way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ktriage.bisect.types import Log
from ktriage.case.bisection import from_log
from ktriage.case.page import render_page
from ktriage.case.types import CaseFile, Commit
from ktriage.history.repository import Repository
from ktriage.jobs.change import read_change, read_commits


def bisection_page(log: Log, path: Path) -> str:
    """Return the page, in HTML, of the bisection whose log was read from ``path``.

    Raises UserError where its repository is not there any more.
    """
    start, answer = log.start, log.end
    repository = Repository(Path(start.repo))
    culprit = answer.culprit if answer else None
    told: list[Commit] | None = None
    if start.commits:
        said = read_commits(repository, start.commits)
        told = [replace(commit, parents=tuple(own)) for commit, own in zip(said, start.parents, strict=True)]
    tip = start.good if start.kind == "fix" else start.bad
    what = "which commit ended the crash" if start.kind == "fix" else "which commit brought the crash"
    return render_page(
        CaseFile(
            title=f"{repository.path.name}: {what}",
            bisection=from_log(log, told),
            culprit=read_change(repository, culprit, tip) if culprit else None,
            created=_iso(log.records[-1].when),
            trials=f"{path.absolute()}.runs",
            log=str(path),
            commands=tuple(
                (command.format(path), does)
                for command, does in (
                    ("ktriage bisect replay {}", "works the belief out again, run by run"),
                    ("ktriage bisect log --git {}", "prints what git bisect replay takes"),
                )
            ),
        )
    )


def _iso(when: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")
