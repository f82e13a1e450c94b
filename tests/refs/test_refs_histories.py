"""Generated histories with faults planted in them: what is found, and what is not accused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ktriage.refs.read import read_lines
from ktriage.refs.simulate import Plan, history, routes
from ktriage.refs.types import Account


def told(plan: Plan, seed: int, *, mixed: bool = False):
    chance = random.Random(seed)
    made = history(replace(plan, routes=routes(chance, chance.randrange(2, 7), mixed=mixed)), seed)
    return made, read_lines(made.lines)


def accused(accounts: list[Account]) -> list[tuple[str, str, tuple[str, ...]]]:
    said = []
    for one in accounts:
        said += [(one.object, "leak", entry.path) for entry in one.unmatched_gets]
        said += [(one.object, "overput", entry.path) for entry in one.unmatched_puts]
    return said


def planted(made) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(fault.object, fault.kind, fault.path) for fault in made.faults}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["leaks", "overputs"])
def test_planted_faults_lead_the_ranking(kind: str, seed: int) -> None:
    made, accounts = told(replace(Plan(pairs=3000), **{kind: 3}), seed)
    assert planted(made) <= set(accused(accounts)[:5])
    assert set(accused(accounts)) <= planted(made)
    for one in accounts:
        for entry in one.unmatched_gets:
            times = [fault.time + 101 for fault in made.faults if fault.path == entry.path]
            assert min(abs(entry.first_seen - time) for time in times) < 0.1


@pytest.mark.parametrize(
    "plan",
    [
        Plan(pairs=3000),
        Plan(pairs=3000, holders=4),
        Plan(pairs=3000, cut=True, rate=20_000),
        Plan(pairs=3000, spread="heavy"),
        Plan(pairs=3000, objects=("a", "b", "c")),
        Plan(pairs=3000, tasks=3),
        Plan(pairs=3000, flags=False),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_balanced_histories_accuse_no_one(plan: Plan, mixed: bool) -> None:
    for seed in range(2):
        made, accounts = told(plan, seed, mixed=mixed)
        assert accused(accounts) == []
        assert {one.object: one.last for one in accounts} == made.counts


@pytest.mark.parametrize("seed", range(4))
def test_lost_events_leave_the_net_count_right_and_nothing_certain(seed: int) -> None:
    made, accounts = told(Plan(pairs=3000, leaks=3, lost=0.01), seed)
    assert {one.object: one.last for one in accounts} == made.counts
    for one in accounts:
        assert one.lost > 10
        assert any("lost" in note for note in one.notes)
        assert all(entry.certainty != "certain" for entry in (*one.unmatched_gets, *one.unmatched_puts))


def test_clocks_that_differ_do_not_accuse() -> None:
    for seed in range(2):
        accounts = told(Plan(pairs=2000, skew=2e-4), seed)[1]
        assert accused(accounts) == []


def test_the_same_seed_makes_the_same_history() -> None:
    assert told(Plan(pairs=50, leaks=1), 3)[0].lines == told(Plan(pairs=50, leaks=1), 3)[0].lines


def test_a_long_trace_is_read_in_pieces_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = told(Plan(pairs=3000, leaks=2), 1)[1]
    monkeypatch.setattr("ktriage.refs.ledger._BUFFER", 1000)
    pieces = told(Plan(pairs=3000, leaks=2), 1)[1]
    assert [one.events for one in pieces] == [one.events for one in whole]
    assert {entry[2] for entry in accused(whole)} <= {entry[2] for entry in accused(pieces)}
