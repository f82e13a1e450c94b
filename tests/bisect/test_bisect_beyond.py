"""Bisections beyond the plain case: fixes, merge bases, revisions made testable."""

from __future__ import annotations

import math
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from history_repo import Repo

from ktriage.bisect.drive import bisect, resume
from ktriage.bisect.log import read_log
from ktriage.bisect.nodes import span
from ktriage.bisect.replay import git_log, replay
from ktriage.bisect.types import SAID, Fix, Options, RunResult
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.words import OutcomeKind


class Tree:
    """A runner that looks at the files of a revision, with what patches add to them or delete.

    A file ``bug`` makes it crash, ``bug-5`` in half of all runs; ``broken`` keeps it from being built.
    """

    def __init__(self, repo, p=0.6, q=0.0, seed=1):
        self.repo, self.p, self.q = repo, p, q
        self.random = random.Random(seed)
        self.calls = []

    def files(self, commit, patches):
        found = set(self.repo.git("ls-tree", "-r", "--name-only", commit).split())
        for name, what in re.findall(
            r"^diff --git a/(\S+) b/\S+\n(new|deleted) file", "".join(patches), re.MULTILINE
        ):
            assert (name in found) == (what == "deleted"), "a patch that does not apply"
            found = found | {name} if what == "new" else found - {name}
        return found

    def __call__(self, commit, patches, attempt):
        self.calls.append((commit, attempt))
        files = self.files(commit, patches)
        if "broken" in files:
            return RunResult(OutcomeKind.BUILD_FAILED, build_seconds=1.0)
        rates = [1 - float("0." + name.partition("-")[2]) for name in files if name.startswith("bug-")]
        rate = 1 - math.prod(rates) if rates else self.p if "bug" in files else self.q
        crash = self.random.random() < rate
        return RunResult(OutcomeKind.CRASHED if crash else OutcomeKind.OK, 0.1)


def line(path, changes, n=40):
    """A history of n commits on one line; ``changes`` gives, by number, files to add ("+") or take away."""
    repo = Repo(path)
    commits = [repo.commit("start", f="0\n")]
    for i in range(1, n + 1):
        for change in changes.get(i, "").split():
            if change[0] == "+":
                (path / change[1:]).write_text("x\n")
            else:
                (path / change[1:]).unlink()
        commits.append(repo.commit(f"change {i}", **{f"f{i}": f"{i}\n"}))
    return repo, commits


def go(repo, runner, good, bad, log=None, jobs=1, **options):
    with ThreadPoolExecutor(jobs) as pool:
        return bisect(repo.path, good, bad, runner, pool, Options(jobs=jobs, **options), log=log)


def worktrees(repo):
    return len(repo.git("worktree", "list").splitlines())


@pytest.mark.parametrize("culprit", [14, 17, 19])
def test_the_commit_that_mended_the_build_makes_others_testable(tmp_path, culprit):
    changes = {14: "+broken", 20: "-broken"}
    changes[culprit] = changes.get(culprit, "") + " +bug"
    repo, commits = line(tmp_path / "repo", changes)
    log = tmp_path / "log"
    answer = go(repo, Tree(repo), commits[0], "main", log)
    assert answer.verdict == "culprit", answer
    assert answer.culprit == commits[culprit]
    assert answer.probability >= 0.998
    assert len(answer.fixes) == 1
    assert commits[20][:12] in answer.fixes[0]
    assert answer.verification.passed
    patched = [run for run in read_log(log).runs if run.purpose == "search" and run.patches]
    assert {run.patches for run in patched} == {(f"fix {commits[20]}",)}
    assert all(14 <= commits.index(run.commit) < 20 for run in patched)
    last = [belief for _, belief in replay(log)][-1]
    assert last.entropy == read_log(log).beliefs[-1].entropy
    assert worktrees(repo) == 1


def test_a_culprit_that_also_mends_the_build_is_told_from_what_broke_it(tmp_path):
    repo, commits = line(tmp_path / "repo", {14: "+broken", 20: "-broken +bug"})
    answer = go(repo, Tree(repo, p=0.8), commits[0], "main")
    assert answer.culprit == commits[20], answer
    assert {c.commit for c in answer.candidates} == {commits[14], commits[20]}
    unchecked = go(repo, Tree(repo, p=0.8), commits[0], "main", verify=False)
    assert unchecked.verdict == "candidates"
    assert {c.commit for c in unchecked.candidates} == {commits[14], commits[20]}
    assert unchecked.probability >= 0.998


def test_what_no_later_commit_mends_stays_one_set_with_the_reason(tmp_path):
    # The commit that takes "broken" away does not go on top of those before it moved.
    repo = Repo(tmp_path / "repo")
    commits = [repo.commit("start", f="0\n")]
    for i in range(1, 31):
        if i == 10:
            (repo.path / "broken").write_text("1\n")
        if i == 12:
            (repo.path / "bug").write_text("x\n")
        if i in (11, 12, 13):
            (repo.path / "broken").write_text(f"{i}\n" * i)
        if i == 14:
            (repo.path / "broken").unlink()
        commits.append(repo.commit(f"change {i}", **{f"f{i}": "x\n"}))
    answer = go(repo, Tree(repo, p=0.9), commits[0], "main")
    assert answer.verdict in ("candidates", "culprit")
    assert commits[12] in {c.commit for c in answer.candidates}
    without = go(repo, Tree(repo, p=0.9), commits[0], "main", mend=False)
    assert without.verdict == "candidates"
    assert {c.commit for c in without.candidates} == set(commits[10:15])


