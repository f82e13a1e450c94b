"""Module references that are lost in a guest: the ledger of the recording names who lost them."""

from __future__ import annotations

from pathlib import Path

import pytest
from refs_cases import lab, modules, run_case

from ktriage.errors import UserError
from ktriage.kernel import Kernel
from ktriage.words import OutcomeKind

pytestmark = pytest.mark.vm

REFS = 'module = "lender"'
LOAD = "cd /ktriage; insmod lender.ko"


def test_a_forgotten_symbol_put_is_named(kernel: Kernel, tmp_path: Path) -> None:
    use = (
        "insmod forgetful.ko; for i in 1 2 3 -4 5 6 -7 8; do echo $i > /proc/forgetful; done; rmmod forgetful"
    )
    files = modules(kernel, "lender", "lender", "forgetful")
    case = run_case(lab(tmp_path, (f"{LOAD}; {use}; true",), files, REFS))
    assert case.outcome.kind is OutcomeKind.OK
    assert case.outcome.refs and case.outcome.refs.complete
    assert list(case.wrong) == ["lender"]
    lost = case.wrong["lender"]
    assert not lost.unmatched_puts
    assert lost.last == 2
    [first, *rest] = lost.unmatched_gets
    assert (first.function, first.holder, first.count) == ("forgetful_borrow", "forgetful", 2)
    assert not rest


def test_a_put_too_many_eats_a_static_use(kernel: Kernel, tmp_path: Path) -> None:
    use = (
        "insmod hasty.ko; for i in 1 2 3 4 -5 6 7; do echo $i > /proc/hasty; done; rmmod hasty; rmmod lender"
    )
    files = modules(kernel, "lender", "lender", "hasty")
    case = run_case(lab(tmp_path, (f"{LOAD}; {use}",), files, REFS))
    # rmmod takes the reference that the module has on itself, finds none, and the kernel gives up.
    assert case.outcome.kind is OutcomeKind.CRASHED
    assert case.outcome.title is not None
    assert "BUG" in case.outcome.title
    assert case.outcome.refs and not case.outcome.refs.complete and case.outcome.refs.rescued
    lost = case.wrong["lender"]
    assert not lost.unmatched_gets
    assert lost.last == -1
    first = lost.unmatched_puts[0]
    assert (first.function, first.holder, first.count) == ("hasty_borrow", "hasty", 1)


def test_a_guest_that_dies_keeps_its_last_events(kernel: Kernel, tmp_path: Path) -> None:
    use = "insmod forgetful.ko; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i > /proc/forgetful; done"
    files = modules(kernel, "lender", "lender", "forgetful")
    case = run_case(lab(tmp_path, (f"{LOAD}; {use}; echo c > /proc/sysrq-trigger",), files, REFS))
    assert case.outcome.kind is OutcomeKind.OTHER_CRASH
    assert case.outcome.refs and case.outcome.refs.rescued
    account = case.accounts["lender"]
    assert (account.gets, account.lost) == (2000, 0)
    assert not case.wrong


def test_what_the_guest_can_not_probe_is_said(tmp_path: Path) -> None:
    made = lab(tmp_path, ("true",), {}, 'get = "kobject_get"\nput = "kobject_put"')
    with pytest.raises(UserError, match="kobject_get can't be probed in the guest"):
        made.trial("run", None)


def test_a_guest_that_hangs_keeps_its_events(kernel: Kernel, tmp_path: Path) -> None:
    use = (
        "insmod forgetful.ko; for i in 1 2 -3 4; do echo $i > /proc/forgetful; done; echo 5 > /proc/forgetful"
    )
    files = modules(kernel, "lender", "lender", "forgetful")
    case = run_case(lab(tmp_path, (f"{LOAD}; {use}; sleep 1000",), files, REFS, timeout=10))
    assert case.outcome.kind is OutcomeKind.HUNG
    assert case.outcome.refs and not case.outcome.refs.complete and case.outcome.refs.rescued
    account = case.accounts["lender"]
    assert (account.gets, account.last) == (5, 1)
    assert [one.function for one in account.holders] == ["forgetful_borrow"]
