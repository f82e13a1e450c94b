"""Bisection logs that other tools wrote, read: every revision, run, title and time."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from foreign_logs import FIX, GIT, HUNG, LOCKS, WRONG, commit, lines_of, real_log, runs
from hypothesis import given, settings
from hypothesis import strategies as st

from ktriage.bisect.foreign import read_foreign
from ktriage.bisect.foreign_types import ForeignLog
from ktriage.bisect.foreign_words import go_list, go_seconds, run_result
from ktriage.errors import UserError


def read(text: str) -> ForeignLog:
    return read_foreign(text.encode(), "test.txt")


@pytest.mark.parametrize("prefix", ["002", "003"])
def test_every_run_and_title_of_a_real_log_is_counted(prefix):
    data = real_log(prefix).read_bytes()
    log = read_foreign(data)
    lines = data.decode().split("\n")
    lines = lines[: next(i for i, line in enumerate(lines) if line.startswith("crash: "))]
    numbered = [line for line in lines if line.startswith("run #")]
    assert sum(len(revision.runs or ()) for revision in log.revisions) == len(numbered)
    assert sum(r.every is not None for r in log.revisions) == sum(x.startswith("all runs:") for x in lines)
    titles = Counter(line.split("crashed: ")[1] for line in numbered if "crashed: " in line)
    read_titles: Counter[str] = Counter()
    for revision in log.revisions:
        read_titles.update({title: count for title, count in revision.titles.items() if count})
    assert read_titles == titles
    commits = [match[1] for line in lines if (match := re.match("testing commit ([0-9a-f]{40})", line))]
    assert [revision.commit for revision in log.revisions] == commits
    assert log.claimed_revisions == len(commits) == 16
    said = [line.split()[3:5] for line in lines if re.match("# git bisect (good|bad|skip)", line)]
    assert [[r.verdict, r.commit] for r in log.revisions if r.purpose == "search"] == said
    assert log.missing == ()


def test_the_log_of_2018():
    log = read_foreign(real_log("002").read_bytes())
    assert log.kind == "cause"
    assert log.start == "28619527b8a712590c93d0a9e24b4425b9376a8c"
    first = log.revisions[0]
    assert first.outcomes == {"crashed": 6, "ok": 1}
    assert first.titles == {"general protection fault in tcp_cleanup_ulp": 6}
    assert first.compiler == "gcc (GCC) 8.1.0"
    assert (first.verdict, log.revisions[1].verdict, log.revisions[1].release) == ("bad", "good", "v4.18")
    assert log.revisions[2].title == (
        "Merge tag 'drm-next-2018-08-15' of git://anongit.freedesktop.org/drm/drm"
    )
    assert log.revisions[2].to_json()["runs"] is None
    assert log.revisions[2].outcomes == {"ok": None}
    assert log.culprit is not None
    assert log.culprit.to_json() == {
        "commit": "90545cdc3f2b2ea700e24335610cd181e73756da",
        "title": "tcp, ulp: fix leftover icsk_ulp_ops preventing sock from reattach",
        "author": "Daniel Borkmann <daniel@iogearbox.net>",
    }
    assert log.culprit.files == ("net/",)
    assert log.seconds == pytest.approx((16345.077414693, 6054.238692174, 9846.259773281), abs=1e-6)
    assert log.cc == (
        *("ast@kernel.org", "daniel@iogearbox.net"),
        *("john.fastabend@gmail.com", "songliubraving@fb.com"),
    )
    assert log.to == ()


def test_the_log_of_2020():
    log = read_foreign(real_log("003").read_bytes())
    by_commit = {revision.commit[:8]: revision for revision in log.revisions}
    assert by_commit["9647c57b"].outcomes == {"ok": 8, "infra": 2}
    assert by_commit["b5aea28d"].outcomes == {"ok": 6, "infra": 4}
    assert by_commit["35149b2c"].outcomes == {"crashed": 10}
    assert by_commit["35149b2c"].titles == {
        "WARNING: refcount bug in xp_release_deferred": 1,
        "WARNING: refcount bug in __sk_destruct": 8,
        "BUG: unable to handle kernel NULL pointer dereference in xp_disable_drv_zc": 1,
    }
    skipped = by_commit["45860394"]
    assert skipped.verdict == "skip"
    assert skipped.outcomes == {"boot-failed": None}
    assert skipped.titles == {"WARNING in mem_cgroup_css_alloc": None}
    assert all(len(revision.signature or "") == 64 for revision in log.revisions)
    assert log.to == ("bjorn.topel@intel.com", "daniel@iogearbox.net", "magnus.karlsson@intel.com")
    assert log.cc == ()
    assert log.signatures == (by_commit["a1132430"].signature, by_commit["b5aea28d"].signature)
    assert log.seconds == pytest.approx((12477.81560214, 4516.294257779, 7878.429692684), abs=1e-6)


def test_the_form_of_2023_and_later():
    log = read(WRONG)
    assert [revision.purpose for revision in log.revisions] == (
        ["start", "minimize", "minimize", "release", "release", "search", "search", "search"]
    )
    start, _, _, newer, older, merge, named, parent = log.revisions
    assert start.outcomes == {"crashed": 19}
    assert start.titles == {"INFO: task hung in foo_wait": 18, "INFO: task hung in bar_wait": 1}
    assert start.compiler == "gcc (Debian 12.2.0-14) 12.2.0"
    assert (start.verdict, newer.verdict, older.verdict) == ("bad", "bad", "good")
    assert merge.outcomes == {"infra": 1, "ok": 9}
    assert merge.runs is not None
    assert merge.runs[0].note == "lost connection to test machine"
    assert (merge.left, named.left, parent.left) == (4, 2, 0)
    assert log.culprit is not None
    assert log.culprit.author == "Jörg Ö. <jo@example.org>"
    assert log.culprit.files == ("kernel/y/internal.h",)
    assert (log.error_probability, log.repro_chance, log.flaky) == (0.12, 0.2, True)
    assert log.seconds == (4 * 3600 + 22 * 60 + 12.5, 5351.25, 0.5)
    assert log.to == ("jo@example.org", "pm@example.org")
    assert log.crash == "BUG: too many lock keys!"
    assert log.report is not None
    offset, line = log.report
    assert WRONG.encode()[offset:].startswith(b"BUG: too many lock keys!\n")
    assert WRONG.split("\n")[line - 1] == "BUG: too many lock keys!"
    assert log.missing == ()


def test_a_bisection_for_a_fix():
    log = read(FIX)
    assert log.kind == "fix"
    assert log.start == commit("a")
    said = [
        (revision.commit[0], revision.purpose, revision.verdict, revision.buggy) for revision in log.revisions
    ]
    assert said == [
        ("a", "start", "good", True),
        ("b", "head", "bad", False),
        ("c", "search", "good", True),
        ("1", "merge-base", "bad", False),
        ("d", "search", "good", True),
        ("e", "search", "bad", False),
        ("f", "search", "good", True),
    ]
    assert log.revisions[4].note == "not tested: the bug was not introduced yet"
    assert log.revisions[4].to_json()["runs"] == 0
    assert log.culprit is not None
    assert log.culprit.commit == commit("e")
    assert log.crash is None


def test_errors_of_several_lines_stay_with_their_run():
    text = (
        f"bisecting cause commit starting from {commit('a')}\n"
        f"testing commit {commit('a')} with gcc (GCC) 8.1.0\n"
        'run #0: basic kernel testing failed: failed to run ["scp" "-P" "22"]: exit status 1\n'
        "Connection timed out during banner exchange\n"
        "lost connection\n\n"
        "run #1: basic kernel testing failed: possible deadlock in fs_reclaim_acquire\n"
        "run #2: crashed: no output from test machine\n"
        "run #3: boot failed: create instance: no quota\n"
        "run #4: infra problem: failed to create VM\n"
        "run #5: build failed: make: error 2\n"
        f"testing commit {commit('b')} with gcc (GCC) 8.1.0\n"
        'failed to run ["make" "bzImage"]: exit status 2\n'
        f"# git bisect skip {commit('b')}\n"
        f"testing commit {commit('c')} gcc\n"
        f"failed building {commit('c')}: kernel/foo.c:7: error\n"
        f"testing commit {commit('d')} gcc\n"
        "repro testing failure: no instances\n"
    )
    log = read(text)
    first, old, new, lost = log.revisions
    assert [str(run.outcome) for run in first.runs or ()] == (
        ["infra", "boot-failed", "hung", "infra", "infra", "build-failed"]
    )
    assert first.titles == {"possible deadlock in fs_reclaim_acquire": 1, "no output from test machine": 1}
    assert old.outcomes == {"build-failed": 1}
    assert old.note == 'failed to run ["make" "bzImage"]: exit status 2'
    assert new.note == "kernel/foo.c:7: error"
    assert lost.outcomes == {"infra": 1}


def test_an_inconclusive_bisection_names_its_suspects():
    text = (
        f"bisecting cause commit starting from {commit('a')}\n"
        + lines_of("a", "all runs: crashed: BUG: x")
        + "There are only 'skip'ped commits left to test.\nThe first bad commit could be any of:\n"
        + f"{commit('b')}\n{commit('c')}\nWe cannot bisect more!\n"
        + "revisions tested: 1, total time: 1m0s (build: 30s, test: 30s)\n"
        + "bisection is inconclusive, the first bad commit could be any of:\n"
        + f"{commit('b')}\n{commit('c')}\n"
    )
    log = read(text)
    assert log.suspects == (commit("b"), commit("c"))
    assert log.culprit is None


@pytest.mark.parametrize(
    "end",
    [
        "error: bisection is taking too long (>8h0m0s), aborting",
        "the crash already happened on the oldest tested release",
        "the crash still happens on HEAD",
        "crash still not fixed or there were kernel test errors",
        "oldest tested release already had the bug or it had kernel test errors",
    ],
)
def test_how_a_bisection_ended_is_kept(end):
    text = f"bisecting cause commit starting from {commit('a')}\n" + lines_of(
        "a", "all runs: crashed: BUG: x"
    )
    text += "revisions tested: 1, total time: 1m0s (build: 30s, test: 30s)\n" + end + "\n"
    ended = read(text).ended
    assert ended is not None
    assert end.removeprefix("error: ") == ended


def test_quoted_in_a_mail_or_with_times_it_reads_the_same():
    plain = read(WRONG)
    quoted = read("On Monday, bot wrote:\n" + "".join(f"> {x}".rstrip() + "\n" for x in WRONG.split("\n")))
    timed = read("".join(f"2024/01/02 03:04:05 {line}\n" for line in WRONG.split("\n")))
    crlf = read(WRONG.replace("\n", "\r\n"))
    for other in (quoted, timed, crlf):
        assert [r.to_json() | {"line": 0} for r in other.revisions] == (
            [r.to_json() | {"line": 0} for r in plain.revisions]
        )
        assert (other.culprit, other.to, other.seconds) == (plain.culprit, plain.to, plain.seconds)


def test_a_second_test_of_the_start_is_of_another_configuration():
    text = f"bisecting cause commit starting from {commit('a')}\n"
    text += lines_of("a", f"all runs: {HUNG}") + lines_of("a", "all runs: OK") + lines_of("b", "all runs: OK")
    assert [r.purpose for r in read(text).revisions] == ["start", "minimize", "search"]


def test_a_cut_log_gives_what_it_has():
    whole = read(WRONG)
    text = WRONG[: WRONG.index("run #5: crashed", WRONG.index("y: print later"))]
    log = read(text)
    assert len(log.revisions) == 7
    assert log.revisions[:6] == whole.revisions[:6]
    assert log.revisions[6].to_json()["runs"] == 5
    assert log.culprit is None


def test_a_log_without_its_beginning_says_so():
    log = read(WRONG[WRONG.index("run #5") :])
    assert "the log's beginning is missing" in log.missing[0]
    assert len(log.revisions) == 7


def test_what_git_prints():
    log = read(GIT)
    assert (log.tool, log.kind, log.start) == ("git", "cause", commit("a"))
    said = [(revision.commit[0], revision.verdict, revision.title) for revision in log.revisions]
    assert said == [
        ("a", "bad", "Linux 9.2"),
        ("b", "good", "Linux 9.1"),
        ("c", "good", "one"),
        ("d", "skip", "two"),
        ("e", "bad", "three"),
    ]
    assert log.culprit is not None
    assert log.culprit.to_json() == {"commit": commit("e"), "title": "three", "author": None}
    assert all(revision.to_json()["runs"] is None for revision in log.revisions)


def test_gits_replay_form_needs_no_comments():
    bare = read("".join(f"{line}\n" for line in GIT.split("\n") if line.startswith("git ")))
    assert [(r.commit, r.verdict) for r in bare.revisions] == [
        *(("v9.2", "bad"), ("v9.1", "good")),
        *((commit(x), verdict) for x, verdict in (("c", "good"), ("d", "skip"), ("e", "bad"))),
    ]


@pytest.mark.parametrize(
    "options", ["--term-new=fixed --term-old=broken", "'--term-new' 'fixed' '--term-old' 'broken'"]
)
def test_gits_own_terms(options):
    text = (
        f"git bisect start {options}\n# status: waiting for both good and bad commits\n"
        f"# fixed: [{commit('a')}] new\ngit bisect fixed {commit('a')}\n"
        f"# broken: [{commit('b')}] old\ngit bisect broken {commit('b')}\n"
        f"# first 'fixed' commit: [{commit('a')}] new\n"
    )
    log = read(text)
    assert (log.kind, log.start) == ("fix", commit("b"))
    assert [(r.commit[0], r.verdict, r.buggy) for r in log.revisions] == [
        ("a", "bad", False),
        ("b", "good", True),
    ]
    assert log.culprit is not None


@pytest.mark.parametrize(
    "data", [b"", b"hello\n", b"\x00" * 5000, b"commit " + b"a" * 40 + b"\nrun #1: OK\n"]
)
def test_what_is_no_bisection_log_is_one_clear_error(data):
    with pytest.raises(UserError, match="not a bisection log"):
        read_foreign(data, "x")


def test_small_forms():
    assert go_seconds("4h32m25.077414693s") == pytest.approx(16345.077414693, abs=1e-6)
    assert [go_seconds(x) for x in ("1m0s", "12.5µs", "0s", "", "1h,", "h")] == (
        [60.0, pytest.approx(1.25e-5), 0.0, None, None, None]
    )
    assert go_list(r'["a\"b" "c"]') == ('a"b', "c")
    assert run_result("crashed: KASAN: x in y")[1] == "KASAN: x in y"


@st.composite
def damaged(draw):
    """A log with lines lost, doubled, moved, cut or overwritten."""
    lines = draw(st.sampled_from([WRONG, FIX, GIT])).encode().split(b"\n")
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                lines[at : at + draw(st.integers(1, 20))] = [b""]
            case 1:
                lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
            case 2:
                lines[at] = lines[at][: draw(st.integers(0, 60))]
            case 3:
                lines[at] = draw(st.binary(max_size=80))
            case _:
                lines[at] = lines[at] + draw(st.binary(max_size=20))
    return b"\n".join(lines)[: draw(st.integers(0, 20_000))]


@given(st.one_of(damaged(), st.binary(max_size=300)))
@settings(max_examples=300, deadline=None)
def test_no_input_breaks_it(data):
    try:
        log = read_foreign(data, "x")
    except UserError:
        return
    object_ = log.to_json()
    assert json.loads(json.dumps(object_)) == object_
    for revision in log.revisions:
        count = revision.to_json()["runs"]
        if count is not None:
            assert sum(filter(None, revision.outcomes.values())) == count


def test_two_logs_in_one_file_are_not_mixed():
    log = read(WRONG.replace("crash: BUG", "crsh: BUG") + FIX)
    assert len(log.revisions) == 8
    assert "a second bisection begins" in log.missing[-1]


def test_doubled_runs_and_unknown_results_are_told():
    text = f"bisecting cause commit starting from {commit('a')}\n"
    text += lines_of("a", runs("OK", HUNG), "run #1: something new", f"run #2: {LOCKS}")
    log = read(text)
    assert any("is there twice" in line for line in log.missing)
    assert any("something new" in line for line in log.missing)
    assert log.revisions[0].outcomes == {"ok": 1, "crashed": 2, "infra": 1}