def test_a_patch_of_the_users_makes_revisions_testable(tmp_path):
    repo, commits = line(tmp_path / "repo", {14: "+broken", 17: "+bug"})
    (repo.path / "broken").unlink()
    patch = repo.git("diff", "--binary") + "\n"
    repo.git("checkout", "-q", "broken")
    fix = Fix("fix mine@1", text=patch)
    answer = go(repo, Tree(repo), commits[0], "main", fixes=(fix,))
    assert answer.culprit == commits[17], answer
    assert "fix mine@1" in answer.fixes[0]
    # For a range it is put there at once, and no run is lost.
    ranged = Fix("fix mine@1", text=patch, only=(commits[13], commits[40]))
    answer = go(repo, Tree(repo), commits[0], "main", fixes=(ranged,))
    assert answer.culprit == commits[17], answer
    assert "build-failed" not in answer.outcomes


def test_the_good_revision_is_mended_by_a_patch_but_by_no_commit_of_the_range(tmp_path):
    repo = Repo(tmp_path / "repo")
    commits = [repo.commit("start", broken="x\n")]
    for i in range(1, 31):
        if i == 9:
            repo.git("rm", "-q", "broken")
        commits.append(repo.commit(f"change {i}", **({"bug": "y\n"} if i == 20 else {f"f{i}": f"{i}\n"})))
    runner = Tree(repo)
    answer = go(repo, runner, commits[0], "main", tmp_path / "log")
    assert answer.culprit == commits[20]
    assert not [run for run in read_log(tmp_path / "log").runs if run.patches and run.commit == commits[0]]
    always = go(repo, Tree(repo), commits[0], "main", fixes=(Fix(f"fix {commits[9]}", commit=commits[9]),))
    assert always.culprit == commits[20]


