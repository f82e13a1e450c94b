"""Traces recorded in guests: Debian's kernels, modules with planted faults, the demo's ULP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ktriage.cli import main
from ktriage.refs import read_traces, sources
from ktriage.refs.names import Names
from ktriage.refs.perf import Perf

FIXTURES = Path(__file__).parents[1] / "fixtures" / "refs"


def account(name: str, counted: str):
    found = {one.object: one for one in read_traces([str(FIXTURES / f"{name}.txt.zst")])}
    return found[counted]


def test_forgotten_symbol_put_is_named_for_its_module() -> None:
    lender = account("forgotten-put", "lender")
    (leak,) = lender.unmatched_gets
    assert (leak.function, leak.holder, leak.count, leak.certainty) == (
        "forgetful_borrow",
        "forgetful",
        2,
        "certain",
    )
    assert leak.path[1] == "forgetful_write"
    assert lender.unmatched_puts == ()
    assert (lender.last, lender.static_uses, lender.dynamic_uses) == (2, 0, 2)
    assert lender.underflow is None


def test_put_that_eats_a_static_use_is_named_at_its_event() -> None:
    lender = account("put-too-many", "lender")
    (put,) = lender.unmatched_puts
    assert (put.function, put.holder, put.count, put.certainty) == ("hasty_borrow", "hasty", 1, "certain")
    assert "static use of hasty" in put.note
    assert lender.unmatched_gets == ()
    assert lender.last == -1
    # Wrong from the put on, not only from where the count went below.
    assert lender.underflow is not None
    assert lender.underflow.function == "hasty_borrow"
    assert lender.underflow.event == 14


def test_underflow_of_the_demo_is_blamed_on_children_that_never_got() -> None:
    module = account("ulp-underflow", "ulp_tally")
    (put,) = module.unmatched_puts
    assert (put.function, put.count) == ("tcp_cleanup_ulp", 4)
    assert "inet_csk_listen_stop" in put.path
    assert put.certainty != "certain"
    assert put.others
    assert module.unmatched_gets == ()
    assert (module.first, module.last, module.min) == (1, -1, -1)


@pytest.mark.parametrize(("name", "counted"), [("ulp-clean", "ulp_tally"), ("linked-and-unlinked", "lender")])
def test_clean_runs_have_nothing_to_report(name: str, counted: str) -> None:
    one = account(name, counted)
    assert one.gets >= 10
    assert (one.unmatched_gets, one.unmatched_puts, one.holders, one.underflow) == ((), (), (), None)
    assert (one.last, one.ended) == (0, True)
    assert one.notes == ()


def test_command_prints_json_tree_folded_and_lsmod(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trace = str(FIXTURES / "forgotten-put.txt.zst")
    assert main(["refs", "read", "--json", "--tree", "--object", "lender", trace]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["unmatched_gets"][0]["function"] == "forgetful_borrow"
    assert (data["tree"]["name"], data["tree"]["gets"], data["tree"]["leaked"]) == ("lender", data["gets"], 2)
    assert main(["refs", "read", "--tree", "--object", "lender", trace]) == 0
    out = capsys.readouterr().out
    assert "2 never put" in out
    assert "in balance" in out
    assert main(["refs", "read", "--lsmod", trace]) == 0
    assert "forgetful (2 by forgetful_borrow)" in capsys.readouterr().out
    assert main(["refs", "read", "--folded", "--object", "lender", trace]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(int(line.rsplit(" ", 1)[1]) for line in lines if ";get " in line) == data["gets"]
    picture = tmp_path / "count.svg"
    assert main(["refs", "read", "--plot", str(picture), trace]) == 0
    assert "<svg" in picture.read_text()
    assert "2 never put" in picture.read_text()


@pytest.mark.parametrize("name", ["perf-stacks.txt", "perf-flat.txt", "modules.dat"])
def test_other_recorders_of_the_same(name: str) -> None:
    # In a guest a module was loaded, its file system mounted four times, and unloaded: recorded by perf 6.1,
    # with -g and without, and by trace-cmd 3.1, which compresses within its file, too.
    if name.endswith(".dat") and shutil.which("trace-cmd") is None:
        pytest.skip("trace-cmd is not installed")
    (one,) = read_traces([str(FIXTURES / f"{name}.zst")])
    assert (one.object, one.kind, one.gets, one.puts) == ("binfmt_misc", "module", 19, 20)
    assert (one.ended, one.last, one.lost) == (True, 0, 0)
    assert not one.unmatched_gets
    assert not one.unmatched_puts


def test_a_perf_script_without_stacks_is_read_as_it_comes() -> None:
    text = b"".join(sources.chunks(str(FIXTURES / "perf-flat.txt.zst"))) * 60
    reader = Perf(Names())
    pieces = [text[at : at + 1000] for at in range(0, len(text), 1000)]
    events = [len(reader.feed(piece)) for piece in pieces]
    assert sum(events) > 20 * 41  # not all at the end
    assert sum(events) + len(reader.close()) == 60 * 41
    assert reader.damaged == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no trace events"),
        (b"\x00\xff\x80" * 5000, "no trace events"),
        (b"x" * 3_000_000, "no trace events"),
        (b"PERFILE2" + b"\0" * 100, "perf script"),
        (b"\x28\xb5\x2f\xfd\x00\x01\x02", "zstd"),
        (b"\x1f\x8b\x08\x00garbage", "gzip"),
        (b"          sh-1     [000] .....     1.000000: sched_switch: prev=x\n", "no gets or puts"),
        (b"\x17\x08\x44tracing6\0" + b"\1" * 64, "trace-cmd"),
    ],
)
def test_what_is_no_trace_is_one_line_and_exit_2(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(content)
    assert main(["refs", "read", str(trace)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_missing_file_and_unknown_object_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refs", "read", "/nowhere/trace"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert main(["refs", "read", "--object", "x", str(FIXTURES / "ulp-clean.txt.zst")]) == 2
    assert "ulp_tally" in capsys.readouterr().err
