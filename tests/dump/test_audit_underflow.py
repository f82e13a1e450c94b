"""The example's lost reference: a ULP whose count went below what it may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktriage.dump.audit import audit
from ktriage.dump.core import open_vmcore
from ktriage.jobs.demo import example_folder, make_repository
from ktriage.jobs.labs import open_lab
from ktriage.trial import load_spec

pytestmark = pytest.mark.vm
TRIES = 12
"""More than every second run crashes."""


def test_the_ulps_reference_is_missing(debug_kernel, tmp_path):
    made = make_repository(example_folder(), tmp_path / "repo")
    lab = open_lab(load_spec(example_folder() / "ktriage.toml"), tmp_path / "trials", repo=tmp_path / "repo")
    for number in range(TRIES):
        outcome, _ = lab.trial(f"run-{number}", made["bad"], vmcore="crashed")
        if outcome.hunted:
            break
    assert outcome.hunted
    assert outcome.vmcore
    core = open_vmcore(Path(outcome.vmcore), debug_kernel.vmlinux)
    found = audit(core)
    verdicts = {one.module: one.verdict for one in found.modules}
    assert verdicts.pop("ulp_tally") == "missing"
    assert set(verdicts.values()) == {"exact"}
    tally = next(one for one in found.modules if one.module == "ulp_tally")
    assert tally.count == -1
    assert tally.unaccounted <= -1
