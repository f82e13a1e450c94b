"""Traces that were cut, shuffled or made to hurt: a ledger that holds together, or one clear error."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktriage.refs.judge import accounts
from ktriage.refs.ledger import Ledger
from ktriage.refs.names import Names
from ktriage.refs.read import reader_for
from ktriage.refs.simulate import Plan, history, routes
from ktriage.refs.sources import chunks
from ktriage.refs.tree import balance_tree, folded, printed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "refs"
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def texts() -> list[bytes]:
    plan = Plan(pairs=60, leaks=1, overputs=1, lost=0.02, routes=routes(random.Random(1), 4, mixed=True))
    made = "\n".join(history(plan, 1).lines).encode()
    real = b"".join(chunks(str(FIXTURES / "put-too-many.txt.zst")))
    ours = b"refs: get a count=2 task=x-1 stack=f;g\nrefs: put a count=1\n  f+0x1/0x2\nrefs: lost 3\n"
    ours += b"refs: free a\n"
    perf = (
        b"a 1 [000] 1.000001: module:module_get: m call_site=f refcnt=2\n\tffff81 f+0x1 ([m])\n\n"
        b"a 1 [000] 1.000002: probe:x_put: (ffff) obj=0x1 count=1\n\n"
    )
    return [made, real, ours, perf]


def read(data: bytes, size: int = 1 << 20):
    names = Names()
    ledger = Ledger(names)
    reader = reader_for(data[: 1 << 16], names)
    for at in range(0, len(data), size):
        ledger.feed(reader.feed(data[at : at + size]))
    ledger.feed(reader.close())
    found = accounts(ledger)
    for one in found:
        json.dumps(one.to_json())
        assert one.gets + one.puts <= one.events
        assert sum(entry.count for entry in one.unmatched_puts) <= one.puts
        assert one.kind == "ref_tracker" or sum(entry.count for entry in one.unmatched_gets) <= one.gets
        tree = balance_tree(ledger, one)
        assert (tree.gets, tree.puts) == (one.gets, one.puts)
        list(printed(tree))
    list(folded(ledger, found))
    return found


@given(st.data())
@SETTINGS
def test_lines_moved_dropped_repeated_and_cut(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(texts())).split(b"\n")
    chance = random.Random(data.draw(st.integers(0, 1 << 32)))
    for _ in range(data.draw(st.integers(0, 12))):
        at = chance.randrange(len(lines))
        kind = chance.randrange(5)
        if kind == 0:
            del lines[at : at + chance.randrange(1, 8)]
        elif kind == 1:
            lines[at:at] = lines[at : at + 5] * chance.randrange(1, 4)
        elif kind == 2:
            part = lines[at : at + 40]
            chance.shuffle(part)
            lines[at : at + 40] = part
        elif kind == 3:
            lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        else:
            lines[at] = lines[at].replace(
                b"refcnt=", b"refcnt=-" if chance.random() < 0.5 else b"refcnt=9999999999"
            )
        lines = lines or [b""]
    read(b"\n".join(lines))


@given(st.binary(max_size=2000), st.integers(0, 3), st.integers(1, 400))
@SETTINGS
def test_bytes_put_anywhere_and_any_cut_into_chunks(junk: bytes, which: int, size: int) -> None:
    text = texts()[which][:4000]
    read(text[: len(text) // 2] + junk + text[len(text) // 2 :], size)


def test_however_it_is_cut_the_accounts_are_the_same() -> None:
    for text in texts():
        whole = [one.to_json() for one in read(text)]
        for size in (13, 500, 4096):
            assert [one.to_json() for one in read(text, size)] == whole


def test_thousands_of_objects_and_endless_lines_stay_small() -> None:
    lines = [f"refs: get o{n} count=1 stack=f{n};g" for n in range(8_000)]
    assert len(read("\n".join(lines).encode())) == 8_000
    read(b"          ab-1     [000] ..... 1.0: module_get: " + b"m" * 3_000_000, 1 << 16)


def test_a_stack_whose_line_is_spoilt_is_none_however_it_is_cut() -> None:
    event = "  ab-7     [000]    13.00000{}: module_get: m call_site=f refcnt={}\n"
    spoilt = "  ab-7     [000]    13.00000{}: ka 1: kernel_stack:  <stack trace >\n=> g (ffffffff81000000)\n"
    text = "".join(event.format(at, at + 1) + spoilt.format(at) for at in range(1, 9)).encode()
    for size in (1 << 20, 50):
        (one,) = read(text, size)
        assert [(holder.path, holder.count) for holder in one.holders] == [(("f",), 8)]
