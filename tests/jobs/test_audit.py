"""``ktriage bisect audit``: from a log to its object, its page and its exit code."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "bisect"))

from foreign_logs import FIX, GIT, HUNG, WRONG, Bisected, real_log

from ktriage.case.audit_page import render_audit_page
from ktriage.cli import main
from ktriage.console import read_crashes
from ktriage.errors import UserError
from ktriage.jobs.audit import audit

KEYS = [
    *("kind", "start", "revisions", "culprit", "claimed_revisions", "seconds", "recipients"),
    *("crash", "posterior", "doubts"),
]


def audited(capsys, *arguments):
    assert main(["bisect", "audit", "--json", *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_the_object_of_the_log_of_2018(capsys):
    found = audited(capsys, real_log("002"))
    assert set(KEYS) <= set(found)
    assert found["kind"] == "cause"
    assert len(found["revisions"]) == found["claimed_revisions"] == 16
    assert found["revisions"][4]["outcomes"] == {"crashed": 6, "ok": 1}
    assert found["revisions"][5]["runs"] is None
    assert found["revisions"][5]["outcomes"] == {"crashed": None}
    assert found["seconds"]["total"] == pytest.approx(16345.077414693)
    assert found["recipients"] == {
        "to": [],
        "cc": [
            *("ast@kernel.org", "daniel@iogearbox.net"),
            *("john.fastabend@gmail.com", "songliubraving@fb.com"),
        ],
    }
    crash = found["crash"]
    assert (crash["title"], crash["frame"]) == (
        "general protection fault in tcp_cleanup_ulp",
        "tcp_cleanup_ulp",
    )
    data = real_log("002").read_bytes()
    assert data[crash["start"] :].startswith(b"general protection fault: 0000 [#1]")
    assert data.split(b"\n")[crash["line"] - 1].startswith(b"general protection fault: 0000 [#1]")
    assert found["posterior"]["claimed"] > 0.999
    assert found["posterior"]["assumed"] == 7
    kinds = {doubt["kind"]: doubt for doubt in found["doubts"]}
    assert kinds["run-number"]["evidence"]["run"] == 6
    assert "elsewhere" not in kinds


def test_the_object_of_the_log_of_2020(capsys):
    found = audited(capsys, real_log("003"))
    assert found["culprit"]["author"] == "Magnus Karlsson <magnus.karlsson@intel.com>"
    assert found["crash"]["title"] == "WARNING: refcount bug in __sk_destruct"
    kinds = [doubt["kind"] for doubt in found["doubts"]]
    assert kinds.count("infra") == 2
    assert kinds.count("other-title") == 2
    assert {"elsewhere", "skipped"} <= set(kinds)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("gz", gzip.compress),
        ("xz", lzma.compress),
        ("bz2", bz2.compress),
        ("zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_compressed_logs_are_read_as_they_are(capsys, tmp_path, suffix, pack):
    plain, packed = tmp_path / "log.txt", tmp_path / f"log.{suffix}"
    plain.write_text(WRONG)
    packed.write_bytes(pack(WRONG.encode()))
    assert audited(capsys, packed)["revisions"] == audited(capsys, plain)["revisions"]


def test_damaged_compressed_data_gives_what_could_be_read(tmp_path):
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(WRONG.encode() * 40)[:-200])
    found = audit(str(packed))
    assert len(found.log.revisions) == 8
    assert any("cut short" in line for line in found.log.missing)


def run(*arguments, stdin=b""):
    return subprocess.run(
        [sys.executable, "-m", "ktriage", "bisect", "audit", *arguments], input=stdin, capture_output=True
    )


def test_from_standard_input_and_for_people():
    done = run("-", stdin=WRONG.encode())
    assert done.returncode == 0
    shown = done.stdout.decode()
    assert "y: print later" in shown
    assert "strong" in shown
    assert "!.!......." in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("stdin", [b"", b"no log\n", b"\xff\xfe" * 1000])
def test_no_bisection_log_is_one_line_and_exit_code_2(stdin):
    done = run("-", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"standard input: not a bisection log" in done.stderr


def test_missing_files_and_repositories(tmp_path, capsys):
    assert main(["bisect", "audit", str(tmp_path / "none")]) == 2
    log = tmp_path / "log"
    log.write_text(GIT)
    assert main(["bisect", "audit", "--repo", str(tmp_path), str(log)]) == 2
    assert "not a git repository" in capsys.readouterr().err


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    made = Bisected(tmp_path_factory.mktemp("audit") / "repo")
    made.grow(6)
    made.merge(3)
    made.grow(6)
    return made


def test_with_a_repository_the_commits_are_weighed(history, tmp_path, capsys):
    culprit = history.commits[8]
    log = tmp_path / "log"
    log.write_text(history.log(culprit, [HUNG] * 5, ["OK"] * 5))
    found = audited(capsys, "--repo", history.path, log)
    assert found["posterior"]["model"] == "graph"
    assert found["posterior"]["candidates"][0]["commit"] == culprit
    assert found["posterior"]["candidates"][0]["title"] == "change 8"
    assert found["culprit"]["author"] == "A Developer <dev@example.org>"
    assert all(revision["title"] for revision in found["revisions"])


def test_a_repository_that_lacks_the_commits_is_told(history, tmp_path, capsys):
    log = tmp_path / "log"
    log.write_text(WRONG)
    found = audited(capsys, "--repo", history.path, log)
    assert found["posterior"]["model"] == "chain"
    assert any("unknown revision" in doubt["text"] for doubt in found["doubts"])


@pytest.mark.parametrize("text", [WRONG, FIX, GIT])
def test_the_page_stands_alone(text, tmp_path):
    log, page = tmp_path / "log", tmp_path / "page.html"
    log.write_text(text)
    assert main(["bisect", "audit", "--page", str(page), str(log)]) == 0
    html = page.read_text()
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert "http" not in html.split("</style>")[1].replace("http-equiv", "")


def test_what_a_log_says_is_escaped(tmp_path):
    log = tmp_path / "log"
    log.write_text(WRONG.replace("y: print later", "<script>alert(1)</script>\x1b[31m"))
    html = render_audit_page(audit(str(log)))
    assert "<script" not in html
    assert "\x1b" not in html
    done = run(str(log))
    assert b"\x1b" not in done.stdout


def test_a_report_under_another_title_is_still_the_crash(tmp_path):
    log = tmp_path / "log"
    report = (
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000038\nRIP: 0010:foo+0x3/0x9\n"
    )
    log.write_text(WRONG.split("\ncrash: BUG")[0] + "\ncrash: something else\n" + report)
    found = audit(str(log))
    assert found.crash is not None
    assert found.crash.title == read_crashes(report.encode())[0].title
    assert log.read_bytes()[found.crash.start :].startswith(b"BUG: unable")


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_log_breaks_the_judgement(tmp_path, data):
    lines = data.draw(st.sampled_from([WRONG, FIX, GIT])).split("\n")
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(lines) - 1))
        if data.draw(st.booleans()):
            lines[at : at + data.draw(st.integers(1, 15))] = []
            lines = lines or [""]
        else:
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[at], lines[other] = lines[other], lines[at]
    log = tmp_path / "log"
    log.write_text("\n".join(lines))
    try:
        found = audit(str(log))
    except UserError:
        return
    json.dumps(found.to_json())
    assert render_audit_page(found)
    belief = found.judgement.belief
    if belief is not None:
        total = sum(s.probability for s in belief.stretches) + belief.already + belief.nowhere
        assert total <= 1 + 1e-9
        assert belief.claimed is None or 0 <= belief.claimed <= 1
