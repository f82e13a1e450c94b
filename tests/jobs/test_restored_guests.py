"""Restored guests must be no copies of one another's luck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import fisher_exact

from ktriage.jobs.labs import open_lab
from ktriage.jobs.repro import Rate, measure_rate
from ktriage.trial import load_spec

RUNS = 24


def rate(example, place: Path, *, restore: bool, runs: int = RUNS) -> Rate:
    lab = open_lab(load_spec(example.spec), place, repo=example.repo, restore=restore)
    return measure_rate(lab, runs, commit=example.culprit, jobs=2)


@pytest.mark.vm
def test_restored_guests_crash_as_often_as_booted_ones(example, tmp_path: Path) -> None:
    restored = rate(example, tmp_path / "restored", restore=True)
    booted = rate(example, tmp_path / "booted", restore=False)
    assert restored.outcomes.get("infra", 0) + booted.outcomes.get("infra", 0) <= 2
    # Neither always nor never: each guest draws its own luck.
    assert 0 < restored.outcomes["crashed"] < restored.runs
    assert restored.interval[0] <= booted.interval[1]
    assert booted.interval[0] <= restored.interval[1]
    table = [[r.outcomes.get("crashed", 0), r.outcomes.get("ok", 0)] for r in (restored, booted)]
    assert fisher_exact(table).pvalue > 0.001


@pytest.mark.vm
def test_repro_run_as_a_person_would(example, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ktriage",
        "repro",
        "run",
        str(example.spec),
        "-n",
        "3",
        "--out",
        str(tmp_path),
    ]
    command += ["--repo", str(example.repo), "--rev"]
    good = subprocess.run([*command, example.good], capture_output=True, text=True)
    assert good.returncode == 1, good.stderr
    assert "crash rate 0%" in good.stdout
    wrong = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "unknown revision 'nothing'" in wrong.stderr
