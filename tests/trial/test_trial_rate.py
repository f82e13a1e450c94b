"""How often a reproducer crashes, how well that is known, and how soon the crash comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktriage.console.types import Crash
from ktriage.jobs.repro import measure_rate, summarize
from ktriage.trial import Outcome
from ktriage.trial.rate import crash_seconds
from ktriage.words import OutcomeKind


def crashed(folder: Path | None, offset: int, **seconds: float) -> Outcome:
    crash = Crash(
        source="console.log", start=offset, end=offset + 10, line=1, title="WARNING in x", type="WARNING"
    )
    return Outcome(
        OutcomeKind.CRASHED,
        title=crash.title,
        hunted=True,
        crash=crash,
        directory=str(folder) if folder else None,
        seconds=seconds,
    )


def test_the_time_of_a_crash_is_that_of_its_piece_of_console(tmp_path: Path):
    (tmp_path / "console.log.times").write_text("0 0.100000\n50 0.900000\n80 2.000000\n")
    for start, seconds in ((0, 0.0), (49, 0.0), (50, 0.7), (79, 0.7), (80, 1.8), (500, 1.8)):
        found = crash_seconds(crashed(tmp_path, start, start=0.2, run=5.0))
        assert found == pytest.approx(seconds), start


def test_a_crash_that_no_report_tells_of_counts_from_the_end(tmp_path: Path):
    silent = Outcome(OutcomeKind.CRASHED, hunted=True, directory=str(tmp_path), seconds={"run": 3.0})
    assert crash_seconds(silent) == 3.0
    assert crash_seconds(Outcome(OutcomeKind.OK, seconds={"run": 3.0})) is None
    assert crash_seconds(crashed(tmp_path / "gone", 0, start=0.2, run=5.0)) is None


def test_a_summary(tmp_path: Path):
    (tmp_path / "console.log.times").write_text("0 1.0\n")
    outcomes = [crashed(tmp_path, 0, start=0.5, run=2.0)] * 3 + [
        Outcome(OutcomeKind.OK, seconds={"run": 4.0})
    ]
    rate = summarize(outcomes, 20.0, 10.0)
    assert rate.rate == 0.75
    assert rate.crash_seconds == 0.5
    assert rate.run_seconds == 2.0
    assert rate.per_minute == 24


class Alternating:
    """A laboratory in which every other run crashes."""

    runs = 0

    def build(self, _commit: str | None) -> None:
        return None

    def trial(self, *_what: str | None, vmcore: str | None = None) -> tuple[Outcome, None]:
        assert vmcore is None
        self.runs += 1
        return Outcome(
            OutcomeKind.CRASHED if self.runs % 2 else OutcomeKind.OK, hunted=bool(self.runs % 2)
        ), None


def test_runs_until_the_rate_is_known():
    rate = measure_rate(Alternating(), 1000, precision=0.1)
    low, high = rate.interval
    assert high - low <= 0.2
    assert 90 < rate.runs < 110
    assert measure_rate(Alternating(), 12, precision=0.1).runs == 12
    assert measure_rate(Alternating(), 12).runs == 12
