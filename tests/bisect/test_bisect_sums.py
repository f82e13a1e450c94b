from __future__ import annotations

import numpy as np
import pytest
from bisect_graphs import ancestors, random_graph

from ktriage.bisect.sums import AncestorSums


@pytest.mark.parametrize("seed", range(40))
def test_sums_sets_and_descendants_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    indptr, indices = random_graph(rng, int(rng.integers(1, 150)))
    sums, has = AncestorSums(indptr, indices), ancestors(indptr, indices)
    f = rng.normal(size=sums.n)
    assert np.allclose(sums.sums(f), has @ f)
    for v in range(sums.n):
        assert (sums.ancestors(v) == has[v]).all()
    salt = rng.integers(0, 1 << 40, sums.n)
    assert (sums.descendants(salt) == has.T.astype(np.int64) @ salt).all()


def test_deltas_stay_small_where_branches_are_short():
    rng = np.random.default_rng(3)
    sums = AncestorSums(*random_graph(rng, 5000))
    assert sums.size < 6 * sums.n
