"""Crashes of our own making: what they are was written down by hand, from syzbot's conventions.

The logs and the table are in tests/fixtures/console; scripts/make-crash-logs makes them again.
"""

from __future__ import annotations

import re
import socket
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from ktriage.console import Crash, read_crashes

FIXTURES = Path(__file__).parents[1] / "fixtures" / "console"
TABLE: dict[str, dict[str, Any]] = tomllib.loads((FIXTURES / "crashes.toml").read_text())
CRASHED = [name for name, row in TABLE.items() if not row.get("none")]

OTHER_CPU = "the frames of the CPU that stalls are there, but not found"
MISREAD = {
    "bad-page": "without page_owner it is named by who freed the page, not corrupted",
    "rcu-stall": OTHER_CPU,
    "rcu-stall-irqs-off": OTHER_CPU,
    "own-rcu-stall": OTHER_CPU,
    "own-rcu-stall-irqs-off": OTHER_CPU,
}
"""Logs that are not read right yet, each with what is wrong."""


def crashes_of(name: str) -> list[Crash]:
    return read_crashes((FIXTURES / f"{name}.log").read_bytes(), source=name)


def cases() -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.xfail(reason=MISREAD[name], strict=True))
        if name in MISREAD
        else name
        for name in CRASHED
    ]


def matches(title: str, wanted: str) -> bool:
    """Return whether a title is the wanted one, which may have ``*`` for what the conventions leave open."""
    return fnmatchcase(title, wanted) if "*" in wanted else title == wanted


@pytest.mark.parametrize("name", cases())
def test_the_first_crash_is_what_was_made(name: str) -> None:
    row, crashes = TABLE[name], crashes_of(name)
    assert crashes
    first = crashes[0]
    assert first.cause is None
    assert bool(first.corrupted) == row.get("corrupted", False), first.corrupted
    if "title" in row:
        assert matches(first.title, row["title"]), first.title
    assert ("type" not in row) or first.type == row["type"]
    assert ("panicked" not in row) or first.panicked == row["panicked"]
    assert ("suppressed" not in row) or first.suppressed == row["suppressed"]
    assert ("refcount" not in row) or (first.refcount and first.refcount.kind == row["refcount"])
    rest = [crash.title for crash in crashes[1:]]
    for other in row.get("others", []):
        assert any(matches(title, other) for title in rest), rest


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.get("none")])
def test_what_is_no_crash_is_none(name: str) -> None:
    assert crashes_of(name) == []


@pytest.mark.parametrize("name", TABLE)
def test_a_log_is_whole_and_names_no_machine(name: str) -> None:
    text = (FIXTURES / f"{name}.log").read_text()
    assert text.endswith("\n")
    assert not re.search(r"/(root|home|tmp)/", text)
    assert not re.search(rf"[@(]{re.escape(socket.gethostname())}\b", text)


def test_each_log_is_in_the_table() -> None:
    assert sorted(path.stem for path in FIXTURES.glob("*.log")) == sorted(TABLE)


def test_there_are_enough_of_them() -> None:
    formats = {re.sub(r" in .*", "", row["title"]) for row in TABLE.values() if "title" in row}
    assert len(CRASHED) >= 40
    assert len(formats) >= 20
