"""The belief in foreign bisections, against thousands of them whose culprit is known."""

from __future__ import annotations

import numpy as np
import pytest
from foreign_logs import fixed_rule, name

from ktriage.bisect.foreign import read_foreign
from ktriage.bisect.judge import weigh
from ktriage.bisect.judge_places import chain

COUNT = 500


def outcomes(seed, stray):
    """Return each named commit's probability and whether it is right; and the same of the likeliest."""
    rng = np.random.default_rng(seed)
    named, likeliest = [], []
    while len(named) < COUNT:
        p = rng.uniform(0.1, 1)
        q = float(np.exp(rng.uniform(np.log(1e-4), np.log(0.05))))
        made = fixed_rule(rng, 2000, p, q, stray)
        if made is None:
            continue
        text, culprit, answer = made
        log = read_foreign(text.encode())
        found = weigh(log, chain(log))
        best = int(found.view.weights.argmax())
        commits = found.places.commits
        named.append((found.claimed, answer == culprit))
        inside = best > 0 and name(culprit) <= commits[best] and name(culprit) > commits[best - 1]
        likeliest.append((float(found.view.weights[best]), inside))
    return np.array(named, float), np.array(likeliest, float)


@pytest.mark.parametrize(("seed", "stray"), [(1, 0.0), (2, 0.5)])
def test_probabilities_come_true(seed, stray):
    for said in outcomes(seed, stray):
        assert said[:, 0].mean() == pytest.approx(said[:, 1].mean(), abs=0.05)
        for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.01)):
            these = said[(said[:, 0] >= low) & (said[:, 0] < high)]
            if len(these) < 20:
                continue
            mean, right = these.mean(axis=0)
            # Three standard errors, and what the priors may be off for these rates.
            slack = 3 * float(np.sqrt(max(mean * (1 - mean), 0.01) / len(these))) + 0.05
            assert right == pytest.approx(mean, abs=slack)
