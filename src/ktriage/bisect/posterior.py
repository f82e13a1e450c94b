"""The belief over culprits.

Candidates are the commits of a graph; number 0 stands for "already in the good revision" and is an ancestor
of all. One more hypothesis, "nowhere", is in no revision at all. A run at revision v says something about
candidate c only through whether c is v or an ancestor of it, so candidates that sit alike in all revisions
tested so far form one class and share a likelihood: all that depends on the runs is worked out for classes,
of which there are few, and only the last step goes over all commits.

The rates of crashes with and without the culprit are integrated out (Beta-binomial), and so is which other
titles are the hunted bug.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp, xlogy

from ktriage.bisect.misfit import Misfit, misfit
from ktriage.bisect.titles import UNKNOWN, mixture, stretches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ktriage.bisect.priors import Priors
    from ktriage.bisect.sums import AncestorSums

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Ints = NDArray[np.int64]
    Places = NDArray[np.intp]

_LN2 = float(np.log(2))
# So many titles are weighed together, in all combinations; rarer ones only hide results.
_TITLES = 5
# Classes of so much mass are looked at for what a new revision may tell.
_LIKELY = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The belief at one moment; good until the posterior looks at a revision that it has not seen before.

    ``mass`` has the probability of each class, that of "nowhere" first; ``best`` is the likeliest commit, of
    class ``best_class``, and ``top`` its probability. ``with_culprit`` and ``without`` are the chance of a
    crash in the next run, by class of candidates, at a revision that has the candidate and at one that has
    not. ``hunted`` is, by title, the chance that it is the hunted bug. ``reading`` is how likely each way to
    read the other titles is, by class, and ``inside`` and ``outside`` are the (crashes, runs without) that
    each way and class has at revisions with the candidate and without. ``silences`` keeps what was worked
    out of the next runs.
    """

    mass: Floats
    best: int
    best_class: int
    top: float
    with_culprit: Floats
    without: Floats
    hunted: dict[str, float]
    reading: Floats
    inside: tuple[Floats, Floats]
    outside: tuple[Floats, Floats]
    _spread: tuple[Floats, Places, Floats]
    _weights: list[Floats] = field(default_factory=list)
    silences: dict[tuple[int, ...], tuple[Floats, Floats]] = field(default_factory=dict)

    @property
    def nowhere(self) -> float:
        """The probability that no commit is the culprit."""
        return float(self.mass[0])

    @property
    def already(self) -> float:
        """The probability that the good revision has the culprit."""
        factors, classes, share = self._spread
        return float(factors[classes[0]] * share[0])

    @property
    def weights(self) -> Floats:
        """The probability of each commit; worked out when first asked for."""
        if not self._weights:
            factors, classes, share = self._spread
            self._weights.append(factors.take(classes) * share)
        return self._weights[0]

    @property
    def entropy(self) -> float:
        """What is unknown of the culprit, in bits."""
        return float(-(xlogy(self.weights, self.weights).sum() + xlogy(self.nowhere, self.nowhere)) / _LN2)


