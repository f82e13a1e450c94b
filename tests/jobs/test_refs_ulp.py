"""The example's lost references: the ledger names TCP, which puts for children that never got."""

from __future__ import annotations

from pathlib import Path

import pytest
from refs_cases import Case, run_case

from ktriage.jobs.labs import open_lab
from ktriage.jobs.record import with_refs
from ktriage.trial import load_spec
from ktriage.words import OutcomeKind

pytestmark = pytest.mark.vm

TRIES = 12
"""More than every second storm crashes: so many without a crash are one chance in ten thousand."""

STORMS = """n=0
while [ $n -lt 10000 ]; do
    set -- $(ulp-storm -c 256 -w 64 -k 1 -t 10000)
    n=$((n + $2))
done"""


def made(example, place: Path, *, commands: tuple[str, ...] = ()):
    spec = with_refs(load_spec(example.spec), None, (), ())
    assert spec.refs and spec.refs.module == "ulp_tally"
    if commands:
        run = spec.run.model_copy(update={"commands": commands, "timeout": 300.0})
        spec = spec.model_copy(update={"run": run})
    return open_lab(spec, place, repo=example.repo)


def crash(example, place: Path) -> Case:
    lab = made(example, place)
    for number in range(TRIES):
        case = run_case(lab, f"run-{number}", example.culprit)
        if case.outcome.hunted:
            return case
    raise AssertionError("no run crashed")


def test_a_crash_comes_with_the_ledger_that_names_tcp(example, tmp_path: Path) -> None:
    case = crash(example, tmp_path)
    assert list(case.wrong) == ["ulp_tally"]
    lost = case.wrong["ulp_tally"]
    assert {one.function for one in lost.unmatched_puts} == {"tcp_cleanup_ulp"}
    # Which socket a reference belongs to, a module's count does not say: gets may be thought of, not more.
    assert {one.certainty for one in lost.unmatched_gets} <= {"possible"}
    # The count stops at -1, and the kernel warns of each put after that.
    assert (lost.last, lost.min) == (-1, -1)
    assert lost.underflow and lost.underflow.function == "tcp_cleanup_ulp"
    assert case.outcome.refs
    assert any("tcp_cleanup_ulp" in line for line in case.outcome.refs.wrong)


@pytest.mark.matrix
def test_ten_thousand_connections_have_nothing_to_report(example, tmp_path: Path) -> None:
    lab = made(example, tmp_path, commands=(STORMS,))
    case = run_case(lab, commit=example.good)
    assert case.outcome.kind is OutcomeKind.OK
    account = case.accounts["ulp_tally"]
    assert account.gets >= 10000
    assert (account.lost, account.last) == (0, 0)
    assert not case.wrong
    assert account.underflow is None
