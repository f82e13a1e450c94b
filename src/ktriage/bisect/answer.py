"""From the engine's belief to what is written and shown: belief records and the answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from ktriage.bisect.types import Answer, Belief, Candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from ktriage.bisect.search import Search, Verdict
    from ktriage.bisect.types import Run
    from ktriage.bisect.types import Verdict as VerdictName
    from ktriage.history.repository import CommitGraph, Repository

    Floats = NDArray[np.float64]

NAMED = 512
"""With so many commits at most, beliefs give each one's probability, and the start record names them."""
STRETCHES = 256
_SHOWN = 10
_MOST = 100


class Names:
    """Places in the engine's graph (0 the good revision, the range's commits from 1) as commits."""

    def __init__(self, repository: Repository, good: str, graph: CommitGraph) -> None:
        self.repository = repository
        self.commits = (good, *graph.commits)
        self.places = {commit: v for v, commit in enumerate(self.commits)}
        self._subjects: dict[str, str] = {}

    def candidates(self, places: Iterable[int], weights: Sequence[float]) -> tuple[Candidate, ...]:
        """Return commits with their probabilities and subjects."""
        commits = [self.commits[v] for v in places]
        missing = tuple(commit for commit in commits if commit not in self._subjects)
        self._subjects.update(zip(missing, self.repository.subjects(missing), strict=True))
        return tuple(
            Candidate(commit, float(weight), self._subjects[commit])
            for commit, weight in zip(commits, weights, strict=True)
        )


def belief(search: Search, names: Names, runs: Sequence[Run], *, jobs: int) -> Belief:
    """Return what is believed now."""
    view = search.view
    weights = view.weights[1:]
    top = np.argsort(-weights)[:_SHOWN]
    if len(weights) <= NAMED:
        mass = weights
    else:
        edges = np.linspace(0, len(weights), STRETCHES + 1).astype(int)
        mass = np.add.reduceat(weights, edges[:-1])
    seen = any(run.outcome == "crashed" for run in runs)
    rates = search.posterior.rates(view) if runs else None
    left = remaining_runs(search) if seen else None
    seconds = None if left is None else _seconds(search, left, jobs)
    return Belief(
        runs=len(runs),
        revisions=len({run.commit for run in runs}),
        builds=search.builds,
        entropy=round(view.entropy, 4),
        top=names.candidates((top + 1).tolist(), weights[top].tolist()),
        mass=tuple(float(f"{x:.4g}") for x in mass.tolist()),
        outside=float(view.nowhere + view.weights[0]),
        when=time.time(),
        crash_rate=rates[0] if rates else None,
        false_rate=rates[1] if rates else None,
        runs_left=None if left is None else round(left, 1),
        seconds_left=None if seconds is None else round(seconds, 1),
    )


def remaining_runs(search: Search) -> float:
    """Return about how many runs are left until the confidence is reached.

    Two parts, fitted to simulated bisections: what is unknown, at the rate at which such a noisy search can
    learn (the capacity of its channel); then runs at the culprit's parents, each of which says a little.
    """
    view = search.view
    crash, false, _ = search.posterior.rates(view)
    crash = min(max(crash, 0.02), 0.99)
    best = float(view.weights.max())
    needed = math.log2(search.confidence / (1 - search.confidence))
    have = math.log2(best / max(1 - best, 1e-9)) if best > 0.5 else 0.0
    search_part = view.entropy / max(capacity(crash, min(false, crash / 2)), 1e-3)
    sure_part = max(0.0, needed - have) / -math.log2(1 - crash)
    return 1.1 * search_part + sure_part + 1


def _seconds(search: Search, runs: float, jobs: int) -> float:
    builds = min(runs, search.view.entropy + 1)
    return (runs * search.costs.run + builds * search.costs.build) / jobs


def capacity(p: float, q: float) -> float:
    """Return how many bits one run can tell at most, crashing with p on one side and q on the other."""
    shares = np.linspace(0.005, 0.995, 199)
    chance = shares * p + (1 - shares) * q
    return float((_entropy(chance) - shares * _entropy(p) - (1 - shares) * _entropy(q)).max())


def _entropy(p: ArrayLike) -> Floats:
    """Return the entropy in bits of a coin that shows heads with probability p."""
    q = np.asarray(p, dtype=np.float64)
    result: Floats = (entr(q) + entr(1 - q)) / math.log(2)
    return result


def answer(search: Search, names: Names, runs: Sequence[Run], verdict: Verdict | None, why: str) -> Answer:
    """Return the answer; ``verdict`` None means that a limit (``why``) ended the search."""
    view = search.view
    crashed = any(run.outcome == "crashed" for run in runs)
    kind, probability, members, reason = _verdict(search, verdict, crashed, why)
    order = np.argsort(-view.weights[1:])[: 2 * _SHOWN] + 1
    shown = members or [v for v in order.tolist() if view.weights[v] >= 1e-4]
    culprit = names.commits[members[0]] if kind == "culprit" else None
    if kind == "culprit":
        shown = [*members, *(v for v in order.tolist() if v not in members and view.weights[v] >= 1e-6)]
    about = names.repository.commit(culprit) if culprit else None
    rates = search.posterior.rates(view) if runs else None
    return Answer(
        culprit=culprit,
        probability=probability,
        candidates=names.candidates(shown, [float(view.weights[v]) for v in shown]),
        runs=len(runs),
        revisions=len({run.commit for run in runs}),
        builds=search.builds,
        outcomes=dict(Counter(str(run.outcome) for run in runs)),
        seconds=0.0,
        verdict=kind,
        reason=reason,
        subject=about.subject if about else None,
        author=about.author if about else None,
        date=about.date if about else None,
        files=names.repository.files(culprit) if culprit else (),
        crash_rate=rates[0] if rates else None,
        false_rate=rates[1] if rates else None,
        crash_interval=rates[2] if rates else None,
        titles={title: round(chance, 4) for title, chance in view.hunted.items()},
        untestable=tuple(names.commits[v] for v in search.untestable.broken),
    )


def _verdict(
    search: Search, verdict: Verdict | None, crashed: bool, why: str
) -> tuple[VerdictName, float, list[int], str]:
    """Return the verdict's name, its probability, the commits that it names, and the reason in a line."""
    view = search.view
    if verdict is not None and verdict.kind == "culprit":
        return "culprit", verdict.probability, list(verdict.members), "the confidence asked for is reached"
    if verdict is not None and verdict.kind == "candidates":
        count = len(verdict.members)
        reason = f"no revision that can be tested tells these {count} commits apart"
        return "candidates", verdict.probability, list(verdict.members), reason
    if verdict is not None and verdict.kind in ("already", "nowhere"):
        where = (
            "the good revision crashes too" if verdict.kind == "already" else "nothing crashes in the range"
        )
        return "not-in-range", verdict.probability, [], where
    reason = why or "no run that can be made would tell more"
    if not crashed:
        return "inconclusive", float(view.weights[1:].max()), [], f"{reason}; the crash was not seen"
    order = np.argsort(-view.weights[1:]) + 1
    enough = int(np.searchsorted(np.cumsum(view.weights[order]), search.confidence)) + 1
    members = order[: min(enough, _MOST)].tolist()
    return "candidates", float(view.weights[members].sum()), members, reason
