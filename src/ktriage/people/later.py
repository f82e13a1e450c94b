"""What became of a commit: whether later history reverts, mends or mentions it, and who touched its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ktriage.history.git import git
from ktriage.people.trailers import fixes, parse_trailers

if TYPE_CHECKING:
    from ktriage.history.repository import Repository

_REVERT = re.compile(r"\bThis reverts commit ([0-9a-f]{7,40})\b")
_HASH = re.compile(r"\b[0-9a-f]{8,40}\b")
_FORM = "%H%x00%an%x00%aI%x00%s%x00%b%x01"
MOST = 100
MOST_FILES = 500


@dataclass(frozen=True, slots=True)
class Later:
    """A commit that has to do with an earlier one: ``how`` is ``reverts``, ``fixes`` or ``mentions``."""

    how: str
    commit: str
    subject: str
    author: str
    date: str


@dataclass(frozen=True, slots=True)
class Touched:
    """How often the files of a commit were changed since, and by whom, the busiest first."""

    commits: int
    authors: tuple[str, ...]


def later_commits(repository: Repository, commit: str) -> list[Later]:
    """Return commits on any branch or tag that name ``commit`` (a full hash), reverts and fixes first.

    Only what comes after it counts: no ancestor of it, nor itself.
    """
    text = git(
        repository.path,
        *(
            "log",
            "--all",
            f"--format={_FORM}",
            "--fixed-strings",
            f"--grep={commit[:8]}",
            f"--max-count={MOST}",
        ),
        *("--not", commit),
    )
    found = []
    for record in filter(None, (record.strip("\n") for record in text.split("\x01"))):
        name, author, date, subject, body = record.split("\0", 4)
        how = _how(f"{subject}\n\n{body}", commit)
        if how:
            found.append(Later(how, name, subject, author, date))
    order = ("reverts", "fixes", "mentions")
    return sorted(found, key=lambda later: order.index(later.how))


def _how(message: str, commit: str) -> str | None:
    if any(commit.startswith(name) for name in _REVERT.findall(message)):
        return "reverts"
    if any(commit.startswith(name) for name in fixes(parse_trailers(message))):
        return "fixes"
    return "mentions" if any(commit.startswith(name) for name in _HASH.findall(message)) else None


def touched_since(repository: Repository, commit: str, tip: str) -> Touched | None:
    """Return who changed, between ``commit`` and ``tip``, the files that ``commit`` changed.

    None where these are more than ``MOST_FILES``, as an import's or a merge's may be.
    """
    files = repository.files(commit)
    if len(files) > MOST_FILES:
        return None
    if not files:
        return Touched(0, ())
    paths = "".join(f":(top,literal){file}\n" for file in files)
    text = git(
        repository.path,
        *("log", "--no-merges", "--format=%an", "--stdin"),
        stdin=f"{tip}\n^{commit}\n--\n{paths}",
    )
    names = text.split("\n")[:-1]
    busiest = sorted(dict.fromkeys(names), key=names.count, reverse=True)
    return Touched(len(names), tuple(busiest))
