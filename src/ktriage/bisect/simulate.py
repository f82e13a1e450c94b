"""Bisections of simulated crashes, to measure the engine.

Each history draws a culprit uniformly from the graph. A run at a revision that has it crashes with
probability p, one at another revision with q. On top of that, a world may have other crashes that hide
results, hunted crashes that come under another title, and revisions that can't be tested.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ktriage.bisect.priors import Priors
from ktriage.bisect.search import Costs, Search, Tuning
from ktriage.bisect.sums import AncestorSums
from ktriage.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator
    from numpy.typing import NDArray

    from ktriage.bisect.search import Verdict

    Bools = NDArray[np.bool_]

BUILD_COST = 10.0
_GIVE_UP = 3000


@dataclass(frozen=True, slots=True)
class World:
    """What happens in simulated runs, besides the hunted crash with chance ``p`` or ``q``.

    ``unrelated`` is the chance that another crash hides a run's result; with ``stretches`` above 0 only in
    so many stretches of history, each of a tenth of it. ``renamed`` is the share of hunted crashes that come
    under another title. ``broken`` stretches of ``broken_size`` of the history can't be tested. ``second`` is
    the crash rate that a second culprit brings by itself, somewhere else.
    """

    p: float
    q: float
    unrelated: float = 0.0
    stretches: int = 0
    renamed: float = 0.0
    broken: int = 0
    broken_size: float = 0.05
    second: float = 0.0


@dataclass(frozen=True, slots=True)
class History:
    """One simulated bisection. ``right``: the answer is, or has, the culprit. ``rounds`` are of all jobs."""

    runs: int
    builds: int
    rounds: int
    skips: int
    verdict: Literal["culprit", "candidates", "already", "nowhere", "exhausted"]
    right: bool
    members: int
    probability: float
    culprit_broken: bool = False
    misfit: float = 0.0
    crossed: tuple[tuple[float, float, bool], ...] = ()
    """For each level asked for: it, the belief when that was first reached, and whether it was right."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over simulated bisections. ``right`` is the share of answers that are, or have, the culprit."""

    histories: int
    runs: float
    builds: float
    rounds: float
    skips: float
    right: float
    single: float
    runs_error: float
    seed: int
    each: tuple[History, ...] = field(repr=False, default=())

    def to_json(self) -> dict[str, Any]:
        """Return the summary without the histories."""
        data = asdict(self)
        del data["each"]
        return {name: round(value, 4) for name, value in data.items()}


def load_dag(path: Path) -> AncestorSums:
    """Read a commit graph (``indptr``, ``indices``: parents before children) with a good revision below it.

    Raises ``UserError`` where the file is not that.
    """
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as data:
            indptr, indices = np.asarray(data["indptr"]), np.asarray(data["indices"])
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a commit graph: {error}") from None
    _check(path, indptr, indices)
    return with_good(indptr.astype(np.int64), indices.astype(np.int64))


def _check(path: Path, indptr: NDArray[Any], indices: NDArray[Any]) -> None:
    for name, array in (("indptr", indptr), ("indices", indices)):
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise UserError(f"{path}: {name} is not a list of whole numbers")
    if len(indptr) < 2 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise UserError(f"{path}: indptr does not fit indices")
    if len(indices) and (
        indices.min() < 0 or (indices >= np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))).any()
    ):
        raise UserError(f"{path}: a commit comes before one of its parents")


def with_good(indptr: NDArray[np.integer[Any]], indices: NDArray[np.integer[Any]]) -> AncestorSums:
    """Return the sums of a graph with one more commit, number 0, that is the parent of all roots."""
    counts = np.diff(indptr)
    roots = np.flatnonzero(counts == 0)
    shifted = np.insert(indices + 1, indptr[roots], 0)
    bounds = np.concatenate([[0, 0], np.cumsum(np.maximum(counts, 1))])
    return AncestorSums(bounds.astype(np.int32), shifted.astype(np.int32))


