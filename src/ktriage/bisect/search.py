"""The engine's brain: what to run next, and when enough is known. No clocks, no files, no git.

The next run is the one with the most information for its cost: the expected gain in bits, times the chance
that nothing hides the result and that the revision can be tested, over the time that it takes. What is
weighed are tests of a revision (runs until a crash, a certain number at most) of several lengths, because a
single run without a crash tells so little where crashes are rare that it never seems worth a build.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from ktriage.bisect.posterior import Posterior, View
from ktriage.bisect.priors import Priors
from ktriage.bisect.titles import UNKNOWN
from ktriage.bisect.untestable import Untestable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ktriage.bisect.sums import AncestorSums

    Floats = NDArray[np.float64]

Kind = Literal["crash", "ok", "other", "broken", "infra"]


@dataclass(slots=True)
class Costs:
    """What a run and a build cost, learned from those seen. Seconds, or any other unit."""

    run: float = 1.0
    build: float = 5.0
    runs: int = 0
    builds: int = 0

    def saw(self, run: float, build: float) -> None:
        """Take in what a run and, unless it is 0, a build took."""
        if build > 0:
            self.builds += 1
            self.build += (build - self.build) / self.builds
        if run > 0:
            ratio = self.build / self.run
            self.runs += 1
            self.run += (run - self.run) / self.runs
            if not self.builds:
                self.build = ratio * self.run


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to choose.

    A revision is weighed as a test: runs until a crash, at most so many of ``lengths`` as tell the most for
    their cost, up to ``reach`` over the crash rate. A build's cost is shared out among later tests as well:
    ``shared`` is among how many at least, and at a crash rate of 1. ``opening`` crashes are looked for at the
    bad revision first, in ``patience`` runs at most: they tell whether it crashes at all, how often, and what
    the crash looks like. A revision whose first ``hopeless`` runs all end with another crash is not run
    again. ``branches`` bounds how many outcomes of runs under way are considered.
    """

    shared: tuple[float, float] = (1.0, 10.5)
    lengths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48)
    reach: float = 4.0
    opening: int = 2
    patience: int = 25
    hopeless: int = 5
    branches: int = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """A revision to run next, and what it is expected to tell, in bits.

    That is what the run tells, or, at a revision that is not built yet, the whole test of it.
    """

    v: int
    gain: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why to stop. ``members`` are the commits that can't be told apart, the likeliest first."""

    kind: Literal["culprit", "candidates", "already", "nowhere", "exhausted"]
    probability: float
    members: tuple[int, ...] = ()


