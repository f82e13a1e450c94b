"""The main job, end to end, as a person runs it: real kernels die, and the commit that did it is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ktriage.bisect.log import read_log

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
KTRIAGE = [sys.executable, "-m", "ktriage"]


def processes_below(place: Path) -> list[str]:
    """Return the command names of processes that have a file below ``place`` open, or stand in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [process / "cwd", *(process / "fd").iterdir()]
            if process.name != str(os.getpid()) and any(
                str(link.readlink()).startswith(str(place)) for link in links
            ):
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue
    return found


def test_the_demo_finds_the_planted_commit(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run([*KTRIAGE, "demo", "--json", "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["right"]
    assert answer["verdict"] == "culprit"
    assert answer["probability"] >= 0.998
    assert answer["runs"] == sum(answer["outcomes"].values())
    page = (out / "index.html").read_text()
    assert "WARNING in module_put" in page
    assert answer["culprit"][:12] in page
    assert "tcp_cleanup_ulp" in page
    assert "https://" not in page.replace("https://lore.kernel.org", "")
    mail = (out / "mail.eml").read_text()
    assert "Subject: [bisected] WARNING in module_put" in mail
    core = out / "trials" / "culprit" / "vmcore"
    assert core.read_bytes()[:4] == b"\x7fELF"
    # Again into the same folder, as a person does, is no error; into somebody else's, it is.
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    done = subprocess.run([*KTRIAGE, "demo", "--out", str(foreign)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds something that no demo made" in done.stderr


def git(repo: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", repo, *arguments], capture_output=True, check=True).stdout


def test_a_killed_bisection_goes_on_where_it_was(example, tmp_path: Path) -> None:
    head = git(example.repo, "status", "-b", "-s")
    log = tmp_path / "bisection.jsonl"
    command = example.bisect(log, "--jobs", "2", "--json")
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and first.poll() is None:
            if log.exists() and log.read_bytes().count(b'"run"') >= 6:
                break
            time.sleep(0.1)
        assert first.poll() is None, first.communicate()
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    deadline = time.monotonic() + 10
    while "qemu-system-x86" in " ".join(processes_below(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_below(tmp_path) == []
    before = [run.attempt for run in read_log(log).runs]
    assert len(before) >= 6

    done = subprocess.run(
        [*KTRIAGE, "bisect", "resume", str(log), "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == example.culprit
    assert answer["probability"] >= 0.998
    attempts = [run.attempt for run in read_log(log).runs]
    assert attempts[: len(before)] == before
    assert len(set(attempts)) == len(attempts)
    assert git(example.repo, "status", "-b", "-s") == head
    assert git(example.repo, "worktree", "list").count(b"\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--bad", "nothing"], "unknown revision 'nothing'"),
        (["--good", "v0.3", "--bad", "v0.1"], "is an ancestor of good"),
        (["--repo", "/nonexistent"], "no such directory"),
        (["--spec", "/nonexistent.toml"], "No such file or directory"),
        (["--spec", "/"], "Is a directory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    example, tmp_path: Path, change: list[str], message: str
) -> None:
    command = example.bisect(tmp_path / "log.jsonl", *change)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "log.jsonl").exists()


def test_without_qemu(tmp_path: Path) -> None:
    environment = {**os.environ, "KTRIAGE_QEMU": "/nonexistent"}
    done = subprocess.run(
        [*KTRIAGE, "demo", "--out", str(tmp_path / "demo")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "ktriage demo: /nonexistent is no QEMU (apt-get install qemu-system-x86)"
    )
