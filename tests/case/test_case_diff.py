from __future__ import annotations

import doctest

from case_sample import DIFF, sample_case, sample_crash
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ktriage.case import text
from ktriage.case.diff import cut_diff, mark_diff, reference_pattern
from ktriage.case.modules import compare_modules, modules_note
from ktriage.case.terminal import render_terminal
from ktriage.console.types import Frame


def test_words_of_numbers():
    assert doctest.testmod(text).failed == 0


def test_marks_the_line_on_the_stack_and_those_that_count():
    lines = mark_diff(DIFF, sample_crash().stack)
    assert [(line.text.strip(), line.mark) for line in lines if line.mark] == [
        ("ulp_main.c", "has ulp_recvmsg, on the crash's stack"),
        ("__module_get(THIS_MODULE);", "no longer __module_get()"),
        ("module_put(THIS_MODULE);", "no longer module_put()"),
        ("__module_get(THIS_MODULE);", "now __module_get()"),
        ("return tcp_prot.recvmsg(sk, msg, len);", "on the crash's stack: ulp_recvmsg"),
    ]
    assert [line.new for line in lines if line.mark][-1] == 109


def test_marks_a_hunk_in_a_function_of_the_stack():
    (hunk,) = [line for line in mark_diff(DIFF, [Frame("ulp_clone", 1, 2)]) if line.kind == "hunk"]
    assert hunk.mark == "in ulp_clone, on the crash's stack"
    assert not any(line.mark for line in mark_diff(DIFF, [Frame("ulp_clo", 1, 2)]))


def test_another_file_of_the_same_line_is_not_marked():
    assert not any(line.mark for line in mark_diff(DIFF, [Frame("f", file="other/main.c", line=109)]))


def test_removed_lines_that_look_like_headers_stay_removed():
    diff = "--- a/x\n+++ b/x\n@@ -1,2 +1 @@\n--- a/y\n same\n"
    kinds = [(line.kind, line.text) for line in mark_diff(diff, [])]
    assert kinds == [("hunk", "@@ -1,2 +1 @@"), ("del", "-- a/y"), ("same", "same")]


def test_what_is_no_diff_is_kept_as_it_is():
    assert [line.kind for line in mark_diff("Binary files differ\n", [])] == ["meta"]


def test_module_counts_compared():
    before = "a 1 2 b,c, Live 0x0\nb 1 0 - Live 0x0\nsame 1 1 - Live 0x0\n"
    after = "a 1 -1 c, Live 0x0 (O)\nsame 1 1 - Live 0x0\nnew 5 0 - Loading 0x0\nbroken line\n"
    rows = compare_modules(before, after, "same")
    assert [(r.name, r.before, r.after, r.users, r.bad) for r in rows] == [
        ("a", "2", "-1", "c", True),
        ("b", "0", "—", "", False),
        ("new", "—", "0", "", False),
        ("same", "1", "1", "", False),
    ]
    assert "a stands at -1" in modules_note(rows)


def test_terminal_summary_is_plain_where_there_is_no_terminal():
    console = Console(width=110, force_terminal=False)
    with console.capture() as capture:
        console.print(render_terminal(sample_case()))
    said = capture.get()
    assert "\x1b" not in said
    assert "runner-up" in said
    assert "ulp: 1 before, -1 after" in said
    assert "stored: 0" in said
    assert "net/ipv4/tcp_ulp.c:128" in said
    assert "a fixed 10 runs a revision" in said


def test_references_are_told_from_the_innermost_frame():
    for function, calls, not_calls in (
        (
            "module_put",
            ["__module_get(x)", "try_module_get(x)", "module_put(x)"],
            ["module_put_user", "dev_put(x)"],
        ),
        ("dev_hold", ["dev_put(dev)", "__dev_hold(dev)"], ["netdev_put_(x"]),
        ("kref_put", ["kref_get(&x)"], ["kobject_get(&x)"]),
    ):
        pattern = reference_pattern([Frame(function, 1, 2)])
        assert all(pattern.search(call) for call in calls), function
        assert not any(pattern.search(call) for call in not_calls), function
    assert reference_pattern([Frame("tcp_close", 1, 2)]) is None
    assert reference_pattern([]) is None


@given(st.text(alphabet="+-@ ,0123456789\n\\diff gaib/.c", max_size=200), st.integers(0, 50))
def test_any_text_is_taken_and_no_line_is_lost(text, line):
    frames = [Frame("module_put", 1, 2, file="a/b.c", line=line)]
    lines = mark_diff(text, frames)
    headers = ("--- ", "+++ ", "index ")
    kept = [own for own in text.splitlines() if not own.startswith(headers)]
    assert len(lines) >= len(kept)


LONG = "".join(
    f"diff --git a/dir/f{n}.c b/dir/f{n}.c\nindex 1..2 100644\n--- a/dir/f{n}.c\n+++ b/dir/f{n}.c\n"
    f"@@ -1,2 +1,2 @@ int f{n}(void)\n-old\n+new\n same\n@@ -9,1 +9,1 @@ int g{n}(void)\n-old\n+new\n"
    for n in range(100)
)


def test_a_long_diff_is_cut_and_what_is_marked_stays():
    frames = [Frame("f70", file="/build/dir/f70.c", line=1), Frame("g90"), Frame("other", file="dir/f80.c")]
    lines = mark_diff(LONG, frames)
    kept, left_out = cut_diff(lines, 25)
    assert len(kept) == 25
    assert left_out == len(lines) - 25
    # Each hunk below its file, in the diff's order.
    assert [line.text for line in kept if line.kind == "file"] == [
        "dir/f0.c",
        "dir/f70.c",
        "dir/f80.c",
        "dir/f90.c",
    ]
    marks = [line.mark for line in kept if line.mark]
    assert marks == [
        "has f70, on the crash's stack",
        "in f70, on the crash's stack",
        "on the crash's stack: f70",
        "has other, on the crash's stack",
        "in g90, on the crash's stack",
    ]
    assert cut_diff(lines, 10_000) == (lines, 0)


def test_guessed_frames_count_where_all_are_guessed():
    guessed = [Frame(f"f{n}", file=f"dir/f{n}.c", line=99, reliable=False) for n in range(3)]
    sure = [Frame(f"s{n}", file=f"dir/s{n}.c", line=99) for n in range(3)]
    assert mark_diff(LONG, [sure[0], *guessed])[0].mark == "has f0, on the crash's stack"
    assert mark_diff(LONG, [*sure, *guessed])[0].mark is None


def test_one_hunk_may_be_too_long():
    diff = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -0,0 +1,500 @@\n" + "+line\n" * 500
    kept, left_out = cut_diff(mark_diff(diff, []), 100)
    assert [line.kind for line in kept[:3]] == ["file", "hunk", "add"]
    assert (len(kept), left_out) == (100, 402)


def test_renames_and_files_without_hunks_are_kept():
    diff = "diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n" + LONG
    lines = mark_diff(diff, [])
    kept, _ = cut_diff(lines, 12)
    assert [line.text for line in kept[:4]] == ["y", "similarity index 100%", "rename from x", "rename to y"]


@given(st.integers(1, 60), st.integers(0, 99))
def test_a_cut_diff_is_a_part_of_it(most, named):
    lines = mark_diff(LONG, [Frame(f"g{named}")])
    kept, left_out = cut_diff(lines, most)
    assert len(kept) + left_out == len(lines)
    rest = iter(lines)
    assert all(any(line is other for other in rest) for line in kept)
