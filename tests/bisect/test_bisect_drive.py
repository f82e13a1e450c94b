from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ktriage.bisect.drive import bisect, resume
from ktriage.bisect.log import read_log
from ktriage.bisect.replay import git_log, replay
from ktriage.bisect.types import Options, RunResult
from ktriage.errors import MachineryError, UserError
from ktriage.words import OutcomeKind

OK, CRASHED = RunResult(OutcomeKind.OK, 0.1), RunResult(OutcomeKind.CRASHED, 0.1, title="WARNING in f")


class Lab:
    """A runner that knows the history: crashes with p where the culprit is, with q elsewhere."""

    def __init__(self, history, p=0.6, q=0.01, seed=1, special=None):
        self.history, self.p, self.q = history, p, q
        self.random = random.Random(seed)
        self.special = special or (lambda *_: None)
        self.has = {commit: history.has(commit) for commit in [history.good, *history.commits]}
        self.attempts = []
        self.most = self.now = 0
        self.lock = threading.Lock()

    def __call__(self, commit, patches, attempt):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.attempts.append(attempt)
            result = self.special(commit, patches)
            crash = self.random.random() < (self.p if self.has[commit] and not patches else self.q)
        time.sleep(self.random.random() / 1000)
        with self.lock:
            self.now -= 1
        return result or (CRASHED if crash else OK)


def go(history, lab, *, log=None, jobs=1, **options):
    with ThreadPoolExecutor(jobs) as pool:
        return bisect(
            history.repo.path, history.good, "main", lab, pool, Options(jobs=jobs, **options), log=log
        )


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_culprit_on_a_side_branch_is_found(history, tmp_path, jobs, seed):
    lab = Lab(history, seed=seed)
    answer = go(history, lab, log=tmp_path / "log", jobs=jobs)
    assert answer.verdict == "culprit"
    assert answer.culprit == history.culprit
    assert answer.probability >= 0.998
    assert answer.subject == "side 25.1"
    assert answer.files == ("bug",)
    assert answer.verification.passed
    assert answer.verification.reverted == "gone"
    assert (
        answer.runs + answer.verification.runs
        <= len(lab.attempts)
        <= answer.runs + answer.verification.runs + jobs
    )
    assert len(set(lab.attempts)) == len(lab.attempts)
    assert lab.most <= jobs
    assert sum(answer.outcomes.values()) == answer.runs
    log = read_log(tmp_path / "log")
    assert log.end.culprit == history.culprit
    assert log.start.commits[-1] == history.bad
    assert len(log.beliefs[-1].mass) == log.start.candidates == len(log.start.parents)
    assert sum(log.beliefs[-1].mass) + log.beliefs[-1].outside == pytest.approx(1, abs=1e-3)


def test_same_log_same_belief_and_gits_log_agrees(history, tmp_path):
    go(history, Lab(history), log=tmp_path / "log")
    log = read_log(tmp_path / "log")
    again = [belief for _, belief in replay(tmp_path / "log")]
    assert [b.top[0].commit for b in again] == [b.top[0].commit for b in log.beliefs[1:]]
    assert [b.entropy for b in again] == [b.entropy for b in log.beliefs[1:]]
    lines = list(git_log(tmp_path / "log"))
    for line in lines:
        word, _, commit = line.removeprefix("git bisect ").partition(" ")
        if line.startswith("git bisect") and word in ("good", "bad"):
            assert history.has(commit) == (word == "bad")


def test_revisions_that_can_not_be_tested_are_walked_around(history):
    broken = {commit for commit in history.commits if commit != history.culprit}
    broken = set(random.Random(5).sample(sorted(broken), 8)) - {history.bad}
    parent = history.repo.git("rev-parse", history.culprit + "^")
    broken.discard(parent)

    def special(commit, _patches):
        return RunResult(OutcomeKind.BUILD_FAILED, build_seconds=1.0) if commit in broken else None

    answer = go(history, Lab(history, p=0.8, special=special))
    assert answer.culprit == history.culprit
    assert set(answer.untestable) <= broken


def test_untestable_neighbours_of_the_culprit_come_as_one_set(history):
    parent = history.repo.git("rev-parse", history.culprit + "^")
    broken = {history.culprit, parent}

    def special(commit, _patches):
        return RunResult(OutcomeKind.BOOT_FAILED) if commit in broken else None

    answer = go(history, Lab(history, p=0.9, q=0, special=special))
    assert answer.verdict == "candidates"
    assert answer.culprit is None
    named = {candidate.commit for candidate in answer.candidates}
    assert history.culprit in named
    assert len(named) <= 4
    assert answer.probability >= 0.998
    assert "tells these" in answer.reason


