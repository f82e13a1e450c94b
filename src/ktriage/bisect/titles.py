"""Other crashes than the hunted one: the same bug by another name, or something else.

A title that is something else hides what a run would have shown, at a rate that may differ from one
stretch of history to the next. Its runs along the history are taken for a hidden Markov chain: from one
tested revision to the next (in the graph's order) its rate stays, or is drawn anew. That covers a rate
that is the same everywhere, stretches, and single revisions, and favours no commit as the culprit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaln

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Rates that the chain knows, and how likely a new stretch has each: half of all stretches are free of it.
_RATES = np.array([1e-4, 0.01, 0.03, 0.07, 0.13, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.999])
_FRESH = np.array([0.5] + [0.5 / (len(_RATES) - 1)] * (len(_RATES) - 1))
_STAY = 0.85
_STEP = _STAY * np.eye(len(_RATES)) + (1 - _STAY) * _FRESH
_LOG_HIT, _LOG_MISS = np.log(_RATES), np.log1p(-_RATES)

# How often crashes of one bug come under one of its other titles: a Dirichlet prior, the main title first.
_MAIN, _OTHER = 2.0, 0.7

UNKNOWN = 0.2
"""How likely another title is the hunted bug where there is nothing to compare: mostly it is not."""


def stretches(hits: Floats, runs: Floats) -> tuple[float, Floats]:
    """Return how likely these runs are for a title that has nothing to do with the culprit, and its rates.

    ``hits`` of ``runs`` at each tested revision, in the graph's order, ended with the title. The first
    result is a log probability; the second the expected rate at each revision, everything considered.
    """
    logs = hits[:, None] * _LOG_HIT + (runs - hits)[:, None] * _LOG_MISS
    most = logs.max(axis=1, keepdims=True)
    seen = np.exp(logs - most)
    forward = np.empty_like(seen)
    backward = np.ones_like(seen)
    total = float(most.sum())
    state = _FRESH
    for i in range(len(seen)):
        forward[i] = state * seen[i]
        scale = forward[i].sum()
        forward[i] /= scale
        total += float(np.log(scale))
        state = forward[i] @ _STEP
    for i in range(len(seen) - 2, -1, -1):
        backward[i] = _STEP @ (seen[i + 1] * backward[i + 1])
        backward[i] /= backward[i].sum()
    both = forward * backward
    rates: Floats = (both @ _RATES) / both.sum(axis=1)
    return total, rates


def mixture(counts: Sequence[float]) -> float:
    """Return how likely a bug's crashes come under its titles like this, as a log probability.

    The first count is that of the main title.
    """
    if len(counts) == 1:
        return 0.0
    alpha = np.array([_MAIN] + [_OTHER] * (len(counts) - 1))
    n = np.array(counts)
    logs = gammaln(alpha.sum()) - gammaln(alpha.sum() + n.sum()) + (gammaln(alpha + n) - gammaln(alpha)).sum()
    return float(logs)


def likeness(
    frames: Iterable[str], files: Iterable[str], other_frames: Iterable[str], other_files: Iterable[str]
) -> float:
    """Return how likely two crashes are the same bug, going by what they show alone.

    Frames count more than files, and inner frames more than outer ones. Crashes that show nothing to
    compare get ``UNKNOWN``.
    """
    shared = _shared(list(frames), list(other_frames))
    same_files = _shared(list(files), list(other_files))
    if shared is None and same_files is None:
        return UNKNOWN
    score = max(shared or 0.0, 0.7 * (same_files or 0.0))
    return 0.05 + 0.85 * score


def _shared(first: list[str], second: list[str]) -> float | None:
    """Return the weight of what both lists have, over that of the shorter; None where one is empty."""
    if not first or not second:
        return None
    weights = [{name: 0.8**i for i, name in reversed(list(enumerate(names)))} for names in (first, second)]
    common = weights[0].keys() & weights[1].keys()
    got = sum(min(weights[0][name], weights[1][name]) for name in common)
    return min(1.0, got / min(sum(weights[0].values()), sum(weights[1].values())))
