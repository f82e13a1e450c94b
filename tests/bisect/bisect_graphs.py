"""Small commit graphs for tests."""

from __future__ import annotations

import numpy as np


def random_graph(rng, n, *, rooted=False):
    """A graph with forks, merges of up to three parents, and repeated parents now and then."""
    indptr, indices = [0], []
    for v in range(n):
        count = min(v, rng.choice([1, 1, 1, 1, 2, 2, 3] if rooted else [0, 1, 1, 1, 1, 2, 2, 3]))
        parents = rng.integers(max(0, v - 8), v, size=count).tolist() if v else []
        indices += parents
        indptr.append(len(indices))
    return np.array(indptr, np.int32), np.array(indices, np.int32)


def ancestors(indptr, indices):
    n = len(indptr) - 1
    has = np.zeros((n, n), bool)
    for v in range(n):
        has[v, v] = True
        for p in indices[indptr[v] : indptr[v + 1]]:
            has[v] |= has[p]
    return has
