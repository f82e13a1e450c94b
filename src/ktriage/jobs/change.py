"""A culprit as the page shows it: what it says and does, and what became of it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from ktriage.case.text import plural
from ktriage.case.types import Change, Commit
from ktriage.history.git import clean_environment, git
from ktriage.people.later import later_commits, touched_since

if TYPE_CHECKING:
    from ktriage.history.repository import Repository

MOST_NAMES = 3
MOST_DIFF_BYTES = 8 << 20
"""Of a diff, a merge's or an import's, that is larger only so much is read."""


def read_change(repository: Repository, culprit: str, tip: str) -> Change:
    """Return all that the repository tells of a culprit; ``tip`` is where its files are looked at since."""
    told = repository.commit(culprit)
    return Change(
        hash=culprit,
        subject=told.subject,
        author=told.author.partition(" <")[0],
        email=told.email,
        date=told.date,
        message=f"{told.subject}\n\n{told.body}",
        diff=read_diff(repository, culprit),
        later=tuple(
            (later.how, Commit(later.commit, later.subject, later.author, later.date))
            for later in later_commits(repository, culprit)
        ),
        touched=_touched(repository, culprit, tip),
    )


def read_diff(repository: Repository, commit: str) -> str:
    """Return what a commit changes against its first parent, renames as such, cut where it is too large."""
    command = ["git", "-c", "core.quotePath=false", "-C", str(repository.path)]
    command += ["show", "--format=", "-m", "--first-parent", "--find-renames", "--no-color", "--no-ext-diff"]
    with subprocess.Popen(
        [*command, commit], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_environment()
    ) as process:
        assert process.stdout
        data = process.stdout.read(MOST_DIFF_BYTES + 1)
        if len(data) > MOST_DIFF_BYTES:
            process.kill()
            data = data[: data.rfind(b"\n", 0, MOST_DIFF_BYTES) + 1] + b"[the rest is too large to show]\n"
    return data.decode("utf-8", errors="surrogateescape")


def read_commits(repository: Repository, commits: tuple[str, ...]) -> list[Commit]:
    """Return what some commits say of themselves, in their order, by one call of git."""
    if not commits:
        return []
    text = git(
        repository.path,
        *("log", "--no-walk=unsorted", "--stdin", "-z", "--format=%H%x01%s%x01%an <%ae>%x01%aI"),
        stdin="\n".join(commits) + "\n",
    )
    found = {}
    for record in text.split("\0"):
        name, *fields = record.split("\x01")
        if len(fields) == 3:
            subject, author, date = fields
            found[name] = Commit(name, subject, author, date)
    return [found[commit] for commit in commits]


def _touched(repository: Repository, culprit: str, tip: str) -> str:
    since = touched_since(repository, culprit, tip)
    if since is None:
        return "It changes so many files that nobody looked who touched them since."
    if not since.commits:
        return "No commit has touched its files since."
    names = ", ".join(since.authors[:MOST_NAMES])
    more = f" and {len(since.authors) - MOST_NAMES} more" if len(since.authors) > MOST_NAMES else ""
    verb = "has" if since.commits == 1 else "have"
    return f"{plural(since.commits, 'commit')} {verb} touched its files since ({names}{more})."
