"""The example's history, and the command that bisects it, for several tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktriage.jobs.demo import example_folder, make_repository


@dataclass(frozen=True, slots=True)
class Example:
    """The example and a fresh repository with its history."""

    spec: Path
    repo: Path
    good: str
    bad: str
    culprit: str

    def bisect(self, log: Path, *options: str) -> list[str]:
        """Return the command line that bisects it in VMs."""
        command = [sys.executable, "-m", "ktriage", "bisect", "run", "--spec", str(self.spec)]
        command += ["--repo", str(self.repo), "--good", self.good, "--bad", self.bad, "--log", str(log)]
        return [*command, *options]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """Return the example that comes with ktriage, its repository newly made."""
    repo = tmp_path_factory.mktemp("example") / "repo"
    return Example(example_folder() / "ktriage.toml", repo, **make_repository(example_folder(), repo))
