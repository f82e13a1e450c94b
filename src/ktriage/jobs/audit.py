"""An audit of a bisection that another tool made: its log read, its crash read, its runs weighed again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.bisect.foreign import read_foreign
from ktriage.bisect.judge import believe, weigh
from ktriage.bisect.judge_doubts import doubts
from ktriage.bisect.judge_places import Places, chain, in_repository
from ktriage.bisect.judge_types import Facts, Judgement
from ktriage.case.audit import Audit
from ktriage.console import read_crashes
from ktriage.console.sources import chunks
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.inputs import name_of

if TYPE_CHECKING:
    from ktriage.bisect.foreign_types import ForeignLog
    from ktriage.console.types import Crash

MOST_BYTES = 16 << 20
"""A bisection log has some 20 KB, with errors of compilers perhaps 1 MB; longer ones are read up to here."""

MOST_TESTS = 300
"""The longest bisections of Linux take some 40 tests; what has many more is not weighed."""

# Files whose functions are on the stack of most crashes, whatever broke: they report it, or run other code.
_REPORTING = (
    *("arch/", "include/", "lib/dump_stack.c", "lib/bug.c", "lib/ubsan.c", "kernel/panic.c", "mm/kasan/"),
    *("mm/kmsan/", "kernel/smpboot.c", "kernel/kthread.c", "kernel/softirq.c", "kernel/entry/"),
    *("kernel/rcu/tree.c", "kernel/task_work.c", "kernel/workqueue.c", "lib/refcount.c"),
)


def audit(path: str, repo: Path | None = None) -> Audit:
    """Return what the bisection log at ``path`` ("-": standard input) says and what is to be made of it.

    With ``repo``, the belief is over that repository's commits, if it has those that the log searched.
    Raises ``UserError`` where the log can't be read or is none, and where ``repo`` is no repository.
    """
    data, damage = _read(path)
    log = read_foreign(data, name_of(path))
    if damage is not None:
        log = replace(log, missing=(*log.missing, damage))
    crash = _crash(log, data, name_of(path))
    repository = Repository(repo) if repo is not None else None
    known = _history(log, repository)
    log = known.log
    if crash is not None:
        known.facts = replace(known.facts, files=_files(crash, known))
    if known.places is None:
        return Audit(name_of(path), log, crash, Judgement(None, doubts(log, None, known.facts)))
    weighed = weigh(log, known.places)
    belief = believe(weighed, known.titles) if any(test.telling for test in weighed.evidence.tests) else None
    return Audit(name_of(path), log, crash, Judgement(belief, doubts(log, weighed, known.facts)))


def _read(path: str) -> tuple[bytes, str | None]:
    """Return the log, and what is wrong with it where it is cut or too long."""
    data = bytearray()
    try:
        for chunk in chunks(path):
            data += chunk
            if len(data) > MOST_BYTES:
                return bytes(data[:MOST_BYTES]), f"only the first {MOST_BYTES >> 20} MiB were read"
    except UserError as error:
        if not data:
            raise
        return bytes(data), error.message
    return bytes(data), None


def _crash(log: ForeignLog, data: bytes, source: str) -> Crash | None:
    """Return the report at the log's end, with its places those in the log."""
    if log.report is None:
        return None
    offset, line = log.report
    crashes = read_crashes(data[offset:], source)
    found = next((crash for crash in crashes if crash.title == log.crash), next(iter(crashes), None))
    if found is None:
        return None
    return replace(
        found,
        start=found.start + offset,
        end=found.end + offset,
        line=found.line + line - 1,
        cause=None,
    )


def _files(crash: Crash, known: _Known) -> tuple[str, ...]:
    """Return the files on the crash's stack, innermost first, but for those that are on most stacks."""
    changed = known.facts.culprit_files or (known.log.culprit.files if known.log.culprit else ())
    frames = [frame for frame in crash.stack if frame.reliable and frame.context != "origin"]
    files = dict.fromkeys(frame.file for frame in frames if frame.file)
    return tuple(file for file in files if file in changed or not file.startswith(_REPORTING))


@dataclass(slots=True)
class _Known:
    """What a repository adds to a log."""

    log: ForeignLog
    places: Places | None
    facts: Facts
    repository: Repository | None = None

    def titles(self, commits: tuple[str, ...]) -> dict[str, str]:
        """Return the subject lines of commits, as far as they are known."""
        named = {r.commit: r.title for r in self.log.revisions if r.title}
        named |= {r.commit: r.release for r in self.log.revisions if r.release and not r.title}
        if self.places is not None and self.places.graph is not None and self.repository is not None:
            inside = set(self.places.commits)
            asked = tuple(commit for commit in commits if commit in inside)
            named |= dict(zip(asked, self.repository.subjects(asked), strict=True))
        return named


def _history(log: ForeignLog, repository: Repository | None) -> _Known:
    """Place the tested revisions: in the repository, or in a line where it lacks them."""
    if len(log.revisions) > MOST_TESTS:
        note = f"{len(log.revisions):,} tests are no bisection: their runs are not weighed"
        return _Known(log, None, Facts(notes=(note,)))
    if repository is None:
        return _Known(log, chain(log), Facts())
    try:
        places = in_repository(log, repository)
    except UserError as error:
        note = f"{error.message}: the tested revisions are put in a line instead"
        return _Known(log, chain(log), Facts(notes=(note,)))
    return _Known(*_named(log, places, repository), repository)


def _named(log: ForeignLog, places: Places, repository: Repository) -> tuple[ForeignLog, Places, Facts]:
    """Return the log with the titles that it lacks, and what its culprit changes."""
    known = tuple(places.place)
    titles = dict(zip(known, repository.subjects(known), strict=True))
    revisions = tuple(replace(r, title=r.title or titles.get(r.commit)) for r in log.revisions)
    log = replace(log, revisions=revisions)
    culprit = log.culprit
    if culprit is None or culprit.commit not in places.place:
        return log, places, Facts()
    commit = repository.commit(culprit.commit)
    culprit = replace(culprit, title=culprit.title or commit.subject, author=culprit.author or commit.author)
    facts = Facts(culprit_files=repository.files(culprit.commit), parents=commit.parents)
    return replace(log, culprit=culprit), places, facts