class Posterior:
    """Runs at revisions, and what they say of every commit.

    ``prior`` has each commit's share of what ``priors`` leaves for the commits in the range; its entry 0 is
    not looked at. With ``fix``, candidates end the crash: revisions that have the culprit are those that do
    not crash, and all that is said of "with the culprit" means with the bug.
    """

    def __init__(
        self, sums: AncestorSums, priors: Priors, prior: Floats | None = None, *, fix: bool = False
    ) -> None:
        self.sums = sums
        self.fix = fix
        self.priors = priors
        self._excluded: Bools = np.zeros(sums.n, dtype=bool)
        self._class = np.ones(sums.n, dtype=np.intp)
        self._share: Floats = np.ones(sums.n)
        self._classes: tuple[Floats, Places] | None = None
        self.reweigh(np.ones(sums.n) if prior is None else prior)
        self.tested: list[int] = []
        self.titles: list[str] = []
        self.likeness: dict[str, float] = {}
        self._place: dict[int, int] = {}
        self._stretches: list[tuple[float, Floats]] | None = None
        self._ok = np.zeros(0)
        self._hunted = np.zeros(0)
        self._other = np.zeros((0, 0))
        # Row 0 is the class of "nowhere". Columns are the tested revisions.
        self._inside = np.zeros((2, 0), dtype=bool)

    def look_at(self, v: int) -> int:
        """Split the classes by whether v has them, and return v's place among the tested revisions."""
        if v in self._place:
            return self._place[v]
        mask = self.sums.ancestors(v)
        count = len(self._inside)
        have = np.bincount(self._class[mask], minlength=count)
        split = np.flatnonzero((have > 0) & (have < np.bincount(self._class, minlength=count)))
        becomes = np.arange(count, dtype=np.intp)
        becomes[split] = count + np.arange(len(split))
        # Views keep the classes that they were made from.
        self._class = np.where(mask, becomes[self._class], self._class)
        self._classes = None
        column = have > 0
        column[split] = False
        column = np.concatenate([column, np.ones(len(split), bool)]) ^ self.fix
        self._inside = np.hstack([np.vstack([self._inside, self._inside[split]]), column[:, None]])
        self._place[v] = len(self.tested)
        self.tested.append(v)
        self._stretches = None
        self._ok = np.append(self._ok, 0.0)
        self._hunted = np.append(self._hunted, 0.0)
        self._other = np.vstack([self._other, np.zeros((1, len(self.titles)))])
        return self._place[v]

    def add(self, v: int, *, crash: bool, title: str | None = None) -> None:
        """Take in a run at v: no crash, the hunted crash, or with ``title`` another one."""
        at = self.look_at(v)
        self._stretches = None
        if not crash:
            self._ok[at] += 1
        elif title is None:
            self._hunted[at] += 1
        else:
            if title not in self.titles:
                self.titles.append(title)
                self._other = np.hstack([self._other, np.zeros((len(self.tested), 1))])
            self._other[at, self.titles.index(title)] += 1

    @property
    def classes(self) -> int:
        """How many classes there are; a view with another number is out of date."""
        return len(self._inside)

    def exclude(self, mask: Bools) -> None:
        """Take candidates out of consideration, unless none would be left."""
        excluded = self._excluded | mask
        if not excluded[1:].all():
            self._excluded = excluded
            self.reweigh(self._share)

    def reweigh(self, prior: Floats) -> None:
        """Give each commit its share of what is not taken by the hypotheses outside of the range."""
        self._share = prior.astype(np.float64)
        share = np.where(self._excluded, 0.0, self._share)
        share[0] = 0
        share *= (1 - self.priors.already - self.priors.nowhere) / share.sum()
        share[0] = self.priors.already
        self._prior: Floats = share
        # The likeliest last, and of equals the first.
        self._order = np.lexsort((-np.arange(len(share)), share))
        self._classes = None

    def _prior_by_class(self) -> tuple[Floats, Places]:
        """Return the prior probability of each class, that of "nowhere" first, and its likeliest commit."""
        if self._classes is None:
            mass: Floats = np.bincount(self._class, self._prior, self.classes).astype(np.float64)
            mass[0] = self.priors.nowhere
            first = np.zeros(self.classes, dtype=np.intp)
            first[self._class[self._order]] = self._order
            self._classes = (mass, first)
        return self._classes

    def counts(self, v: int) -> tuple[int, int, int]:
        """Return how many runs at v came to nothing, to the hunted crash and to others."""
        at = self._place.get(v)
        if at is None:
            return 0, 0, 0
        return int(self._ok[at]), int(self._hunted[at]), int(self._other[at].sum())

    def view(self, supposed: Mapping[int, tuple[int, int]] | None = None) -> View:
        """Return the belief; ``supposed`` adds (crashes, runs without) at revisions, as if they were seen."""
        ok: Floats = self._ok
        hunted: Floats = self._hunted
        if supposed:
            places = [self.look_at(v) for v in supposed]
            ok, hunted = self._ok.copy(), self._hunted.copy()
            for at, (more, less) in zip(places, supposed.values(), strict=True):
                hunted[at] += more
                ok[at] += less
        which, log_which = self._readings()
        crashes: Floats = hunted + which @ self._other.T
        inside = self._inside.T.astype(np.float64)
        crash_in: Floats = crashes @ inside
        ok_in = np.broadcast_to(ok @ inside, crash_in.shape)
        with_log, with_mean = self.priors.crash.evidence(crash_in, ok_in)
        crash_out, ok_out = crashes.sum(axis=1, keepdims=True) - crash_in, ok.sum() - ok_in
        without_log, without_mean = self.priors.false.evidence(crash_out, ok_out)
        joint = log_which[:, None] + with_log + without_log
        log_class = joint[0] if len(joint) == 1 else logsumexp(joint, axis=0)
        reading = np.exp(joint - log_class)

        prior, first = self._prior_by_class()
        factors = np.exp(log_class - log_class[prior > 0].max())
        mass = factors * prior
        factors /= mass.sum()
        mass /= mass.sum()
        each = factors * self._prior[first]
        each[0] = 0
        best = int(each.argmax())
        return View(
            mass=mass,
            best=int(first[best]),
            best_class=best,
            top=float(each[best]),
            with_culprit=(reading * with_mean).sum(axis=0),
            without=(reading * without_mean).sum(axis=0),
            hunted=dict(zip(self.titles, ((reading @ mass) @ which).tolist(), strict=True)),
            reading=reading,
            inside=(crash_in, ok_in),
            outside=(crash_out, ok_out),
            _spread=(factors, self._class, self._prior),
        )

    def _readings(self) -> tuple[Floats, Floats]:
        """Return the ways to read the other titles, each as 1 (the hunted bug) or 0 (not) by title, and how
        likely each is by what the titles look like and by where they occur, as logs.
        """  # noqa: D205 (one sentence)
        count = len(self.titles)
        if not count:
            return np.zeros((1, 0)), np.zeros(1)
        often = sorted(range(count), key=lambda t: -self._other[:, t].sum())[:_TITLES]
        which = np.zeros((2 ** len(often), count))
        which[:, often] = list(product((0, 1), repeat=len(often)))
        alone = np.array([chance for chance, _ in self._alone()])
        like = np.array([self.likeness.get(title, UNKNOWN) for title in self.titles])
        logs = which @ np.log(like) + (1 - which) @ (np.log1p(-like) + alone)
        totals = self._other.sum(axis=0)
        for i, reading in enumerate(which):
            logs[i] += mixture([float(self._hunted.sum()), *totals[reading > 0]])
        return which, logs

    def _alone(self) -> list[tuple[float, Floats]]:
        """Return, by title, how likely its crashes are if they are something else, and its rates then."""
        if self._stretches is None:
            order = np.argsort(self.tested)
            runs = (self._ok + self._hunted + self._other.sum(axis=1))[order]
            self._stretches = [stretches(self._other[order, t], runs) for t in range(len(self.titles))]
        return self._stretches

    def hidden(self, view: View) -> Floats:
        """Return, by commit, the chance that a run there ends with a crash that has nothing to do with it."""
        where = np.sort(self.tested)
        clear: Floats = np.ones(len(where))
        for title, (_, rates) in zip(self.titles, self._alone(), strict=True):
            clear = clear * (1 - (1 - view.hunted[title]) * rates)
        hidden: Floats = 1 - np.interp(np.arange(self.sums.n), where, clear)
        return hidden

    def crash_chance(self, view: View, v: int) -> float:
        """Return how likely the next run at v crashes, if nothing hides it; v has been looked at before."""
        inside = self._inside[:, self._place[v]]
        return float(view.mass @ np.where(inside, view.with_culprit, view.without))

    def gain(self, view: View, runs: int = 1) -> tuple[Floats, Floats]:
        """Return what testing each revision is expected to tell about the culprit, in bits, and in how many
        runs. To test is to run until a crash, ``runs`` times at most; the gain is exact.
        """  # noqa: D205 (one sentence)
        quiet_in, quiet_out = (rate[0] for rate in self._silences(view, np.array([runs])))
        if self.fix:
            quiet_in, quiet_out = quiet_out, quiet_in
        mass = view.mass
        known_in, known_out = _neg_entropy(quiet_in), _neg_entropy(quiet_out)
        quiet = float(mass @ quiet_out) + self._sums(view, quiet_in - quiet_out)
        known = float(mass @ known_out) + self._sums(view, known_in - known_out)
        return _gain(quiet, known, np.array(runs))

    def gain_tested(self, view: View, runs: Ints) -> tuple[Floats, Floats]:
        """Return the same as ``gain`` for the revisions looked at so far, in ``tested``'s order, along the
        second axis, and for each number of ``runs`` along the first. It takes no sum over the graph.
        """  # noqa: D205 (one sentence)
        quiet_in, quiet_out = self._silences(view, runs)
        mass = view.mass
        inside = self._inside.astype(np.float64)
        known_in, known_out = _neg_entropy(quiet_in), _neg_entropy(quiet_out)
        quiet = (quiet_out @ mass)[:, None] + ((quiet_in - quiet_out) * mass) @ inside
        known = (known_out @ mass)[:, None] + ((known_in - known_out) * mass) @ inside
        return _gain(quiet, known, runs[:, None])

    def channel(self, view: View, runs: Ints) -> tuple[Floats, Floats]:
        """Return the same as ``gain`` for a revision that has the culprit with chance 1/3 or 1/2, the rates
        being those of one class: by chance, ``runs`` and the likelier classes, the best candidate's first.
        """  # noqa: D205 (one sentence)
        likely = np.flatnonzero(view.mass > _LIKELY)
        classes = np.concatenate([[view.best_class], likely])
        quiet_in, quiet_out = (rate[:, classes] for rate in self._silences(view, runs))
        has = np.array([1 / 3, 1 / 2])[:, None, None]
        known = has * _neg_entropy(quiet_in) + (1 - has) * _neg_entropy(quiet_out)
        return _gain(has * quiet_in + (1 - has) * quiet_out, known, runs[:, None])

    def _silences(self, view: View, runs: Ints) -> tuple[Floats, Floats]:
        """Return, by number of runs and class, the chance of no crash in that many at a revision that has
        the candidate, and at one that has not.
        """  # noqa: D205 (one sentence)
        if len(runs) == 1 and runs[0] == 1:
            return (1 - view.with_culprit)[None], (1 - view.without)[None]
        key = tuple(runs.tolist())
        if key not in view.silences:
            more = runs[:, None, None]
            quiet_in = (view.reading * self.priors.crash.silence(*view.inside, more)).sum(axis=1)
            quiet_out = (view.reading * self.priors.false.silence(*view.outside, more)).sum(axis=1)
            view.silences[key] = quiet_in, quiet_out
        return view.silences[key]

    def _sums(self, view: View, by_class: Floats) -> Floats:
        """Return the sum over each revision's ancestors of their weight times something of their class."""
        return self.sums.sums(view.weights * by_class.take(self._class))

    def dead_ends(self, view: View, runs: int) -> list[int]:
        """Return the revisions where at least so many runs all ended with crashes that are something else."""
        if not self.titles:
            return []
        others = self._other.sum(axis=1)
        hides = np.array([view.hunted[title] < 0.5 for title in self.titles])
        dead = (self._ok + self._hunted == 0) & (others >= runs) & (self._other[:, ~hides].sum(axis=1) == 0)
        return [self.tested[at] for at in np.flatnonzero(dead)]

    def crash_rate(self, view: View) -> float:
        """Return the expected crash rate with the culprit, if that is the likeliest candidate."""
        return float(view.with_culprit[view.best_class])

    def misfit(self, view: View) -> Misfit:
        """Return how much better two culprits, or none at all, explain the runs than one does.

        Other titles count as the hunted crash where they are likely to be. It takes no sum over the graph.
        """
        counted = np.array([view.hunted[title] > 0.5 for title in self.titles], dtype=np.float64)
        crashes = self._hunted + self._other @ counted
        return misfit(self._inside, crashes, self._ok, self._prior_by_class()[0], self.priors)

    def members(self, group: int) -> Places:
        """Return the commits of a class: those that no revision looked at so far tells apart."""
        return np.flatnonzero(self._class == group)

    def rates(self, view: View) -> tuple[float, float, tuple[float, float]]:
        """Return the expected crash rate with the culprit and without it, and the former's 95% interval.

        The interval takes the likeliest candidate and the likeliest reading of the titles for granted.
        """
        mine = view.best_class
        inside = self._inside[mine]
        counted = np.array([view.hunted[title] > 0.5 for title in self.titles], dtype=np.float64)
        crashes = self._hunted + self._other @ counted
        interval = self.priors.crash.interval(float(crashes[inside].sum()), float(self._ok[inside].sum()))
        return float(view.with_culprit[mine]), float(view.without[mine]), interval


def _gain(quiet: Floats, known: Floats, runs: Ints) -> tuple[Floats, Floats]:
    """Return the gain of tests, in bits, and their runs: from the chance that a test of ``runs`` runs at most
    ends without a crash, and minus the entropy, in nats, of that where the culprit is known.
    """  # noqa: D205 (one sentence)
    quiet = np.clip(quiet, 1e-12, 1 - 1e-12)
    log_quiet = np.log(quiet)
    crash = 1 - quiet
    gains = known - quiet * log_quiet
    gains -= crash * np.log(crash)
    gains /= _LN2
    np.maximum(gains, 0, out=gains)
    log_quiet /= runs
    return gains, crash / -np.expm1(log_quiet)


def _neg_entropy(p: Floats) -> Floats:
    """Return minus the entropy, in nats, of a coin that shows heads with probability p."""
    return np.asarray(xlogy(p, p) + xlogy(1 - p, 1 - p))