@dataclass(slots=True)
class Search:
    """A bisection in memory: ``record`` what runs came to, ``choose`` the next, ``verdict`` when to stop.

    Revision 0 is the good one and ``sums.n - 1`` the bad one; with ``fix``, where the commit that ended the
    crash is looked for, it is the other way round. ``barred`` are revisions that are never run, for
    whatever reason.
    """

    sums: AncestorSums
    confidence: float = 0.998
    priors: Priors = field(default_factory=Priors.default)
    prior: Floats | None = None
    costs: Costs = field(default_factory=Costs)
    tuning: Tuning = field(default_factory=Tuning)
    max_skips: int = 40
    fix: bool = False
    barred: NDArray[np.bool_] | None = None
    posterior: Posterior = field(init=False)
    untestable: Untestable = field(init=False)
    _view: View | None = field(init=False, default=None)
    _built: NDArray[np.bool_] = field(init=False)
    _signatures: dict[str, int] = field(init=False, default_factory=dict)
    _salt: NDArray[np.int64] = field(init=False)
    _groups: tuple[tuple[int, ...], NDArray[np.int64]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.posterior = Posterior(self.sums, self.priors, self.prior, fix=self.fix)
        self.untestable = Untestable(self.sums.n)
        self._built = np.zeros(self.sums.n, dtype=bool)
        self._salt = np.random.default_rng(0).integers(1, 1 << 40, self.sums.n)

    @property
    def view(self) -> View:
        """The belief as it is now."""
        if self._view is None or len(self._view.with_culprit) != self.posterior.classes:
            self._view = self.posterior.view()
        return self._view

    @property
    def builds(self) -> int:
        """How many revisions were built, or tried to."""
        return int(self._built.sum())

    def record(
        self,
        v: int,
        kind: Kind,
        *,
        title: str | None = None,
        signature: str | None = None,
        likeness: float = UNKNOWN,
    ) -> None:
        """Take in what a run at v came to. ``likeness`` is the chance that another crash is the hunted bug,
        judged by its looks.
        """  # noqa: D205 (one sentence)
        if kind == "infra":
            return
        self._built[v] = True
        self._view = None
        self.untestable.add(v, works=kind != "broken")
        if kind != "broken":
            if title is not None:
                self.posterior.likeness[title] = likeness
            self.posterior.add(v, crash=kind != "ok", title=title if kind == "other" else None)
        if signature is not None:
            self._same(v, signature)

    def _same(self, v: int, signature: str) -> None:
        """Rule out all candidates that only one of two revisions with the same binary has."""
        other = self._signatures.setdefault(signature, v)
        if other != v:
            self.posterior.exclude(self.sums.ancestors(v) ^ self.sums.ancestors(other))

    def choose(self, pending: Sequence[int] = ()) -> Choice | None:
        """Return the best next run while those at ``pending`` are under way; None where none would help."""
        opening = self._opening(pending)
        for v in pending:
            self.posterior.look_at(v)
        if opening is not None:
            return Choice(opening, float(self.posterior.gain(self.view)[0][opening]))
        clear = self.chances()
        if self.posterior.titles:
            clear = clear * (1 - self.posterior.hidden(self.view))
        lengths = self._lengths(self.view)
        most, length = self._unbuilt(pending, lengths)
        best, known = self._tested(pending, lengths, clear)
        if best is None or most > known:
            new = self._anywhere(pending, length, clear)
            if new is not None and (best is None or new[1] > known):
                best = new[0]
        return best

    def _tested(
        self, pending: Sequence[int], lengths: NDArray[np.int64], clear: Floats
    ) -> tuple[Choice | None, float]:
        """Return the best revision among those built, and what it tells for its cost, at the best length."""
        tested = np.array(self.posterior.tested, dtype=np.intp)
        if not len(tested):
            return None, 0.0
        gains, runs = self._expected(pending, lambda then: self.posterior.gain_tested(then, lengths))
        value = (gains / (self.costs.run * runs)).max(axis=0) * clear[tested] * self._built[tested]
        best = int(value.argmax())
        chosen = Choice(int(tested[best]), float(gains[0, best])) if value[best] > 0 else None
        return chosen, float(value[best])

    def _unbuilt(self, pending: Sequence[int], lengths: NDArray[np.int64]) -> tuple[float, int]:
        """Return about the most that a new revision can tell for its cost, and how long to test one.

        The sums over the graph, which find that revision, are worth it only where it may be the best.
        """
        gains, runs = self.posterior.channel(self.view, lengths)
        value = gains / (self.costs.run * runs + self._build(pending))
        return float(value.max()), int(lengths[value[:, :, 0].max(axis=0).argmax()])

    def _anywhere(self, pending: Sequence[int], length: int, clear: Floats) -> tuple[Choice, float] | None:
        """Return the best revision of all for tests of this length, and what it tells for its cost."""
        building = np.where(self._built, 0.0, self._build(pending))
        gains, runs = self._expected(pending, lambda then: self.posterior.gain(then, length))
        value = gains * clear / (self.costs.run * runs + building)
        best = int(value.argmax())
        return (Choice(best, float(gains[best])), float(value[best])) if value[best] > 0 else None

    def _build(self, pending: Sequence[int]) -> float:
        """Return what a test of a revision has to bear of its build. Where crashes are rare it is more; with
        other runs under way it is less, because time passes for these anyway.
        """  # noqa: D205 (one sentence)
        least, most = self.tuning.shared
        shared = max(least, most * self.posterior.crash_rate(self.view))
        return self.costs.build / shared / (1 + len(pending) / 2)

    def _lengths(self, view: View) -> NDArray[np.int64]:
        """Return the numbers of runs without a crash after which a test may end."""
        most = max(1.0, self.tuning.reach / max(self.posterior.crash_rate(view), 0.01))
        return np.array([runs for runs in self.tuning.lengths if runs <= most])

    def chances(self) -> Floats:
        """Return each revision's chance to be testable, those out of reach within the budget at 0."""
        chances = self.untestable.chances()
        # Deep inside of a broken stretch little is to be had, and at the end of the budget nothing any more.
        used = len(self.untestable.broken) / self.max_skips
        hopeless = 0.6 if used >= 1 else 0.15 if used >= 0.4 else 0.05 if used >= 0.2 else 0.0
        if hopeless:
            chances = np.where((chances < hopeless) & ~self._built, 0.0, chances)
        if self.barred is not None:
            chances = np.where(self.barred, 0.0, chances)
        dead = self.posterior.dead_ends(self.view, self.tuning.hopeless)
        if dead:
            chances = chances.copy()
            chances[dead] = 0
        return chances

    def _opening(self, pending: Sequence[int]) -> int | None:
        """Return the bad revision for as long as it has to be seen crashing first."""
        bad = 0 if self.fix else self.sums.n - 1
        if self.barred is not None and self.barred[bad]:
            return None
        ok, crashes, other = self.posterior.counts(bad)
        waiting = sum(v == bad for v in pending)
        runs = ok + crashes + other
        chances = self.untestable.chances()
        if crashes >= self.tuning.opening or runs + waiting >= self.tuning.patience or chances[bad] == 0:
            return None
        if len(pending) > waiting or any(v != bad for v in self.posterior.tested):
            return None
        # With several machines, the bad revision alone would keep most of them from better work.
        return bad if waiting < max(1, 2 * self.tuning.opening) else None

    def _expected(
        self, pending: Sequence[int], gain: Callable[[View], tuple[Floats, Floats]]
    ) -> tuple[Floats, Floats]:
        """Return the gains and lengths of tests, averaged over what the runs under way may come to."""
        if not pending:
            return gain(self.view)
        branches: list[tuple[float, dict[int, tuple[int, int]], View]] = [(1.0, {}, self.view)]
        for v in pending:
            split = []
            for chance, supposed, then in branches:
                crash = self.posterior.crash_chance(then, v)
                crashes, oks = supposed.get(v, (0, 0))
                split.append((chance * crash, supposed | {v: (crashes + 1, oks)}))
                split.append((chance * (1 - crash), supposed | {v: (crashes, oks + 1)}))
            split.sort(key=lambda branch: -branch[0])
            kept = split[: self.tuning.branches]
            total = sum(chance for chance, _ in kept)
            branches = [(chance / total, s, self.posterior.view(s)) for chance, s in kept]
        each = [(chance, gain(then)) for chance, _, then in branches]
        gains: Floats = np.add.reduce([chance * gains for chance, (gains, _) in each])
        lengths: Floats = np.add.reduce([chance * runs for chance, (_, runs) in each])
        return gains, lengths

    def verdict(self) -> Verdict | None:
        """Return the answer if enough is known."""
        view = self.view
        if view.nowhere >= self.confidence:
            return Verdict("nowhere", view.nowhere)
        if view.already >= self.confidence:
            return Verdict("already", view.already)
        if view.top >= self.confidence:
            return Verdict("culprit", view.top, (view.best,))
        return self._inseparable(view)

    def _inseparable(self, view: View) -> Verdict | None:
        """Return the commits that no testable revision tells apart, if it is sure to be among them."""
        reach = tuple(np.flatnonzero(self.chances() == 0).tolist())
        if not reach:
            return None
        if self._groups is None or self._groups[0] != reach:
            salt = self._salt.copy()
            salt[list(reach)] = 0
            self._groups = reach, self.sums.descendants(salt)
        groups = self._groups[1]
        order = np.argsort(-view.weights)[:64]
        for first in order[:3].tolist():
            members = np.flatnonzero(groups == groups[first])
            mass = float(view.weights[members].sum())
            if mass >= self.confidence and first != 0:
                ranked = members[np.argsort(-view.weights[members])]
                ranked = ranked[view.weights[ranked] > (1 - self.confidence) / 100 / len(ranked)]
                return Verdict("candidates", mass, tuple(ranked.tolist()))
        return None
