"""A foreign bisection weighed again: what its runs support, and which runs would settle it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from ktriage.bisect.judge_evidence import Evidence, evidence, title_likeness
from ktriage.bisect.judge_types import Belief, More, Stretch
from ktriage.bisect.posterior import Posterior
from ktriage.bisect.priors import Priors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ktriage.bisect.foreign_types import ForeignLog
    from ktriage.bisect.judge_places import Places
    from ktriage.bisect.posterior import View

    Floats = NDArray[np.float64]

SURE = 0.998
_SHOWN = 12
_MOST_MORE = 60
_MOST_REVISIONS = 8
# A build costs as much as so many runs.
_BUILD = 6.0
_MOST_TITLES = 20
# A run that tells less than this share of what is unknown is not worth making.
_LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """A log's evidence on its places."""

    log: ForeignLog
    places: Places
    evidence: Evidence
    posterior: Posterior
    view: View

    @property
    def claimed(self) -> float | None:
        """The probability of the commit that the log names."""
        culprit = self.log.culprit
        if culprit is None:
            return None
        v = self.places.place.get(culprit.commit)
        return 0.0 if v is None else float(self.view.weights[v] / self.places.sizes[v])

    def contains(self, v: int, c: int) -> bool:
        """Return whether the revision at node v has the commit at node c."""
        return bool(self.places.sums.ancestors(v)[c])


def weigh(log: ForeignLog, places: Places, *, without: int | None = None) -> Weighed:
    """Return the belief that the log's runs support; ``without`` leaves out the runs of that number."""
    seen = evidence(log, without=without)
    posterior = _posterior(log, places)
    start = next((test for test in seen.tests if test.revision.purpose == "start"), None)
    early = set((start.crashes or {}) if start else {})
    counts: Counter[str] = Counter()
    for test in seen.tests:
        counts.update(test.crashes or {})
    for title, _ in counts.most_common(_MOST_TITLES):
        posterior.likeness[title] = title_likeness(title, seen.hunted, at_start=title in early)
    _fill(posterior, places, seen, set(posterior.likeness))
    return Weighed(log, places, seen, posterior, posterior.view())


def _posterior(log: ForeignLog, places: Places) -> Posterior:
    return Posterior(places.sums, Priors.default(), places.sizes, fix=log.kind == "fix")


def _fill(
    posterior: Posterior, places: Places, seen: Evidence, others: set[str], same: frozenset[str] = frozenset()
) -> None:
    """Add all runs: crashes of a title in ``same`` are the hunted one, of one that is not in ``others``
    nothing.
    """  # noqa: D205 (one sentence)
    binaries: dict[str, tuple[int, bool]] = {}
    for test in seen.tests:
        v = places.place.get(test.revision.commit)
        if v is None or not test.telling:
            continue
        for _ in range(test.ok):
            posterior.add(v, crash=False)
        for title, count in (test.crashes or {}).items():
            hunted = title in same or title in (seen.hunted, "")
            for _ in range(count if hunted or title in others else 0):
                posterior.add(v, crash=True, title=None if hunted else title)
        _same_binary(posterior, binaries, test.revision.signature, v, crashed=bool(test.crashed))


def _same_binary(
    posterior: Posterior,
    binaries: dict[str, tuple[int, bool]],
    signature: str | None,
    v: int,
    *,
    crashed: bool,
) -> None:
    """Rule out the commits between two revisions with the same binary, if they also behave the same."""
    if signature is None:
        return
    other, behaved = binaries.setdefault(signature, (v, crashed))
    if other != v and behaved == crashed:
        posterior.exclude(posterior.sums.ancestors(v) ^ posterior.sums.ancestors(other))


