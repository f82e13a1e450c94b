from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from bisect_graphs import ancestors, random_graph
from scipy.special import betaln, logsumexp

from ktriage.bisect.posterior import Posterior
from ktriage.bisect.priors import BetaMixture, Priors
from ktriage.bisect.sums import AncestorSums

PRIORS = Priors.default()


def log_rate(mixture, k, m):
    return logsumexp([np.log(w) + betaln(a + k, b + m) - betaln(a, b) for w, a, b in mixture.parts])


def brute_weights(has, runs, prior):
    """The posterior by its definition: each hypothesis in turn, the last one "nowhere"."""
    n = len(has)
    logs = []
    for c in range(n + 1):
        inside = [run for run in runs if c < n and has[run[0], c]]
        outside = [run for run in runs if not (c < n and has[run[0], c])]
        logs.append(
            np.log(prior[c])
            + log_rate(PRIORS.crash, sum(y for _, y in inside), sum(not y for _, y in inside))
            + log_rate(PRIORS.false, sum(y for _, y in outside), sum(not y for _, y in outside))
        )
    logs = np.array(logs)
    return np.exp(logs - logsumexp(logs)), logsumexp(logs)


def entropy(weights):
    weights = weights[weights > 0]
    return float(-(weights * np.log2(weights)).sum())


def random_case(seed):
    rng = np.random.default_rng(seed)
    indptr, indices = random_graph(rng, int(rng.integers(4, 14)), rooted=True)
    has = ancestors(indptr, indices)
    n = len(has)
    runs = [(int(rng.integers(0, n)), bool(rng.random() < 0.5)) for _ in range(int(rng.integers(0, 12)))]
    share = rng.random(n) + 0.1
    posterior = Posterior(AncestorSums(indptr, indices), PRIORS, share)
    for v, crash in runs:
        posterior.add(v, crash=crash)
    prior = np.append(share, 0.005)
    prior[0] = 0.005
    prior[1:n] *= 0.99 / share[1:].sum()
    return posterior, has, runs, prior


