from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ktriage.bisect.log import read_log

KTRIAGE = [sys.executable, "-m", "ktriage", "bisect"]

FLAKY = """#!/bin/bash
# Fails 6 in 10 where the bug is, 1 in 100 elsewhere.
if [ -e bug ]; then exit $((RANDOM % 10 < 6)); else exit $((RANDOM % 100 < 1)); fi
"""


@pytest.fixture
def script(tmp_path):
    def write(text, name="cmd"):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    return write


def call(*args, **kwargs):
    return subprocess.run([*KTRIAGE, *map(str, args)], capture_output=True, text=True, timeout=120, **kwargs)


def run(history, log, *args, **kwargs):
    where = ("--repo", history.repo.path, "--bad", "main", "--good", history.good, "--log", log)
    return call("run", *where, *args, **kwargs)


def worktrees(history):
    return history.repo.git("worktree", "list").splitlines()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_flaky_command_finds_the_culprit(history, script, tmp_path, jobs):
    log = tmp_path / "log"
    done = run(history, log, "--json", "--jobs", jobs, "--", script(FLAKY))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == history.culprit
    assert answer["verdict"] == "culprit"
    assert answer["probability"] >= 0.998
    assert answer["candidates"][0]["commit"] == history.culprit
    assert answer["builds"] == answer["revisions"]
    assert sum(answer["outcomes"].values()) == answer["runs"]
    assert answer["verification"]["reverted"] == "gone", "the check is made with as many jobs"
    assert len(worktrees(history)) == 1
    assert history.repo.git("status", "--porcelain") == ""


def test_the_command_knows_its_revision_and_attempt(history, script, tmp_path):
    seen = tmp_path / "seen"
    text = f'#!/bin/sh\necho $KTRIAGE_REVISION $KTRIAGE_ATTEMPT $(git rev-parse HEAD) "$@" >> {seen}\n'
    text += "test ! -e bug\n"
    done = run(history, tmp_path / "log", "--no-verify", "--", script(text), "--flag", "a b", "--", "x")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 3) for line in seen.read_text().splitlines()]
    assert all(revision == head for revision, _, head, _ in lines)
    assert {rest for *_, rest in lines} == {"--flag a b -- x"}
    assert len({attempt for _, attempt, _, _ in lines}) == len(lines)


def test_a_build_is_made_once_for_a_revision(history, script, tmp_path):
    built = tmp_path / "built"
    build = f"echo $KTRIAGE_REVISION >> {built}; cp f made; if grep -qx 31 f3; then exit 3; fi"
    text = FLAKY.replace("if [ -e bug", "[ -e made ] || exit 9\nif [ -e bug")
    done = run(history, tmp_path / "log", "--json", "--no-verify", "--build", build, "--", script(text))
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == history.culprit, done.stderr
    lines = built.read_text().splitlines()
    assert len(lines) == len(set(lines)) == answer["builds"]


def test_builds_of_two_jobs_do_not_get_in_each_others_way(history, script, tmp_path):
    built = tmp_path / "built"
    build = f"echo $KTRIAGE_REVISION >> {built}; sleep 0.02; mkdir d; echo made > d/made"
    text = '#!/bin/bash\n[ "$(cat d/made)" = made ] || exit 200\n'
    text += "mkdir busy || exit 201\nsleep 0.01\nrmdir busy\n"
    text += FLAKY.split("\n", 1)[1]
    done = run(history, tmp_path / "log", "--json", "--jobs", 3, "--build", build, "--", script(text))
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == history.culprit, done.stderr
    lines = built.read_text().splitlines()
    assert len(lines) - len(set(lines)) <= 1  # bad is built once more with the culprit reverted


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(0, "ok"), (1, "crashed"), (124, "crashed"), (125, "build-failed"), (126, "crashed"), (127, "crashed")],
)
def test_exit_codes_mean_what_they_mean_to_git(history, script, tmp_path, code, outcome):
    run(history, tmp_path / "log", "--max-runs", 1, "--", script(f"#!/bin/sh\nexit {code}\n"))
    assert [str(run.outcome) for run in read_log(tmp_path / "log").runs] == [outcome]


@pytest.mark.parametrize("end", ["exit 128", "exit 255", "kill -SEGV $$"])
def test_a_signal_stops_unless_told_otherwise(history, script, tmp_path, end):
    command = script(f"#!/bin/sh\n{end}\n")
    done = run(history, tmp_path / "stop", "--", command)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()[-1].split("--signal-is")) == 2
    run(history, tmp_path / "bad", "--max-runs", 1, "--signal-is", "bad", "--", command)
    run(history, tmp_path / "infra", "--max-runs", 1, "--signal-is", "infra", "--", command)
    assert [str(run.outcome) for run in read_log(tmp_path / "bad").runs] == ["crashed"]
    assert [str(run.outcome) for run in read_log(tmp_path / "infra").runs] == ["infra"]
    assert len(worktrees(history)) == 1


