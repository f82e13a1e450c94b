"""What goes out of the store, read by those whose form it is."""

from __future__ import annotations

import json
import mailbox
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from kcidb_io.schema import V5_3

from ktriage.case.formats import bundle
from ktriage.case.formats.junit import TrialCase, junit
from ktriage.case.formats.kcidb import kcidb
from ktriage.case.formats.markdown import markdown
from ktriage.case.formats.mbox import mbox
from ktriage.case.formats.syzbot import syzbot
from ktriage.case.store import open_store
from ktriage.case.store.types import BugState, FindingKind
from ktriage.cli import main
from ktriage.console import read_crashes
from ktriage.errors import UserError
from ktriage.words import OutcomeKind

COMMIT = "2c02d41d71f90a5168391b6a5f2954112ba2307c"


@pytest.fixture
def place(tmp_path, make_log) -> str:
    """A store with two bugs: one fixed and bisected, one with a hostile title."""
    store = open_store(tmp_path / "case.db")
    for number in range(3):
        log = make_log("alpha", number=number)
        store.add_log(f"log {number}", log, read_crashes(log), when=1_700_000_000.0 + number)
    (crash,) = read_crashes(make_log("beta"))
    hostile = replace(
        crash, title="<script>alert(1)</script> in `b` [x](y)", text="From me\n```\n" + "z" * 2000
    )
    store.add_log("hostile", b"x", [hostile], when=1_700_000_100.0)
    alpha = store.bugs(text="alpha")[0][0].id
    data = {"culprit": COMMIT, "subject": "net: break it", "probability": 0.9987}
    store.add_finding(FindingKind.BISECTION, "b", "found", data, bug=alpha)
    store.mark(alpha, BugState.FIXED, fixed_by=COMMIT[:12])
    store.close()
    return str(tmp_path / "case.db")


def test_kcidb_takes_it(place, capsys):
    assert main(["export", "--case", place, "--format", "kcidb", "--origin", "mylab"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert V5_3.is_compatible_exactly(report)
    V5_3.validate(report)
    assert (len(report["issues"]), len(report["tests"]), len(report["incidents"])) == (2, 4, 4)
    (alpha,) = [issue for issue in report["issues"] if "alpha" in issue["comment"]]
    assert alpha["misc"]["culprit"] == {"commit": COMMIT, "subject": "net: break it", "probability": 0.9987}
    assert {incident["issue_id"] for incident in report["incidents"]} == {i["id"] for i in report["issues"]}
    with pytest.raises(UserError, match="origin"):
        kcidb([], "My Lab")


def test_syzbots_form(place):
    store = open_store(place)
    data = syzbot(bundle(store, store.bugs(text="alpha")[0][0].id))
    assert data["version"] == 1
    assert data["first-crash"] == "2023-11-14T22:13:20Z"
    assert data["cause-commit"]["hash"] == COMMIT
    assert data["fix-commits"] == [{"hash": COMMIT[:12], "title": ""}]
    assert [crash["title"] for crash in data["crashes"]] == [data["title"]] * 3


def test_markdown_and_mbox_quote_what_is_hostile(place, tmp_path):
    store = open_store(place)
    one = bundle(store, store.bugs(text="script")[0][0].id)
    text = markdown(one)
    assert "# \\<script\\>alert(1)\\</script\\>" in text
    assert "````\nFrom me\n```\n" in text
    (tmp_path / "box").write_bytes(mbox([one, bundle(store, 1)], "me@example.org"))
    mails = list(mailbox.mbox(tmp_path / "box"))
    assert [mail["From"] for mail in mails] == ["me@example.org"] * 2
    assert "z" * 2000 in mails[0].get_payload(decode=True).decode()
    assert all(len(line) <= 998 for line in (tmp_path / "box").read_bytes().splitlines())


def test_junit_is_well_formed_whatever_the_log_says():
    trials = [
        TrialCase("0001", OutcomeKind.OK, 1.5),
        TrialCase("0002", OutcomeKind.CRASHED, 2.0, "BUG: \x00 in <x> & \ud800", "\x1b[31m\x00 text"),
        TrialCase("0003", OutcomeKind.INFRA, detail="QEMU ended"),
        TrialCase("0004", OutcomeKind.BUILD_FAILED, detail="it does not build"),
    ]
    root = ElementTree.fromstring(junit("a run", trials).encode())
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == tuple(
        "4111"
    )
    assert [len(case) for case in suite] == [0, 1, 1, 1]
    assert suite[1][0].get("message").startswith("BUG: \N{REPLACEMENT CHARACTER} in <x> &")


def test_the_commands(place, tmp_path, capsys):
    assert main(["case", "list", "--case", place, "--sort", "crashes"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] == "3"
    assert main(["case", "list", "--case", place, "--json", "ALPHA"]) == 0
    (bug,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert main(["case", "show", "--case", place, str(bug["id"])]) == 0
    assert f"`{COMMIT[:12]}` net: break it, 99.9%" in capsys.readouterr().out
    assert main(["case", "mark", "--case", place, str(bug["id"]), "invalid"]) == 0
    assert "**state**: invalid" in capsys.readouterr().out
    out = tmp_path / "all.json"
    assert main(["export", "--case", place, "-o", str(out)]) == 0
    assert {json.loads(line)["crashes"] for line in out.read_text().splitlines()} == {3, 1}
    assert main(["prune", "--case", place, "--keep", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["crashes"] == 2
    for bad in (
        ["case", "show", "--case", place, "99"],
        ["export", "--case", place, "--format", "junit"],
        ["export", "--format", "junit", str(tmp_path)],
        ["export", "--case", place, "--bug", "99"],
        ["prune", "--case", place, "--keep", "-1"],
    ):
        assert main(bad) == 2, bad
        assert capsys.readouterr().err.count("\n") == 1
