"""What the page tells of a culprit: read at once, and no more of it than a page can show."""

from __future__ import annotations

import pytest

from ktriage.history.repository import Repository
from ktriage.jobs import change
from ktriage.jobs.change import read_change, read_commits


def test_a_rename_is_shown_as_one(repo):
    repo.commit("one", {"a.c": "".join(f"line {n}\n" for n in range(30))})
    repo.git("mv", "a.c", "b.c")
    culprit = repo.commit("rename", {"b.c": "".join(f"line {n}\n" for n in range(29)) + "changed\n"})
    found = read_change(Repository(repo.path), culprit, culprit)
    assert "rename from a.c\nrename to b.c\n" in found.diff
    assert found.diff.count("\n+") == 2  # the file's name and the line


def test_a_diff_that_is_too_large_is_cut_at_a_line(repo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(change, "MOST_DIFF_BYTES", 1000)
    culprit = repo.commit("large", {"a.c": "a line that is not short\n" * 10_000})
    diff = read_change(Repository(repo.path), culprit, culprit).diff
    assert len(diff) < 1100
    assert diff.endswith("+a line that is not short\n[the rest is too large to show]\n")


def test_commits_are_read_in_their_order(repo):
    hashes = [repo.commit(f"commit {n}: tab\there", {"a.c": f"{n}\n"}) for n in range(3)]
    told = read_commits(Repository(repo.path), (hashes[2], hashes[0], hashes[1]))
    assert [commit.hash for commit in told] == [hashes[2], hashes[0], hashes[1]]
    assert told[0].subject == "commit 2: tab\there"
    assert told[0].author == "A Developer <dev@example.org>"
    assert read_commits(Repository(repo.path), ()) == []
