"""A culprit as the page shows it: what it says and does, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.case.text import plural
from ktriage.case.types import Change, Commit
from ktriage.people.later import later_commits, touched_since

if TYPE_CHECKING:
    from ktriage.history.repository import Repository

MOST_NAMES = 3


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
        diff=repository.diff(culprit),
        later=tuple(
            (later.how, Commit(later.commit, later.subject, later.author, later.date))
            for later in later_commits(repository, culprit)
        ),
        touched=_touched(repository, culprit, tip),
    )


def _touched(repository: Repository, culprit: str, tip: str) -> str:
    since = touched_since(repository, culprit, tip)
    if not since.commits:
        return "No commit has touched its files since."
    names = ", ".join(since.authors[:MOST_NAMES])
    more = f" and {len(since.authors) - MOST_NAMES} more" if len(since.authors) > MOST_NAMES else ""
    verb = "has" if since.commits == 1 else "have"
    return f"{plural(since.commits, 'commit')} {verb} touched its files since ({names}{more})."
