from __future__ import annotations

import subprocess

import pytest
from history_repo import Repo

from ktriage.errors import UserError
from ktriage.history.repository import Repository


def test_range_is_the_graph_parents_first(merged):
    repo, names = merged
    graph = Repository(repo.path).range(names["base"], names["c"])
    assert set(graph.commits) == set(names.values()) - {names["base"]}
    place = {commit: i for i, commit in enumerate(graph.commits)}
    parents = {commit: {graph.commits[p] for p in graph.parents(i)} for commit, i in place.items()}
    assert parents == {
        names["a"]: set(),
        names["s1"]: {names["a"]},
        names["s2"]: {names["s1"]},
        names["b"]: {names["a"]},
        names["merge"]: {names["b"], names["s2"]},
        names["c"]: {names["merge"]},
    }
    assert all(p < i for i in place.values() for p in graph.parents(i))


def test_range_of_first_parents_leaves_side_branches_out(merged):
    repo, names = merged
    graph = Repository(repo.path).range(names["base"], names["c"], first_parent=True)
    assert graph.commits == tuple(names[name] for name in ("a", "b", "merge", "c"))
    assert [graph.parents(i) for i in range(4)] == [(), (0,), (1,), (2,)]


def test_revisions_that_will_not_do(merged, tmp_path):
    repo, names = merged
    repository = Repository(repo.path)
    for unknown in ("nope", "", "--all", "main..side", "a\0b", names["base"][:8] + "^^^^^"):
        with pytest.raises(UserError, match="unknown revision"):
            repository.resolve(unknown)
    with pytest.raises(UserError, match="not an ancestor"):
        repository.range(names["s1"], names["b"])
    with pytest.raises(UserError, match="mixed up"):
        repository.range(names["c"], names["a"])
    with pytest.raises(UserError, match="same commit"):
        repository.range(names["c"], names["c"])
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="not a git repository"):
        Repository(tmp_path / "plain")
    with pytest.raises(UserError, match="no such directory"):
        Repository(tmp_path / "gone")
    with pytest.raises(UserError, match="not a directory"):
        Repository(repo.path / "f")


def test_what_a_commit_says_and_touches(merged):
    repo, names = merged
    repository = Repository(repo.path)
    commit = repository.commit(names["a"])
    assert commit.author == "Ann Author <ann@example.org>"
    assert commit.subject == "a: first"
    assert commit.body == "Body here.\n\nReviewed-by: R"
    assert commit.parents == (names["base"],)
    assert commit.date.startswith("2023-11-")
    assert repository.files(names["a"]) == ("docs/x", "f")
    assert repository.files(names["base"]) == ("f",)
    assert repository.files(names["merge"]) == ("g",)
    touched = repository.touched(names["base"], names["c"])
    assert touched[names["c"]] == ("ünïcode file",)
    assert touched[names["a"]] == ("docs/x", "f")
    assert names["merge"] not in touched
    assert "+1" in repository.diff(names["a"])
    order = (names["c"], names["a"], names["merge"])
    assert repository.subjects(order) == ("c", "a: first", "Merge side")


def test_a_subdirectory_and_a_bare_repository_will_do(merged, tmp_path):
    repo, names = merged
    assert Repository(repo.path / "docs").resolve("main") == names["c"]
    bare = tmp_path / "bare.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(repo.path), str(bare)], check=True)
    assert Repository(bare).resolve("main") == names["c"]


def test_git_variables_of_a_hook_do_not_lead_astray(merged, tmp_path, monkeypatch):
    repo, names = merged
    other = Repo(tmp_path / "other")
    other.commit("other", z="z\n")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert Repository(repo.path).resolve("main") == names["c"]