def test_other_titles_do_not_lead_astray(history):
    rand = random.Random(3)
    early = set(history.commits[5:15])

    def special(commit, _patches):
        if commit in early and rand.random() < 0.5:
            return RunResult(OutcomeKind.OTHER_CRASH, 0.1, title="BUG: unrelated", frames=("x", "y"))
        return None

    answer = go(history, Lab(history, special=special))
    assert answer.culprit == history.culprit
    assert answer.titles.get("BUG: unrelated", 0) < 0.5


def test_equal_signatures_rule_commits_out(history):
    # Everything from the culprit's merge on is one binary, everything before it another.
    def special(commit, _patches):
        crash = lab.random.random() < (0.6 if lab.has[commit] else 0.0)
        kind = OutcomeKind.CRASHED if crash else OutcomeKind.OK
        return RunResult(kind, 0.1, signature="new" if lab.has[commit] else "old")

    lab = Lab(history)
    lab.special = special
    signed = go(history, lab, verify=False)
    assert signed.culprit == history.culprit
    assert signed.runs <= 40


def test_a_crash_outside_of_the_range_is_said_to_be(history):
    always = go(history, Lab(history, special=lambda *_: CRASHED))
    assert (always.verdict, always.culprit) == ("not-in-range", None)
    never = go(history, Lab(history, p=0, q=0), max_runs=50)
    assert (never.verdict, never.culprit) == ("inconclusive", None)
    assert never.runs == 50


def test_limits_end_the_search_with_what_is_known(history):
    answer = go(history, Lab(history), max_runs=15)
    assert answer.verdict == "candidates"
    assert answer.runs == 15
    assert "15 runs" in answer.reason
    quick = go(history, Lab(history), max_seconds=1e-6)
    assert quick.verdict == "inconclusive"
    assert quick.runs == 0


def test_infrastructure_failures_say_nothing_and_are_tried_again(history):
    rand = random.Random(4)

    def special(_commit, _patches):
        if rand.random() < 0.3:
            raise MachineryError("the disk is full")
        return

    answer = go(history, Lab(history, special=special))
    assert answer.culprit == history.culprit
    assert answer.outcomes["infra"] > 3


def test_a_machine_that_always_fails_ends_it_with_the_reason(history, tmp_path):
    def special(_commit, _patches):
        raise MachineryError("the disk is full")

    with pytest.raises(MachineryError, match="the disk is full"):
        go(history, Lab(history, special=special), log=tmp_path / "log")
    with ThreadPoolExecutor(1) as pool:
        answer = resume(tmp_path / "log", Lab(history), pool)
    assert answer.culprit == history.culprit


def test_what_the_user_got_wrong_ends_it(history):
    def special(_commit, _patches):
        raise UserError("no such key")

    with pytest.raises(UserError, match="no such key"):
        go(history, Lab(history, special=special))


def test_runs_that_do_not_look_at_the_worktree_can_not_be_checked_by_reverting(history):
    def special(commit, _patches):
        return CRASHED if lab.has[commit] and lab.random.random() < 0.9 else OK

    lab = Lab(history)
    lab.special = special
    answer = go(history, lab)
    assert answer.culprit == history.culprit
    assert (answer.verification.reverted, answer.verification.parent) == ("unseen", "ok")


class Killed(BaseException):
    """Stands for whatever ends the process."""


@pytest.mark.parametrize("jobs", [1, 3])
def test_resuming_repeats_no_finished_run(history, tmp_path, jobs):
    log = tmp_path / "log"
    lab = Lab(history, seed=8)
    countdown = iter(range(6, 1000))

    class Bomb:
        left = 6

        def finished(self, _run):
            self.left -= 1
            if self.left == 0:
                raise Killed

        def started(self, start): ...
        def chosen(self, chosen): ...
        def believed(self, belief): ...
        def ended(self, answer): ...

    answer = None
    starts = 0
    with ThreadPoolExecutor(jobs) as pool:
        while answer is None:
            starts += 1
            bomb = Bomb()
            bomb.left = next(countdown)
            try:
                if starts == 1:
                    answer = bisect(
                        history.repo.path, history.good, "main", lab, pool, Options(jobs=jobs), log, bomb
                    )
                else:
                    answer = resume(log, lab, pool, bomb)
            except Killed:
                continue
    assert answer.culprit == history.culprit
    assert starts > 2
    runs = read_log(log).runs
    attempts = [run.attempt for run in runs]
    assert len(set(attempts)) == len(attempts)
    assert answer.runs == sum(run.purpose == "search" for run in runs)
    assert resume(log, lab, pool).culprit == answer.culprit
