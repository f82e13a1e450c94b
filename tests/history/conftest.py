from __future__ import annotations

import pytest
from history_repo import Repo


@pytest.fixture
def repo(tmp_path):
    return Repo(tmp_path / "repo")


@pytest.fixture
def merged(repo):
    """A history with a side branch: base - a - b - merge - c, with s1 - s2 off a. Returns names to hashes."""
    names = {"base": repo.commit("base", f="0\n")}
    names["a"] = repo.commit("a: first\n\nBody here.\n\nReviewed-by: R", f="1\n", docs__x="x\n")
    repo.git("checkout", "-q", "-b", "side")
    names["s1"] = repo.commit("s1", g="1\n")
    names["s2"] = repo.commit("s2", g="2\n")
    repo.git("checkout", "-q", "main")
    names["b"] = repo.commit("b", h="1\n")
    names["merge"] = repo.merge("side", "Merge side")
    names["c"] = repo.commit("c", **{"ünïcode file": "1\n"})
    return repo, names