def believe(weighed: Weighed, titles: Callable[[tuple[str, ...]], dict[str, str]]) -> Belief:
    """Return the belief in the form that is shown. ``titles`` gives the subject lines of commits."""
    view, places = weighed.view, weighed.places
    rate, false, interval = weighed.posterior.rates(view)
    order = np.argsort(-view.weights[1:])[:_SHOWN] + 1
    shown = [v for v in order.tolist() if view.weights[v] >= 1e-6]
    more = next_runs(weighed)
    names = tuple(c for c in (*(places.commits[v] for v in shown), *(m.commit for m in more)) if c)
    named = titles(names)
    return Belief(
        model="graph" if places.graph is not None else "chain",
        hunted=weighed.evidence.hunted,
        stretches=tuple(_stretch(weighed, v, named) for v in shown),
        claimed=weighed.claimed,
        already=float(view.weights[0]),
        nowhere=view.nowhere,
        entropy=view.entropy,
        crash_rate=rate,
        crash_interval=interval,
        false_rate=false,
        titles=view.hunted,
        assumed=weighed.evidence.assumed,
        approximate=places.approximate,
        more=tuple(More(m.commit, m.runs, m.gain, m.reaches, named.get(m.commit)) for m in more),
    )


def _stretch(weighed: Weighed, v: int, named: dict[str, str]) -> Stretch:
    places = weighed.places
    commit = cast("str", places.commits[v])
    after = places.commits[v - 1] if places.graph is None else None
    return Stretch(
        commit=commit,
        after=after,
        commits=float(places.sizes[v]) if places.graph is not None or v in places.counted else None,
        probability=float(weighed.view.weights[v]),
        title=named.get(commit),
    )


def next_runs(weighed: Weighed) -> tuple[More, ...]:
    """Return the runs that would settle it, by expected information: each run the one that tells most,
    after those before it have come out as expected, until one commit is sure, or ten times as sure as it is
    already, or the list is long enough.
    """  # noqa: D205 (one sentence)
    posterior = _posterior(weighed.log, weighed.places)
    same = frozenset(title for title, chance in weighed.view.hunted.items() if chance >= 0.5)
    # What the titles mean is taken for settled, which makes this a hundred times as fast.
    _fill(posterior, weighed.places, weighed.evidence, set(), same)
    supposed: dict[int, tuple[int, int]] = {}
    share: dict[int, float] = {}
    gains: dict[int, float] = {}
    reached: dict[int, float] = {}
    hopeless = _hopeless(weighed)
    planned = np.zeros(len(hopeless), dtype=bool)
    view = posterior.view()
    goal = max(SURE, 1 - (1 - _surest(view)) / 10)
    for _ in range(_MOST_MORE):
        if _surest(view) >= goal:
            break
        gain = np.where(hopeless, 0.0, posterior.gain(view)[0])
        v = int((gain * np.where(planned, 1.0, 1 / _BUILD)).argmax())
        if gain.max() < _LEAST_SHARE * view.entropy or (
            v not in supposed and len(supposed) == _MOST_REVISIONS
        ):
            break
        # As expected: with the likeliest hypothesis, and every so many runs as its rate says.
        share[v] = share.get(v, 0.5) + _expected_rate(weighed, posterior, view, v)
        crash = share[v] >= 1
        share[v] -= crash
        crashes, quiet = supposed.get(v, (0, 0))
        supposed[v] = (crashes + crash, quiet + (not crash))
        gains.setdefault(v, float(gain[v]))
        planned[v] = True
        posterior.look_at(v)
        view = posterior.view(supposed)
        reached[v] = _surest(view)
    return tuple(
        More(cast("str", weighed.places.commits[v]), sum(runs), gains[v], reached[v])
        for v, runs in supposed.items()
    )


def _surest(view: View) -> float:
    return float(max(view.weights.max(), view.nowhere))


def _expected_rate(weighed: Weighed, posterior: Posterior, view: View, v: int) -> float:
    """Return how often a run at v crashes if the likeliest candidate is the culprit."""
    best = int(view.weights.argmax())
    rate, false, _ = posterior.rates(view)
    has = weighed.contains(v, best)
    return rate if has != (weighed.log.kind == "fix") else false


def _hopeless(weighed: Weighed) -> NDArray[np.bool_]:
    """Return which revisions can't be run: those that failed before, and those of which nothing is known."""
    mask = np.array([commit is None for commit in weighed.places.commits])
    for test in weighed.evidence.tests:
        v = weighed.places.place.get(test.revision.commit)
        if v is not None and not test.telling and weighed.log.tool != "git":
            mask[v] = True
    return mask
