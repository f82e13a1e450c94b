"""The script that makes the logs of our own makes them again, and they read the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ktriage.console import read_crashes

TOP = Path(__file__).parents[2]
TABLE = tomllib.loads((TOP / "tests/fixtures/console/crashes.toml").read_text())


def make(out: Path, *names: str) -> subprocess.CompletedProcess[str]:
    only = [word for name in names for word in ("--only", name)]
    return subprocess.run(
        [sys.executable, TOP / "scripts/make-crash-logs", *only, out], capture_output=True, text=True
    )


@pytest.mark.vm
def test_crashes_are_made_again(tmp_path: Path) -> None:
    names = ("null-write", "refcount-underflow", "stack-canary")
    done = make(tmp_path / "logs", *names)
    assert done.returncode == 0, done.stderr
    assert sorted(path.stem for path in (tmp_path / "logs").iterdir()) == sorted(names)
    for name in names:
        first = read_crashes((tmp_path / f"logs/{name}.log").read_bytes())[0]
        assert (first.title, first.type) == (TABLE[name]["title"], TABLE[name]["type"])


def test_a_crash_that_is_not_in_the_table(tmp_path: Path) -> None:
    done = make(tmp_path / "logs", "no-such-crash")
    assert done.returncode == 2
    assert "no such crash" in done.stderr
    assert not (tmp_path / "logs").exists()
