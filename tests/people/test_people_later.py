from __future__ import annotations

from pathlib import Path

from ktriage.history.repository import Repository
from ktriage.people.later import MOST_FILES, later_commits, touched_since


def test_reverts_fixes_and_mentions_on_any_branch(repo):
    repo.commit("base", {"a.c": "0\n", "b.c": "0\n"})
    culprit = repo.commit("a.c: break it", {"a.c": "1\n"})
    repo.commit("unrelated", {"b.c": "1\n"})
    mention = repo.commit(f"b.c: as in {culprit[:12]}", {"b.c": "2\n"})
    fix = repo.commit(f'a.c: mend it\n\nFixes: {culprit[:12]} ("a.c: break it")', {"a.c": "2\n"})
    repo.git("checkout", "-q", "-b", "stable", culprit)
    repo.git("revert", "--no-edit", culprit)
    revert = repo.git("rev-parse", "HEAD")
    found = later_commits(Repository(repo.path), culprit)
    assert [(later.how, later.commit) for later in found] == [
        ("reverts", revert),
        ("fixes", fix),
        ("mentions", mention),
    ]
    assert found[1].author == "A Developer"


def test_what_came_before_and_look_alikes_do_not_count(repo):
    first = repo.commit("first", {"a.c": "0\n"})
    # Eight digits agree, the rest does not.
    repo.commit(f"fix\n\nFixes: {first[:8]}{'f' * 32} (x)", {"a.c": "1\n"})
    last = repo.commit(f"last mentions {first}", {"a.c": "2\n"})
    assert later_commits(Repository(repo.path), last) == []
    assert [later.how for later in later_commits(Repository(repo.path), first)] == ["mentions"]


def test_who_touched_the_files_since(repo):
    culprit = repo.commit("one", {"a.c": "0\n", "x[1].c": "0\n"})
    repo.commit("elsewhere", {"b.c": "0\n"})
    repo.commit("again", {"x[1].c": "1\n"})
    tip = repo.commit("and again", {"a.c": "1\n"})
    since = touched_since(Repository(Path(repo.path)), culprit, tip)
    assert (since.commits, since.authors) == (2, ("A Developer",))
    assert touched_since(Repository(repo.path), tip, tip).commits == 0


def test_nobody_looks_after_an_import(repo):
    culprit = repo.commit("import", {f"dir/file{n}.c": "0\n" for n in range(MOST_FILES + 1)})
    tip = repo.commit("one", {"dir/file1.c": "1\n"})
    assert touched_since(Repository(repo.path), culprit, tip) is None
