"""Where the tested revisions of a foreign log lie: in a line as the bisection narrowed, or in a repository.

Without a repository all that is known of history is what git printed: a revision found good is an ancestor
of nothing that is left, one found bad has all that is left among its ancestors. Put in a line, the good ones
come first in the order in which they were tested, then the bad ones in the opposite order, and "N revisions
left to test" gives the number of commits between them: with n suspects, git tests one that has n - N - 1 of
them among its ancestors, itself included (builtin/bisect.c and bisect.c of git). The line is right but for
one thing: commits that a good revision has are taken to be in all that was tested after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect.judge_evidence import searched
from ktriage.bisect.nodes import engine_graph
from ktriage.bisect.sums import AncestorSums
from ktriage.errors import KtriageError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ktriage.bisect.foreign_types import ForeignLog, ForeignRevision
    from ktriage.history.repository import CommitGraph, Repository

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Nodes for the engine: node 0 is the good revision, or what lies before all that was tested.

    ``place`` gives the node of a commit. ``commits`` are the nodes' commits (None: unknown), ``sizes`` how
    many commits each stands for; of the nodes not in ``counted`` that is a guess. ``graph`` is there where
    the nodes are a repository's commits. ``outside`` are tested revisions that have no place.
    """

    sums: AncestorSums
    place: dict[str, int]
    commits: tuple[str | None, ...]
    sizes: Floats
    graph: CommitGraph | None = None
    counted: frozenset[int] = frozenset()
    approximate: bool = False
    outside: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """``graph`` or ``chain``."""
        return "chain" if self.graph is None else "graph"


def chain(log: ForeignLog) -> Places | None:
    """Return the tested revisions in a line, None where there are not two ends to it."""
    olds: list[str] = []
    news: list[str] = []
    middle: list[str] = []
    for revision in searched(log):
        commit = revision.commit
        if commit in olds or commit in news or revision.verdict == "skip":
            continue
        if revision.verdict is None:
            middle = [commit] if revision.runs or revision.every else middle
        else:
            (news if revision.verdict == "bad" else olds).append(commit)
    line: list[str | None] = [*olds, *middle, *reversed(news)]
    if not olds:
        line.insert(0, None)
    if len(line) < 2:
        return None
    sizes, approximate = _sizes(log)
    n = len(line)
    indptr = np.concatenate([[0], np.arange(n)]).astype(np.int32)
    sums = AncestorSums(indptr, np.arange(n - 1, dtype=np.int32))
    # Between releases that were tested beforehand there may be as much again, or more.
    unknown = sum(sizes.values()) or 1.0
    weights = [sizes.get(commit or "", unknown) for commit in line]
    if log.culprit is not None and log.culprit.commit in line:
        weights[line.index(log.culprit.commit)] = 1.0
    return Places(
        sums=sums,
        place={commit: i for i, commit in enumerate(line) if commit is not None},
        commits=tuple(line),
        sizes=np.array(weights),
        counted=frozenset(i for i, commit in enumerate(line) if commit in sizes),
        approximate=approximate,
    )


def _sizes(log: ForeignLog) -> tuple[dict[str, float], bool]:
    """Return how many commits each revision in the line stands for, and whether that is but a guess.

    A revision found good stands for those up to it, one found bad leaves those after it to the bad one
    before it.
    """
    steps = [r for r in searched(log) if r.purpose == "search" and r.verdict is not None]
    if any(step.left is None for step in steps):
        return _halved(log, steps)
    sizes: dict[str, float] = {}
    end = _end(log)
    suspects: int | None = None
    approximate = False
    for step in steps:
        left = step.left or 0
        if suspects is None or suspects <= left:
            suspects = 2 * left + 2
        if step.verdict == "skip":
            # What is tested next is no longer the revision that git's number is about.
            suspects, approximate = None, True
        elif step.verdict == "good":
            sizes[step.commit] = max(1, suspects - left - 1)
            suspects = left + 1
        else:
            sizes[end] = left + 1
            end, suspects = step.commit, max(1, suspects - left - 1)
    if suspects is not None:
        sizes[end] = suspects
    return sizes, approximate


def _halved(log: ForeignLog, steps: list[ForeignRevision]) -> tuple[dict[str, float], bool]:
    """Return sizes as if each test had halved what was left."""
    steps = [step for step in steps if step.verdict != "skip"]
    sizes: dict[str, float] = {}
    end = _end(log)
    for i, step in enumerate(steps):
        half = float(2 ** min(len(steps) - 1 - i, 40))
        if step.verdict == "good":
            sizes[step.commit] = half
        else:
            sizes[end] = half
            end = step.commit
    sizes[end] = max(1.0, float(len(log.suspects)))
    return sizes, True


def _end(log: ForeignLog) -> str:
    """Return the bad end of the range that was searched."""
    bad = log.range[0] if log.range else ""
    found = next((r.commit for r in log.revisions if bad in (r.commit, r.release)), None)
    return found or next((r.commit for r in log.revisions if r.verdict == "bad"), bad)


def in_repository(log: ForeignLog, repository: Repository) -> Places:
    """Return the commits of the range that the log's bisection was about.

    Raises ``UserError`` where the repository lacks its ends, or they do not make a range.
    """
    if log.range is None:
        raise UserError("the log does not say between which revisions it searched")
    bad, good = (_resolved(log, repository, name) for name in log.range)
    graph = repository.range(good, bad)
    sums = engine_graph(graph)
    inside = {commit: i + 1 for i, commit in enumerate(graph.commits)} | {good: 0}
    place: dict[str, int] = {}
    outside = []
    for commit in dict.fromkeys(revision.commit for revision in searched(log)):
        v = inside.get(commit)
        v = _beyond(repository, commit, good, bad, sums.n - 1) if v is None else v
        if v is None:
            outside.append(commit)
        else:
            place[commit] = v
    if log.culprit is not None and log.culprit.commit in inside:
        place.setdefault(log.culprit.commit, inside[log.culprit.commit])
    return Places(
        sums=sums,
        place=place,
        commits=(good, *graph.commits),
        sizes=np.ones(sums.n),
        graph=graph,
        outside=tuple(outside),
    )


def _resolved(log: ForeignLog, repository: Repository, name: str) -> str:
    """Return the hash of an end of the range: the log's own where it names it by a tag."""
    named = next((r.commit for r in log.revisions if r.release == name), name)
    return repository.resolve(named)


def _beyond(repository: Repository, commit: str, good: str, bad: str, top: int) -> int | None:
    """Return the node of a revision outside of the range: the end that it has, or is part of."""
    try:
        commit = repository.resolve(commit)
        if repository.is_ancestor(bad, commit):
            return top
        return 0 if repository.is_ancestor(commit, good) else None
    except KtriageError:
        return None
