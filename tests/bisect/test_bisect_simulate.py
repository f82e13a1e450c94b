from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ktriage.bisect.misfit import ALARM
from ktriage.bisect.search import Costs, Search
from ktriage.bisect.simulate import (
    Simulated,
    World,
    load_dag,
    simulate,
    simulate_history,
    simulate_one,
    with_good,
)
from ktriage.bisect.untestable import Untestable
from ktriage.errors import UserError

CORPUS = Path(os.environ.get("KTRIAGE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))


def line(n):
    return with_good(np.concatenate([[0], np.arange(n)]), np.arange(n - 1))


def branches():
    """A history of 38 commits with three side branches of four commits, merged."""
    parents = [[]]
    for segment in range(4):
        for _ in range(4):
            parents.append([len(parents) - 1])
        if segment < 3:
            fork = len(parents) - 1
            for at in (fork, None, None, None):
                parents.append([len(parents) - 1 if at is None else at])
            side = len(parents) - 1
            parents.append([fork])
            parents.append([len(parents) - 1])
            parents.append([len(parents) - 1, side])
    return with_good(np.cumsum([0] + [len(p) for p in parents]), np.array([x for p in parents for x in p]))


@pytest.mark.parametrize(
    "world",
    [
        World(0.9, 0.0),
        World(0.6, 0.01),
        World(0.6, 0.01, unrelated=0.2),
        World(0.6, 0.01, unrelated=0.5, stretches=3),
        World(0.6, 0.01, renamed=1 / 3),
        World(0.6, 0.0, broken=3),
    ],
)
def test_answers_are_right(world):
    summary = simulate(line(300), world, histories=15, seed=1)
    assert summary.right == 1
    assert summary.skips <= 8
    assert all(history.misfit < ALARM for history in summary.each), "one culprit explains all runs"


def test_with_two_culprits_the_answer_is_one_of_them():
    summary = simulate(line(300), World(0.7, 0.002, second=0.5), histories=12, seed=1)
    assert summary.right >= 11 / 12
    world = World(0.3, 0.0, second=0.6)
    simulated = Simulated(line(300), world, np.random.default_rng(3))
    rates = {round(simulated.rate(v), 4) for v in range(301)}
    assert rates <= {0.0, 0.3, 0.6, 0.72}
    assert len(rates) == 3


def test_the_same_seed_gives_the_same_bisection():
    sums, world = line(200), World(0.5, 0.01, unrelated=0.1)
    assert simulate_history(sums, world, 3, 7) == simulate_history(sums, world, 3, 7)
    assert simulate_history(sums, world, 3, 7) != simulate_history(sums, world, 4, 7)


def test_builds_are_few_where_they_cost_much():
    few = simulate(line(300), World(0.3, 0.0), histories=10)
    sums = line(300)
    many = []
    for number in range(10):
        simulated = Simulated(sums, World(0.3, 0.0), np.random.default_rng([0, number]))
        many.append(simulate_one(simulated, Search(sums, costs=Costs(run=1, build=0.01))))
    assert few.builds < 0.8 * np.mean([history.builds for history in many])
    assert few.runs > np.mean([history.runs for history in many])


def test_more_machines_need_fewer_rounds():
    sums, world = branches(), World(0.5, 0.0)
    rounds = [simulate(sums, world, histories=10, jobs=jobs) for jobs in (1, 4)]
    assert rounds[0].right == rounds[1].right == 1
    assert rounds[1].rounds < rounds[0].rounds / 2


def test_set_of_a_broken_stretch_holds_the_culprit_and_little_else():
    sums = line(300)
    inside = []
    for number in range(60):
        history = simulate_history(sums, World(0.7, 0.0, broken=1, broken_size=0.2), number, 2)
        assert history.right
        if history.culprit_broken:
            inside.append(history)
    assert len(inside) > 5
    assert all(history.verdict == "candidates" for history in inside)
    # The stretch, and the commit that mends it, whose parent can't be tested.
    assert {history.members for history in inside} <= {60, 61}


@pytest.mark.parametrize("seed", range(12))
def test_a_small_history_with_everything_that_goes_wrong(seed):
    # Two revisions do not build, one always dies of something else, eight do so now and then.
    sums = branches()
    rng = np.random.default_rng(seed)
    simulated = Simulated(sums, World(0.5, 0.005), rng)
    others = rng.permutation([v for v in range(2, sums.n - 1) if v != simulated.culprit])
    start = int(others[3])

    def run(v):
        if v in others[:2]:
            return "broken", None
        if v == others[2]:
            return "other", "dies at load"
        if start <= v < start + 8 and rng.random() < 0.3:
            return "other", "unrelated"
        return ("crash" if rng.random() < (0.5 if simulated.has(v) else 0.005) else "ok"), None

    simulated.run = run
    history = simulate_one(simulated, Search(sums, costs=Costs(1, 5)))
    assert history.right
    assert history.runs < 300
    assert history.verdict == "culprit" or history.members <= 4


def test_neighbours_of_a_broken_revision_are_likely_broken_too():
    untestable = Untestable(1001)
    untestable.add(500, works=False)
    chances = untestable.chances()
    assert chances[500] == 0
    assert chances[501] < 0.2 < chances[510] < chances[600] <= 0.97
    untestable.add(540, works=False)
    assert untestable.chances()[520] < 0.3
    assert untestable.chances()[580] < chances[580]
    untestable.add(510, works=True)
    assert untestable.chances()[510] == 1
    untestable.add(510, works=False)
    assert untestable.broken == (500, 540)


def test_dags_that_will_not_do(tmp_path):
    path = tmp_path / "dag.npz"
    wrong = [
        {"indptr": np.array([0, 1]), "indices": np.array([0])},
        {"indptr": np.array([0, 1]), "indices": np.array([7])},
        {"indptr": np.array([0, 2, 1]), "indices": np.array([0])},
        {"indptr": np.array([0.0, 0.0]), "indices": np.array([], dtype=int)},
        {"indptr": np.array([0, 0])},
    ]
    for arrays in wrong:
        np.savez(path, **arrays)
        with pytest.raises(UserError):
            load_dag(path)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UserError):
        load_dag(path)


@pytest.mark.skipif(not CORPUS.is_dir(), reason=f"{CORPUS} is not there")
def test_linux_history():
    sums = load_dag(CORPUS / "dags" / "linux-2.6.36-rc1-to-2.6.37.npz")
    assert sums.n == 16135
    assert sums.size / sums.n < 2.7
    summary = simulate(sums, World(0.95, 0.01), histories=8)
    assert summary.right == 1
    assert summary.runs < 40
    assert summary.builds < 20
