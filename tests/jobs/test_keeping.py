"""What commands find, kept in a store on request."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ktriage.case.findings import show
from ktriage.case.store import Store, open_store
from ktriage.case.store.types import FindingKind
from ktriage.cli import main
from ktriage.console import read_crashes
from ktriage.jobs.keeping import keep_log, keep_minimized
from ktriage.jobs.minimize import Minimized

TRACES = Path(__file__).parents[1] / "fixtures" / "refs"
OOPS = """[    1.000000] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:alpha+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  caller+0x1be/0x22c
"""


@pytest.fixture
def place(tmp_path) -> str:
    return str(tmp_path / "case.db")


def kept(place: str) -> Store:
    return open_store(place)


def test_a_report(place, tmp_path, capsys):
    (tmp_path / "log").write_text(OOPS)
    assert main(["report", "--case", place, "--json", str(tmp_path / "log")]) == 0
    assert json.loads(capsys.readouterr().out)["frame"] == "alpha"
    assert [bug.title[-5:] for bug in kept(place).bugs()[0]] == ["alpha"]
    assert main(["report", "--case", place, "--first", str(tmp_path / "log")]) == 2


def test_a_bisection(place, tmp_path, capsys):
    repo = tmp_path / "repo"
    git = ["git", "-C", str(repo), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", repo], check=True)
    for number in range(12):
        (repo / "state").write_text(f"{number} {'bad' if number >= 7 else 'good'}\n")
        subprocess.run([*git, "add", "state"], check=True)
        subprocess.run([*git, "commit", "-qm", f"change {number}"], check=True)
    command = ["bisect", "run", "--repo", str(repo), "--good", "HEAD~11", "--bad", "HEAD", "--case", place,
               "--log", str(tmp_path / "b.jsonl"), "--", "grep", "-q", "good", "state"]  # fmt: skip
    assert main(command) == 0
    capsys.readouterr()
    (finding,) = kept(place).findings(kind=FindingKind.BISECTION)
    assert (finding.data["verdict"], finding.data["subject"]) == ("culprit", "change 7")
    assert "change 7" in finding.summary
    document = json.loads(kept(place).blob(finding.blob) or b"")
    assert document["log"] == (tmp_path / "b.jsonl").read_text()
    assert document["change"]["subject"] == "change 7"
    assert "+7 bad" in document["change"]["diff"]


def test_a_ledger(place, capsys):
    trace = TRACES / "forgotten-put.txt.zst"
    assert main(["refs", "read", "--case", place, str(trace)]) == 0
    capsys.readouterr()
    (finding,) = kept(place).findings(kind=FindingKind.LEDGER)
    assert "forgetful" in finding.summary
    ledger = json.loads(kept(place).blob(finding.blob) or b"")
    assert [one["object"] for one in ledger["accounts"]] == finding.data["objects"]
    assert all(least <= last <= most for _, least, most, last in ledger["accounts"][0]["series"])


def test_a_store_that_is_none_is_said_before_it_matters(tmp_path, capsys):
    (tmp_path / "log").write_text(OOPS)
    assert main(["report", "--case", str(tmp_path), str(tmp_path / "log")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


SYMBOLIZED = OOPS.replace("alpha+0x9/0x20", "alpha+0x9/0x20 lib/alpha.c:3")


def test_a_report_with_source_lines(place, tmp_path, capsys):
    tree = tmp_path / "tree" / "lib"
    tree.mkdir(parents=True)
    (tree / "alpha.c").write_text("int alpha(int *p)\n{\n\treturn *p;\n}\n")
    (tmp_path / "log").write_text(SYMBOLIZED)
    assert main(["report", "--case", place, "--src", str(tree.parent), str(tmp_path / "log")]) == 0
    capsys.readouterr()
    (finding,) = kept(place).findings(kind=FindingKind.SOURCE)
    document = json.loads(kept(place).blob(finding.blob) or b"")
    assert (document["kernel"], finding.bug) == ("6.1.0", 1)
    (frame,) = document["frames"]
    assert (frame["file"], frame["line"]) == ("lib/alpha.c", 3)
    assert frame["lines"][2] == [3, "        return *p;"]


def test_a_known_log_that_is_read_better(place):
    data = OOPS.encode()
    plain = read_crashes(data)
    keep_log(place, "log", data, plain)
    frames = tuple(replace(frame, file="lib/alpha.c", line=3) for frame in plain[0].stack)
    keep_log(place, "log", data, [replace(plain[0], stack=frames)])
    keep_log(place, "log", data, plain)  # tells less: nothing changes
    (entry,) = kept(place).crashes(1)
    report = json.loads(kept(place).blob(entry.report or "") or b"")
    assert [frame["line"] for frame in report["stack"]] == [3] * len(frames)
    assert kept(place).bug(1).crashes == 1


def test_what_has_no_title_is_said_whose_it_is(place, tmp_path, capsys):
    (tmp_path / "log").write_text(OOPS)
    assert main(["report", "--case", place, str(tmp_path / "log")]) == 0
    trace = str(TRACES / "forgotten-put.txt.zst")
    assert main(["refs", "read", "--case", place, "--bug", "7", trace]) == 2
    assert "there is no bug 7" in capsys.readouterr().err
    assert main(["refs", "read", "--case", place, "--bug", "1", trace]) == 0
    capsys.readouterr()
    assert [finding.bug for finding in kept(place).findings(kind=FindingKind.LEDGER)] == [1]


def test_a_shorter_reproducer(place, tmp_path):
    short = tmp_path / "storm.min.c"
    short.write_text("int main(void) { return 0; }\n")
    found = Minimized(
        str(tmp_path / "storm.c"), str(short), (302, 1), 40, 12, 3,
        0.9, (0.7, 0.99), 0.8, (0.6, 0.95), 60.0, True,
    )  # fmt: skip
    keep_log(place, "log", OOPS.encode(), read_crashes(OOPS.encode()))
    title = kept(place).bug(1).title
    keep_minimized(place, tmp_path / "ktriage.toml", found, title)
    (finding,) = kept(place).findings(1, FindingKind.REPRODUCER)
    assert finding.summary == "storm.min.c: 1 lines of 302"
    assert kept(place).blob(finding.blob) == short.read_bytes()


def test_a_culprit_with_bytes_that_are_no_utf8(place, tmp_path, capsys):
    repo = tmp_path / "repo"
    git = ["git", "-C", str(repo), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", repo], check=True)
    for number in range(4):
        (repo / "state").write_bytes(b"%d %s M\xfcller\n" % (number, b"bad" if number >= 2 else b"good"))
        subprocess.run([*git, "add", "state"], check=True)
        subprocess.run([*git, "commit", "-qm", f"change {number}"], check=True)
    command = ["bisect", "run", "--repo", str(repo), "--good", "HEAD~3", "--bad", "HEAD", "--case", place,
               "--log", str(tmp_path / "b.jsonl"), "--", "grep", "-aq", "good", "state"]  # fmt: skip
    assert main(command) == 0
    capsys.readouterr()
    (finding,) = kept(place).findings(kind=FindingKind.BISECTION)
    shown = show(finding, kept(place).blob)
    assert "+2 bad M?ller" in shown.document.change.diff