@pytest.mark.parametrize("seed", range(30))
def test_belief_and_gain_are_exact(seed):
    posterior, has, runs, prior = random_case(seed)
    for v in range(len(has)):
        posterior.look_at(v)
    view = posterior.view()
    weights, evidence = brute_weights(has, runs, prior)
    assert np.allclose(np.append(view.weights, view.nowhere), weights, atol=1e-12)
    assert view.entropy == pytest.approx(entropy(weights), abs=1e-9)

    gains, _ = posterior.gain(view)
    for v in range(len(has)):
        expected = entropy(weights)
        for y in (True, False):
            after, log = brute_weights(has, [*runs, (v, y)], prior)
            expected -= np.exp(log - evidence) * entropy(after)
        assert gains[v] == pytest.approx(expected, abs=1e-9)
        crash = np.exp(brute_weights(has, [*runs, (v, True)], prior)[1] - evidence)
        assert posterior.crash_chance(view, v) == pytest.approx(crash, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_supposed_runs_are_as_good_as_seen_ones(seed):
    posterior, has, runs, prior = random_case(seed)
    supposed = {len(has) - 1: (2, 1), 0: (0, 1)}
    extra = [(len(has) - 1, True)] * 2 + [(len(has) - 1, False), (0, False)]
    weights, _ = brute_weights(has, runs + extra, prior)
    assert np.allclose(posterior.view(supposed).weights, weights[:-1], atol=1e-12)
    again, _ = brute_weights(has, runs, prior)
    assert np.allclose(posterior.view().weights, again[:-1], atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_gain_of_the_tested_is_that_of_the_sums(seed):
    posterior, has, _, _ = random_case(seed)
    for v in range(len(has)):
        posterior.look_at(v)
    view = posterior.view()
    lengths = np.array([1, 2, 5, 20])
    gains, runs = posterior.gain_tested(view, lengths)
    for i, length in enumerate(lengths.tolist()):
        expected = posterior.gain(view, length)
        assert np.allclose(gains[i], expected[0][posterior.tested], atol=1e-12)
        assert np.allclose(runs[i], np.broadcast_to(expected[1], len(has))[posterior.tested], atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_misfit_is_what_its_definition_says(seed):
    posterior, has, runs, prior = random_case(seed)
    n = len(has)

    def log_runs(chosen, mixture):
        return log_rate(mixture, sum(y for _, y in chosen), sum(not y for _, y in chosen))

    def log_two(first, second):
        split = {}
        for v, crash in runs:
            split.setdefault((has[v, first], has[v, second]), []).append((v, crash))
        return sum(log_runs(some, PRIORS.crash if any(key) else PRIORS.false) for key, some in split.items())

    # "Two culprits" that no run tells apart are one.
    split = [tuple(has[v, c] for v, _ in runs) for c in range(n)]
    one = brute_weights(has, runs, prior)[1]
    pairs = [
        np.log(prior[a]) + np.log(prior[b]) + log_two(a, b)
        for a in range(n)
        for b in range(n)
        if any(split[a]) and any(split[b])
    ]
    each = [
        np.logaddexp(log_runs(mine, PRIORS.crash), log_runs(mine, PRIORS.false)) - np.log(2)
        for mine in ([run for run in runs if run[0] == v] for v in {v for v, _ in runs})
    ]
    found = posterior.misfit(posterior.view())
    assert found.free == pytest.approx(np.exp(sum(each) - one))
    if pairs and all(any(s) for s in split):
        assert found.two == pytest.approx(np.exp(logsumexp(pairs) - one))
    assert found.factor == pytest.approx((found.two + found.free) / 2)


def test_two_steps_are_told_from_one():
    one, two = Posterior(line(100), PRIORS), Posterior(line(100), PRIORS)
    for v in range(5, 100, 5):
        for i in range(12):
            one.add(v, crash=v >= 60 and i % 2 == 0)
            two.add(v, crash=(v >= 70 and i % 12 > 0) or (30 <= v < 70 and i % 4 == 0))
    assert one.misfit(one.view()).factor < 1
    found = two.misfit(two.view())
    assert found.alarm
    steps = sorted(two.members(group).tolist() for group in found.classes)
    assert [26 <= steps[0][0] <= 30, 66 <= steps[1][0] <= 70] == [True, True]


def line(n):
    indptr = np.concatenate([[0], np.arange(n)]).astype(np.int32)
    return AncestorSums(indptr, np.arange(n - 1, dtype=np.int32))


def test_a_stretch_of_an_unrelated_crash_is_not_taken_for_the_step():
    # The culprit is 60; from 20 to 40 something else crashes half of the time.
    posterior = Posterior(line(100), PRIORS)
    for v in range(5, 100, 5):
        for i in range(12):
            if 20 <= v < 40 and i % 2:
                posterior.add(v, crash=True, title="unrelated")
            else:
                posterior.add(v, crash=v >= 60 and i % 3 != 0)
    view = posterior.view()
    assert view.hunted["unrelated"] < 0.05
    assert view.weights[56:61].sum() > 0.99
    hidden = posterior.hidden(view)
    assert hidden[30] > 0.35
    assert hidden[80] < 0.05


def test_the_same_bug_under_another_title_counts_as_a_crash():
    posterior = Posterior(line(100), PRIORS)
    for v in range(5, 100, 5):
        for i in range(12):
            crash = v >= 60 and i % 3 != 0
            posterior.add(v, crash=crash, title="renamed" if crash and i % 2 else None)
    view = posterior.view()
    assert view.hunted["renamed"] > 0.9
    assert view.weights[56:61].sum() > 0.99


def test_excluded_candidates_get_nothing_and_not_all_can_be_excluded():
    posterior = Posterior(line(10), PRIORS)
    mask = np.zeros(10, bool)
    mask[3:6] = True
    posterior.exclude(mask)
    view = posterior.view()
    assert view.weights[3:6].sum() == 0
    assert view.weights.sum() + view.nowhere == pytest.approx(1)
    posterior.exclude(np.ones(10, bool))
    assert posterior.view().weights.sum() > 0.9


def test_interval_holds_the_rate_it_should():
    mixture = BetaMixture(((1.0, 1.0, 1.0),))
    low, high = mixture.interval(5, 5)
    assert 0.2 < low < 0.3
    assert 0.7 < high < 0.8


def test_mixture_sums_to_one_over_all_sequences():
    for mixture in (PRIORS.crash, PRIORS.false):
        total = sum(np.exp(log_rate(mixture, sum(s), 6 - sum(s))) for s in product((0, 1), repeat=6))
        assert total == pytest.approx(1)
        logs, _ = mixture.evidence(np.array([2.0]), np.array([4.0]))
        assert logs[0] == pytest.approx(log_rate(mixture, 2, 4))