class Simulated:
    """One simulated history: where the culprit is, and what runs come to."""

    def __init__(self, sums: AncestorSums, world: World, rng: Generator) -> None:
        self.sums, self.world, self.rng = sums, world, rng
        self.culprit = int(rng.integers(1, sums.n))
        self._has: dict[int, tuple[bool, bool]] = {}
        self.broken = self._stretches(world.broken, world.broken_size)
        self.broken[[0, -1]] = False
        self.noisy = self._stretches(world.stretches, 0.1)
        rng.uniform(0.1, 0.5, sums.n)  # not used, and drawn: a seed stands for the same histories as ever
        self.second = int(rng.integers(1, sums.n)) if world.second else 0

    def _stretches(self, count: int, size: float) -> Bools:
        mask = np.zeros(self.sums.n, dtype=bool)
        length = int(self.sums.n * size)
        for _ in range(count):
            start = int(self.rng.integers(1, self.sums.n - length))
            mask[start : start + length] = True
        return mask

    def has(self, v: int) -> bool:
        """Return whether revision v has the culprit."""
        return self._both(v)[0]

    def _both(self, v: int) -> tuple[bool, bool]:
        if v not in self._has:
            mine = self.sums.ancestors(v)
            self._has[v] = bool(mine[self.culprit]), bool(self.second and mine[self.second])
        return self._has[v]

    def rate(self, v: int) -> float:
        """Return how often a run at v crashes that nothing hides."""
        first, second = self._both(v)
        quiet = (1 - self.world.p if first else 1.0) * (1 - self.world.second if second else 1.0)
        return 1 - quiet if first or second else self.world.q

    def run(self, v: int) -> tuple[Literal["crash", "ok", "other", "broken"], str | None]:
        """Run once at v, and return what it came to with the title of another crash."""
        if self.broken[v]:
            return "broken", None
        world = self.world
        noise = world.unrelated if not world.stretches or self.noisy[v] else 0.0
        draws = self.rng.random(3)
        if draws[0] < noise:
            return "other", "unrelated"
        if draws[1] >= self.rate(v):
            return "ok", None
        return ("other", "renamed") if draws[2] < world.renamed else ("crash", None)


def simulate_one(
    simulated: Simulated, search: Search, *, jobs: int = 1, levels: tuple[float, ...] = ()
) -> History:
    """Run one bisection to its end: in rounds of ``jobs`` runs, each round chosen before any result of it."""
    runs = rounds = 0
    crossed: dict[float, tuple[float, float, bool]] = {}
    verdict: Verdict | None = None
    while verdict is None and runs < _GIVE_UP:
        batch: list[int] = []
        while len(batch) < jobs:
            choice = search.choose(batch)
            if choice is None:
                break
            batch.append(choice.v)
        if not batch:
            break
        for v in batch:
            kind, title = simulated.run(v)
            search.record(v, kind, title=title)
        runs += len(batch)
        rounds += 1
        verdict = search.verdict()
        for level in levels:
            if level not in crossed and search.view.top >= level:
                crossed[level] = (level, search.view.top, search.view.best == simulated.culprit)
    members = verdict.members if verdict is not None else ()
    return History(
        runs=runs,
        builds=search.builds,
        rounds=rounds,
        skips=len(search.untestable.broken),
        verdict=verdict.kind if verdict is not None else "exhausted",
        right=simulated.culprit in members or (simulated.second > 0 and simulated.second in members),
        members=len(members),
        probability=verdict.probability if verdict is not None else search.view.top,
        culprit_broken=bool(simulated.broken[simulated.culprit]),
        misfit=search.posterior.misfit(search.view).factor,
        crossed=tuple(crossed.values()),
    )


def simulate(
    sums: AncestorSums,
    world: World,
    *,
    histories: int,
    confidence: float = 0.998,
    jobs: int = 1,
    seed: int = 0,
    priors: Priors | None = None,
    tuning: Tuning | None = None,
) -> Summary:
    """Simulate bisections, each with a random stream of its own made from ``seed`` and its number."""
    each = [
        simulate_history(
            sums, world, number, seed, jobs=jobs, confidence=confidence, priors=priors, tuning=tuning
        )
        for number in range(histories)
    ]
    return summarize(each, seed)


def simulate_history(
    sums: AncestorSums,
    world: World,
    number: int,
    seed: int,
    *,
    jobs: int = 1,
    confidence: float = 0.998,
    priors: Priors | None = None,
    tuning: Tuning | None = None,
    levels: tuple[float, ...] = (),
) -> History:
    """Simulate the bisection with this number."""
    search = Search(
        sums,
        confidence=confidence,
        priors=priors or Priors.default(),
        costs=Costs(run=1.0, build=BUILD_COST),
        tuning=tuning or Tuning(),
    )
    rng = np.random.default_rng([seed, number])
    return simulate_one(Simulated(sums, world, rng), search, jobs=jobs, levels=levels)


def summarize(each: list[History], seed: int) -> Summary:
    """Return the means."""
    runs = np.array([history.runs for history in each], dtype=float)
    return Summary(
        histories=len(each),
        runs=float(runs.mean()),
        builds=float(np.mean([history.builds for history in each])),
        rounds=float(np.mean([history.rounds for history in each])),
        skips=float(np.mean([history.skips for history in each])),
        right=float(np.mean([history.right for history in each])),
        single=float(np.mean([history.verdict == "culprit" for history in each])),
        runs_error=float(runs.std() / len(each) ** 0.5),
        seed=seed,
        each=tuple(each),
    )
