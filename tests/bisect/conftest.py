from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "history"))

from history_repo import Repo


class History:
    """A repository of 40 odd commits with four merges; the culprit, on a side branch, adds the file bug."""

    def __init__(self, path):
        self.repo = Repo(path)
        self.good = self.repo.commit("start", f="0\n")
        self.culprit = ""
        self.commits = []
        for i in range(1, 41):
            if i % 10 == 5:
                self._branch(i)
            else:
                self.commits.append(self.repo.commit(f"change {i}", **{f"f{i % 7}": f"{i}\n"}))
        self.bad = self.commits[-1]

    def _branch(self, i):
        self.repo.git("checkout", "-q", "-b", f"side{i}", "HEAD~2")
        for k in range(3):
            files = {"bug": "here\n"} if (i, k) == (25, 1) else {f"s{i}": f"{k}\n"}
            self.commits.append(self.repo.commit(f"side {i}.{k}", **files))
            if "bug" in files:
                self.culprit = self.commits[-1]
        self.repo.git("checkout", "-q", "main")
        self.commits.append(self.repo.merge(f"side{i}", f"Merge side{i}"))

    def has(self, commit):
        return self.culprit in self.repo.git("rev-list", commit).split()


@pytest.fixture(scope="session")
def history(tmp_path_factory):
    return History(tmp_path_factory.mktemp("history") / "repo")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
