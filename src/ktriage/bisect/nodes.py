"""The engine's graph and what its nodes are.

Node 0 is the revision below the range: the older end, or the merge base where the older end is not an
ancestor of the newer one. It stands for "there already". Where there are several merge bases (criss-cross
merges), node 0 is what they have in common and each of them is a node of its own. Then come commits whose
change was applied on top of older revisions to make these testable, as a change alone, and last the
commits of the range, parents before children.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect.sums import AncestorSums
from ktriage.bisect.types import Candidate
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from ktriage.bisect.types import Kind, Start
    from ktriage.history.repository import CommitGraph, Repository

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]


ALREADY = 0.05
"""How likely the merge base is to have what is looked for, where one end is not an ancestor of the other."""


def engine_graph(graph: CommitGraph) -> AncestorSums:
    """Return the ancestor sums of the range with the good revision as number 0, below everything."""
    counts = np.diff(graph.indptr)
    indices = graph.indices + 1
    roots = np.flatnonzero(counts == 0)
    indices = np.insert(indices, graph.indptr[roots], 0)
    indptr = np.concatenate([[0, 0], np.cumsum(np.maximum(counts, 1))])
    return AncestorSums(indptr.astype(np.int32), indices.astype(np.int32))


def span(
    repository: Repository, kind: Kind, good: str, bad: str, *, first_parent: bool = False
) -> tuple[CommitGraph, tuple[str, ...]]:
    """Return the commits to search, and the merge bases where neither end is an ancestor of the other.

    Raises ``UserError`` where there is nothing to search.
    """
    good, bad = repository.resolve(good), repository.resolve(bad)
    old, new = (bad, good) if kind == "fix" else (good, bad)
    old_name, new_name = ("bad", "good") if kind == "fix" else ("good", "bad")
    if old == new:
        raise UserError(f"good and bad are the same commit, {good[:12]}")
    bases = repository.merge_bases(old, new)
    if new in bases:
        other = "--find fix" if kind == "cause" else "the default, --find cause,"
        raise UserError(
            f"{new_name} ({new[:12]}) is an ancestor of {old_name} ({old[:12]})",
            hint=f"were they mixed up? {other} looks for what {new_name} lacks",
        )
    if not bases:
        shallow = "this clone is shallow: git fetch --unshallow gets the rest" if repository.shallow else None
        raise UserError(f"good ({good[:12]}) and bad ({bad[:12]}) have no history in common", hint=shallow)
    return repository.between(old, new, first_parent=first_parent), () if bases == (old,) else bases


class Nodes:
    """What the engine's nodes stand for.

    ``commits`` has each node's commit, ``places`` the node at which a commit is run. ``bases`` are the first
    so many nodes, which lie below the range; ``first`` is where the range begins. ``applied`` has, by
    commit of the range, the revisions that its change was put on top of.
    """

    def __init__(
        self,
        repository: Repository,
        start: Start,
        graph: CommitGraph,
        applied: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.repository = repository
        self.start = start
        self.graph = graph
        self.applied = {commit: tuple(on) for commit, on in (applied or {}).items()}
        below = start.bases or (start.bad if start.kind == "fix" else start.good,)
        if len(below) > 1:
            below = (repository.octopus_base(below), *below)
        self.bases = len(below)
        self.first = self.bases + len(self.applied)
        self.commits: tuple[str, ...] = (*below, *self.applied, *graph.commits)
        self.places = {commit: v for v, commit in enumerate(below) if commit}
        self.places |= {commit: v for v, commit in enumerate(graph.commits, self.first)}
        self._subjects: dict[str, str] = {}

    @property
    def n(self) -> int:
        """How many nodes there are."""
        return len(self.commits)

    def in_range(self, commit: str) -> bool:
        """Return whether it is a commit of the range."""
        return self.places.get(commit, -1) >= self.first

    def sums(self) -> AncestorSums:
        """Return the ancestor sums of the nodes."""
        if self.first == 1:
            return engine_graph(self.graph)
        parents: list[list[int]] = [[] if v == 0 else [0] for v in range(self.first)]
        parents += [[p + self.first for p in self.graph.parents(i)] for i in range(len(self.graph.commits))]
        for i, commit in self.graph.outside:
            if self.bases > 1 and commit in self.places:
                parents[i + self.first].append(self.places[commit])
        for change, (commit, revisions) in enumerate(self.applied.items(), self.bases):
            for revision in (commit, *revisions):
                parents[self.places[revision]].append(change)
        for own in parents[self.first :]:
            if not own or all(self.bases <= p < self.first for p in own):
                own.append(0)
        indptr = np.cumsum([0, *map(len, parents)])
        indices = [p for own in parents for p in own]
        return AncestorSums(indptr.astype(np.int32), np.array(indices, dtype=np.int32))

    def prior(self, weight: Floats | None = None) -> Floats:
        """Return each node's share of the prior, given that of each commit of the range (default: alike).

        The change of a commit that was applied elsewhere stands for the commit, and merge bases have, where
        there are several, the share that "there already" has by itself.
        """
        share: Floats = np.ones(self.n)
        if weight is not None:
            share[self.first :] = weight
        share[1 : self.bases] = ALREADY * share[self.first :].sum()
        for change, commit in enumerate(self.applied, self.bases):
            share[change] = share[self.places[commit]]
            share[self.places[commit]] = 0.0
        return share

    def barred(self, sums: AncestorSums) -> Bools:
        """Return the nodes that are never run: those that are no revisions and, where a fix is looked for,
        those that may never have had the bug: they lack the revision that the bug is known to be in.
        """  # noqa: D205 (one sentence)
        barred: Bools = np.array([not commit for commit in self.commits])
        barred[self.bases : self.first] = True
        if self.start.kind == "fix":
            on_top: Floats = np.zeros(self.n)
            on_top[[i + self.first for i, commit in self.graph.outside if commit in self.places]] = 1.0
            barred[self.first :] = sums.sums(on_top)[self.first :] < 0.5
        return barred

    def mass(self, weights: Floats) -> Floats:
        """Return the probability of each commit of the range, given that of each node."""
        mass: Floats = weights[self.first :].copy()
        for change, commit in enumerate(self.applied, self.bases):
            mass[self.places[commit] - self.first] += weights[change]
        return mass

    def ranked(self, weights: Floats, count: int) -> list[int]:
        """Return the nodes of the range's likeliest commits, at most so many, best first."""
        own = weights[self.bases :]
        most = count + len(self.applied)
        # Only the best are sorted: there may be 100,000.
        least = np.partition(own, len(own) - most)[len(own) - most] if most < len(own) else -1.0
        likely = np.flatnonzero(own >= least)
        if len(likely) > 4 * most:  # all alike, as before the first run
            likely = np.concatenate([np.flatnonzero(own > least), np.flatnonzero(own == least)[:most]])
        order = likely[np.argsort(-own[likely], kind="stable")][:most] + self.bases
        return [v for v in order.tolist() if v < self.first or self.commits[v] not in self.applied][:count]

    def parent(self, commit: str) -> str | None:
        """Return a commit's first parent, None where it has none."""
        parents = self.repository.commit(commit).parents
        return parents[0] if parents else None

    def candidates(self, places: Iterable[int], weights: Sequence[float]) -> tuple[Candidate, ...]:
        """Return commits with their probabilities and subjects."""
        commits = [self.commits[v] for v in places]
        missing = tuple(commit for commit in commits if commit not in self._subjects)
        self._subjects.update(zip(missing, self.repository.subjects(missing), strict=True))
        return tuple(
            Candidate(commit, float(weight), self._subjects[commit])
            for commit, weight in zip(commits, weights, strict=True)
        )
