"""The stacks that a report quotes: who allocated an object, who freed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktriage.cli import main
from ktriage.console import Crash, read
from ktriage.console.quoted import own_stack, quoted
from ktriage.symbols.code import read_code

LOGS = Path(__file__).parents[1] / "fixtures/console"


def first(name: str) -> Crash:
    crash = next(iter(read((LOGS / f"{name}.log").read_bytes(), name)))
    assert isinstance(crash, Crash)
    return crash


def test_who_allocated_and_who_freed_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    crash = first("own-read-freed-by-rcu")
    stacks = quoted(crash)
    assert [(one.heading, *[frame.function for frame in one.frames][:2]) for one in stacks] == [
        ("Allocated by task 44", "mishap_read_freed_by_rcu", "mishap_write"),
        ("Freed by task 0", "mishap_reclaim", "rcu_core"),
        ("Last potentially related work creation", "call_rcu", "mishap_read_freed_by_rcu"),
    ]
    assert [frame.function for frame in own_stack(crash, stacks)][-1].startswith("entry_SYSCALL_64")
    assert main(["report", str(LOGS / "own-read-freed-by-rcu.log")]) == 0
    said = capsys.readouterr().out
    assert "    freed by task 0: mishap_reclaim ← rcu_core ← " in said


def test_a_report_that_quotes_none_keeps_its_stack() -> None:
    crash = first("own-abba")
    assert quoted(crash) == ()
    assert own_stack(crash, ()) == list(crash.stack)


def test_what_the_program_ran_did_not_trap() -> None:
    crash = first("own-read-freed")
    assert crash.code
    assert "RIP: 0033:" in crash.text.partition("Code: ")[0]
    assert read_code(crash) is None
    code = read_code(first("null-read"))
    assert code is not None
    assert code.trapped is not None