def alive(token):
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and token.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def gone(token):
    for _ in range(200):
        if not alive(token):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("meaning", "outcome"), [("bad", "crashed"), ("infra", "infra")])
def test_a_time_out_kills_all_that_was_started(history, script, tmp_path, meaning, outcome):
    token = f"9{random.randrange(10**7):07}.25"
    text = f"#!/bin/sh\n[ -e {tmp_path}/seen ] && exec ps -ef > {tmp_path}/seen\ntouch {tmp_path}/seen\n"
    command = script(text + f"setsid sleep {token} &\nsleep {token} &\nsleep {token}\n")
    log = tmp_path / "log"
    run(history, log, "--max-runs", 2, "--timeout", 0.5, "--timeout-is", meaning, "--", command)
    assert str(read_log(log).runs[0].outcome) == outcome
    assert "PID" in (tmp_path / "seen").read_text()
    assert token not in (tmp_path / "seen").read_text(), "it is still there while the next one runs"
    assert gone(token)


def killed_and_resumed(history, script, tmp_path, moment):
    """Kill a bisection after so many seconds, resume it, and return its log and answer."""
    token = f"0.0{random.randrange(10**6):06}1"
    started = tmp_path / "started"
    text = FLAKY.replace("\n# F", f"\necho $KTRIAGE_ATTEMPT >> {started}\nsetsid sleep {token} &\nwait\n# F")
    log = tmp_path / "log"
    where = ["--repo", str(history.repo.path), "--bad", "main", "--good", history.good, "--log", str(log)]
    process = subprocess.Popen(
        [*KTRIAGE, "run", *where, "--", script(text)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") > 1):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(token), "a command outlived ktriage"
    done = call("resume", log, "--json")
    assert done.returncode == 0, done.stderr
    runs = read_log(log).runs
    assert len({run.attempt for run in runs}) == len(runs)
    attempts = started.read_text().splitlines()
    assert len(set(attempts)) == len(attempts), "a run was made twice"
    assert {run.attempt for run in runs} <= set(attempts)
    assert len(worktrees(history)) == 1, "a worktree is left"
    assert gone(token)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("moment", [0.0, 0.3, 1.1])
def test_a_killed_bisection_is_resumed(history, script, tmp_path, moment):
    assert killed_and_resumed(history, script, tmp_path, moment)["culprit"] == history.culprit


def size(path):
    return path.stat().st_size if path.exists() else 0


RARE = """#!/bin/bash
# What a run comes to follows from the runs that are in the log, so that it does not depend on kills.
echo $KTRIAGE_ATTEMPT >> STARTED
setsid sleep TOKEN &
wait
n=$(grep -c "record.:.run" LOG)
h=$(echo "$KTRIAGE_REVISION $n" | cksum | cut -c1-4)
if [ -e bug ]; then exit $((10#$h % 10 < 3)); fi
exit 0
"""


@pytest.mark.matrix
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("build", [(), ("--build", "cp f made")])
def test_one_bisection_killed_at_50_random_moments(history, script, tmp_path, build):
    """Killed while it starts, chooses, runs, writes and checks; what is in the log is never made again."""
    log, started = tmp_path / "log", tmp_path / "started"
    token = f"0.0{random.randrange(10**6):06}1"
    text = RARE.replace("STARTED", str(started)).replace("TOKEN", token).replace("LOG", str(log))
    where = ["--repo", str(history.repo.path), "--bad", "main", "--good", history.good, "--log", str(log)]
    argv = [*KTRIAGE, "run", *where, *build, "--", script(text)]
    rand = random.Random(str(build))
    kills = 0
    finished: list[str] = []
    while kills < 50:
        before = size(log)
        process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        # Half of the kills come while it starts, half so many bytes of log later.
        growth = rand.choice([0, 0, 1, 300, 900])
        while growth and process.poll() is None and size(log) < before + growth:
            time.sleep(0.002)
        time.sleep(rand.random() * (0.05 if growth else 1.5))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        assert gone(token), "a command outlived ktriage"
        begun = log.exists() and b"\n" in log.read_bytes()
        runs = [run.attempt for run in read_log(log).runs] if begun else []
        assert runs[: len(finished)] == finished
        finished = runs
        if begun:
            argv = [*KTRIAGE, "resume", str(log)]
    done = call("resume", log, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == history.culprit
    runs = [run.attempt for run in read_log(log).runs]
    assert len(set(runs)) == len(runs)
    assert answer["runs"] == sum(run.purpose == "search" for run in read_log(log).runs)
    attempts = started.read_text().splitlines()
    assert len(set(attempts)) == len(attempts), "a run was made twice"
    assert len(worktrees(history)) == 1
    assert history.repo.git("status", "--porcelain") == ""
    assert gone(token)
    assert not list((tmp_path / "cache").rglob("*.lock"))
    assert kills >= 40


def test_wrong_calls_are_one_line_and_exit_code_2(history, tmp_path):
    repo, good = history.repo.path, history.good
    log = tmp_path / "log"
    log.write_text("something else\n")
    calls = {
        "unknown revision": ("run", "--repo", repo, "--bad", "nope", "--good", good, "--", "true"),
        "is an ancestor of good": ("run", "--repo", repo, "--bad", good, "--good", "main", "--", "true"),
        "not a git repository": ("run", "--repo", tmp_path, "--bad", "main", "--good", good, "--", "true"),
        "no such directory": ("run", "--repo", tmp_path / "no", "--bad", "x", "--good", good, "--", "true"),
        "no such command": ("run", "--repo", repo, "--bad", "main", "--good", good, "--", "no-such-cmd"),
        "nothing to run": ("run", "--repo", repo, "--bad", "main", "--good", good),
        "there is a log": (
            "run",
            "--repo",
            repo,
            "--bad",
            "main",
            "--good",
            good,
            "--log",
            log,
            "--",
            "true",
        ),
        "not between": (
            "run",
            "--repo",
            repo,
            "--bad",
            "a",
            "--good",
            "b",
            "--confidence",
            "2",
            "--",
            "true",
        ),
        "invalid number": ("run", "--repo", repo, "--bad", "a", "--good", "b", "--jobs", "x", "--", "true"),
        "not a line of": ("status", log),
        "No such file": ("resume", tmp_path / "no"),
        "Is a directory": ("replay", tmp_path),
        "not a commit graph": ("simulate", "--dag", log, "--p", "0.5", "--q", "0"),
        "not a probability": ("simulate", "--dag", log, "--p", "1.5", "--q", "0"),
    }
    for text, args in calls.items():
        done = call(*args)
        assert done.returncode == 2, (args, done.stderr)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert text in done.stderr


def test_no_answer_is_exit_code_1_and_status_and_git_log_tell_of_it(history, script, tmp_path):
    log = tmp_path / "log"
    done = run(history, log, "--max-runs", 12, "--", script(FLAKY))
    assert done.returncode == 1
    assert "12 runs" in done.stdout
    assert "12 runs" in call("status", log).stdout
    assert len(call("replay", log).stdout.splitlines()) == 12
    lines = call("log", "--git", log).stdout.splitlines()
    assert lines[0] == "git bisect start"
    assert f"git bisect bad {history.bad}" in lines
    assert call("resume", log).returncode == 1


def test_a_script_that_was_never_committed_is_found(history, tmp_path):
    mine = history.repo.path / "mine.sh"
    mine.write_text("#!/bin/sh\n[ ! -e bug ]\n")
    mine.chmod(0o755)
    try:
        done = run(history, tmp_path / "log", "--json", "--", "./mine.sh", cwd=history.repo.path)
    finally:
        mine.unlink()
    assert json.loads(done.stdout.splitlines()[-1])["culprit"] == history.culprit, done.stderr
    missing = run(history, tmp_path / "none", "--", "./nothing.sh", cwd=history.repo.path)
    assert missing.returncode == 1
    assert "exit code 127 each time" in missing.stdout


def test_a_term_signal_leaves_nothing_behind(history, script, tmp_path):
    token = f"8{random.randrange(10**7):07}.25"
    log = tmp_path / "log"
    where = ["--repo", str(history.repo.path), "--bad", "main", "--good", history.good, "--log", str(log)]
    argv = [*KTRIAGE, "run", *where, "--", script(f"#!/bin/sh\nsetsid sleep {token} &\nsleep {token}\n")]
    for number, sign in enumerate((signal.SIGTERM, signal.SIGKILL)):
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(alive(f"sleep\0{token}")) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(sign)
        process.wait()
        assert gone(token)
        while len(worktrees(history)) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(worktrees(history)) == 1
        argv = [*KTRIAGE, "resume", str(log)] if not number else argv


def test_fixes_and_limits_on_the_command_line(history, script, tmp_path):
    patch = tmp_path / "mend.patch"
    patch.write_text("--- a/f\n+++ b/f\n@@ -1 +1 @@\n-0\n+1\n")
    log = tmp_path / "log"
    command = script("#!/bin/sh\n[ $(cat f) = 1 ] || exit 125\n[ ! -e bug ]\n")
    done = run(history, log, "--json", "--fix", patch, "--rate", "0.9", "--no-prior", "--", command)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == history.culprit, done.stderr
    assert answer["builds"] == answer["revisions"]
    assert "mend.patch" in answer["fixes"][0]
    names = {name for record in read_log(log).runs for name in record.patches}
    assert any(name.startswith("fix mend.patch@") for name in names)
    assert call("page", log, "-o", tmp_path / "page.html").returncode == 0
    assert "mend.patch on top" in (tmp_path / "page.html").read_text()
    for wrong, text in ((patch.with_name("none"), "neither a file nor a commit"), (command, "not a patch")):
        done = run(history, tmp_path / "no", "--fix", wrong, "--", command)
        assert done.returncode == 2
        assert text in done.stderr