def test_a_bisection_with_mended_revisions_is_resumed(tmp_path):
    repo, commits = line(tmp_path / "repo", {14: "+broken", 17: "+bug", 20: "-broken"})
    whole = tmp_path / "whole"
    answer = go(repo, Tree(repo), commits[0], "main", whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"patches":["fix' in line)
    for cut in (first + 1, first + 3, first + 6):
        log = tmp_path / f"cut{cut}"
        log.write_bytes(b"".join(lines[:cut]))
        with ThreadPoolExecutor(1) as pool:
            again = resume(log, Tree(repo, seed=cut), pool)
        assert again.culprit == answer.culprit == commits[17]
        attempts = [run.attempt for run in read_log(log).runs]
        assert len(set(attempts)) == len(attempts)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_fix_is_found(tmp_path, jobs):
    repo, commits = line(tmp_path / "repo", {3: "+bug", 25: "-bug"})
    answer = go(repo, Tree(repo, q=0.01), "main", commits[5], tmp_path / "log", jobs=jobs, find="fix")
    assert (answer.verdict, answer.kind) == ("culprit", "fix")
    assert answer.culprit == commits[25]
    assert answer.verification.reverted == "returns"
    assert answer.verification.culprit == "silent"
    log = read_log(tmp_path / "log")
    assert log.start.kind == log.end.kind == "fix"
    (tmp_path / "git").write_text("".join(line + "\n" for line in git_log(tmp_path / "log")))
    repo.git("bisect", "replay", str(tmp_path / "git"))
    said = re.findall(r"^git bisect (broken|fixed) (\w+)$", repo.git("bisect", "log"), re.MULTILINE)
    assert all((word == "fixed") == (commits.index(commit) >= 25) for word, commit in said)
    assert len(said) > 3
    repo.git("bisect", "reset")
    none = go(repo, Tree(repo), commits[20], commits[5], find="fix")
    assert (none.verdict, none.culprit) == ("not-in-range", None)
    assert "good revision crashes" in none.reason


def test_a_fix_is_not_seen_in_revisions_that_never_had_the_bug(tmp_path):
    repo = Repo(tmp_path / "repo")
    repo.commit("start", f="0\n")
    repo.git("checkout", "-q", "-b", "old")
    old = [repo.commit(f"old {i}", **{f"o{i}": "x\n"}) for i in range(8)]
    repo.git("checkout", "-q", "main")
    start = repo.commit("bug", bug="x\n")
    for i in range(6):
        repo.commit(f"before {i}", **{f"b{i}": "x\n"})
    repo.merge("old", "Merge old")
    for i in range(6):
        repo.commit(f"between {i}", **{f"c{i}": "x\n"})
    (repo.path / "bug").unlink()
    fix = repo.commit("fix", fixed="x\n")
    for i in range(6):
        repo.commit(f"after {i}", **{f"d{i}": "x\n"})
    runner = Tree(repo)
    answer = go(repo, runner, "main", start, find="fix")
    assert answer.culprit == fix
    assert not {commit for commit, _ in runner.calls} & set(old)


def parted(path, *, base="", side=""):
    """Two sides of a fork, good and bad, with the bug at its base or on a commit of bad's side."""
    repo = Repo(path)
    repo.commit("start", f="0\n", **({"bug": "x\n"} if base else {}))
    repo.git("checkout", "-q", "-b", "good")
    for i in range(5):
        if base and i == 3:
            (path / "bug").unlink()
        repo.commit(f"good {i}", **{f"g{i}": "x\n"})
    repo.git("checkout", "-q", "-b", "bad", "main")
    culprit = ""
    for i in range(9):
        culprit = repo.commit(f"bad {i}", **({"bug": "x\n"} if side and i == 5 else {f"b{i}": "x\n"}))
        if side and i == 5:
            side = culprit
    return repo, side


def test_good_need_not_be_an_ancestor_of_bad(tmp_path):
    repo, culprit = parted(tmp_path / "repo", side="yes")
    answer = go(repo, Tree(repo), "good", "bad", tmp_path / "log")
    assert answer.culprit == culprit
    assert read_log(tmp_path / "log").start.bases == (repo.git("rev-parse", "main"),)


def test_a_merge_base_that_crashes_is_said_to(tmp_path):
    repo, _ = parted(tmp_path / "repo", base="yes")
    answer = go(repo, Tree(repo), "good", "bad")
    base = repo.git("rev-parse", "main")[:12]
    assert answer.verdict == "not-in-range"
    assert f"the merge base {base} of good and bad crashes" in answer.reason
    assert f"--find fix --bad {base}" in answer.hint
    fix = go(repo, Tree(repo), "good", "bad", find="fix")
    assert fix.subject == "good 3"


@pytest.mark.parametrize("where", ["one", "two", "bad"])
def test_each_of_several_merge_bases_may_have_the_bug(tmp_path, where):
    repo = Repo(tmp_path / "repo")
    repo.commit("start", f="0\n")
    for name in ("one", "two"):
        repo.git("checkout", "-q", "-b", name, "main")
        repo.commit(name, **({name: "x\n", "bug": "x\n"} if where == name else {name: "x\n"}))
    for side in ("good", "bad"):
        repo.git("checkout", "-q", "-b", side, "one")
        repo.merge("two", f"Merge two into {side}")
    repo.git("checkout", "-q", "good")
    if where != "bad":
        (repo.path / "bug").unlink()
    repo.commit("good", goods="x\n")
    repo.git("checkout", "-q", "bad")
    commits = [
        repo.commit(f"bad {i}", **{f"b{i}": "x\n"} | ({"bug": "x\n"} if (where, i) == ("bad", 3) else {}))
        for i in range(6)
    ]
    answer = go(repo, Tree(repo, p=0.8), "good", "bad", tmp_path / "log")
    assert len(read_log(tmp_path / "log").start.bases) == 2
    if where == "bad":
        assert answer.culprit == commits[3]
    else:
        assert answer.verdict == "not-in-range", answer
        assert repo.git("rev-parse", where)[:12] in answer.reason


def test_ends_without_a_common_history(tmp_path):
    repo, commits = line(tmp_path / "repo", {}, n=3)
    repo.git("checkout", "-q", "--orphan", "other")
    other = repo.commit("other", other="x\n")
    with pytest.raises(UserError, match="no history in common"):
        span(Repository(repo.path), "cause", other, commits[3])
    with pytest.raises(UserError, match="--find fix"):
        span(Repository(repo.path), "cause", commits[3], commits[1])
    with pytest.raises(UserError, match="mixed up"):
        span(Repository(repo.path), "fix", commits[1], commits[3])


def test_an_answer_that_does_not_verify_is_not_given(tmp_path):
    # A second commit brings the same crash, so that it stays when the culprit is reverted.
    repo, commits = line(tmp_path / "repo", {14: "+bug-60", 30: "+bug-61"})
    answer = go(repo, Tree(repo), commits[0], "main")
    assert answer.verdict == "candidates"
    assert answer.culprit is None
    assert answer.verification.passed is False
    assert answer.verification.reverted == "stays"
    assert answer.several > 0.9
    assert answer.candidates[0].commit in (commits[14], commits[30])


@pytest.mark.parametrize("seed", [1, 2, 4])
def test_a_crash_that_is_rarer_without_the_culprit_has_another_one(tmp_path, seed):
    repo, commits = line(tmp_path / "repo", {10: "+bug-30", 30: "+bug-95"})
    answer = go(repo, Tree(repo, seed=seed), commits[0], "main")
    assert answer.several >= SAID, answer
    one, commits = line(tmp_path / "one", {20: "+bug"})
    assert go(one, Tree(one, seed=seed), commits[0], "main").several < SAID
