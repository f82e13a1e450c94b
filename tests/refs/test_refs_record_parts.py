"""What is asked for, the pages that come, and what is made of them."""

from __future__ import annotations

import random
import struct

import pytest

from ktriage.errors import UserError
from ktriage.refs.record_events import Probe, heading, parse_probe, wanted, writes
from ktriage.refs.record_layout import NEEDED, read_layout
from ktriage.refs.record_pages import MISSED, MISSED_STORED, latency, records
from ktriage.refs.record_stream import read_sent, symbols_of, trace_text

KALLSYMS = b"""ffffffff81000000 T _text
ffffffff81000100 T do_work
ffffffff81000180 t helper
ffffffff81000200 T after
ffffffff82000000 D ftrace_trace_arrays
ffffffffc0000000 t driver_open\t[driver]
ffffffffc0000080 t driver_close\t[driver]
"""
MODULE_GET = b"""name: module_get
ID: 437
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned long ip;\toffset:8;\tsize:8;\tsigned:0;
\tfield:int refcnt;\toffset:16;\tsize:4;\tsigned:1;
\tfield:__data_loc char[] name;\toffset:20;\tsize:4;\tsigned:0;
"""
STACK = b"""name: kernel_stack
ID: 4
format:
\tfield:int size;\toffset:8;\tsize:4;\tsigned:1;
\tfield:unsigned long caller[8];\toffset:16;\tsize:64;\tsigned:0;
"""
PROBE = b"""name: get_thing
ID: 1500
format:
\tfield:unsigned long __probe_ip;\toffset:8;\tsize:8;\tsigned:0;
\tfield:u64 obj;\toffset:16;\tsize:8;\tsigned:0;
\tfield:u64 caller;\toffset:24;\tsize:8;\tsigned:0;
"""


def common(number: int, pid: int, flags: int = 0, depth: int = 0) -> bytes:
    return struct.pack("<HBBi", number, flags, depth, pid)


def got(pid: int, name: str, count: int, ip: int = 0xFFFFFFFF81000104) -> bytes:
    text = name.encode() + b"\0"
    return common(437, pid) + struct.pack("<QiI", ip, count, 24 | len(text) << 16) + text


def stack(pid: int, *addresses: int) -> bytes:
    return (
        common(4, pid)
        + struct.pack("<iI", len(addresses), 0)
        + struct.pack(f"<{len(addresses)}Q", *addresses)
    )


def event(data: bytes, delta: int = 1000) -> bytes:
    data += b"\0" * (-len(data) % 4)
    if len(data) <= 28 * 4:
        return struct.pack("<I", len(data) // 4 | delta << 5) + data
    return struct.pack("<II", delta << 5, len(data) + 4) + data


def page(time: int, *events: bytes, lost: int = 0) -> bytes:
    data = b"".join(events)
    commit = len(data) | (MISSED | MISSED_STORED if lost else 0)
    return struct.pack("<QQ", time, commit) + data + (struct.pack("<Q", lost) if lost else b"")


def sent(*pages: tuple[int, bytes]) -> bytes:
    files = {"module/module_get": MODULE_GET, "ftrace/kernel_stack": STACK, "ktriage/get_thing": PROBE}
    out = b"".join(b"file %s %d\n" % (name.encode(), len(data)) + data for name, data in files.items())
    out += b"file names 6\n42 sh\n"
    out += b"".join(b"page %d %d\n" % (cpu, len(data)) + data for cpu, data in pages)
    return out + b"end\n"


def text_of(data: bytes) -> str:
    came = read_sent(data)
    return "".join(trace_text(came, symbols_of(KALLSYMS, came, {})))


def test_functions_are_read_with_module_and_argument() -> None:
    assert parse_probe("kobject_get") == Probe("kobject_get", 1)
    assert parse_probe("kobject_get:2") == Probe("kobject_get", 2)
    assert parse_probe("dev_get_by_name:ret") == Probe("dev_get_by_name", 0)
    assert parse_probe("my-driver:thing_get:3") == Probe("thing_get", 3, "my_driver")
    assert parse_probe("kobject_get:1+56") == Probe("kobject_get", 1, None, 56)
    assert parse_probe("find:ret+0x38") == Probe("find", 0, None, 56)
    assert parse_probe("driver:thing_get:ret") == Probe("thing_get", 0, "driver")


@pytest.mark.parametrize("wrong", ["", "a b", "get:0", "get:7", "1get", "a:b:c:d", "get:$arg1"])
def test_what_is_no_function_is_said(wrong: str) -> None:
    with pytest.raises(UserError):
        parse_probe(wrong)


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(UserError, match="come together"):
        wanted(None, ("kobject_get",), ())
    with pytest.raises(UserError, match="say what to record"):
        wanted(None, (), ())


def test_a_module_is_filtered_in_the_kernel_before_anything_is_enabled() -> None:
    steps = [(one.path, one.text) for one in writes(wanted("my-driver", (), ()), "g", clock="mono")]
    assert ("events/module/module_put/filter", 'name == "my_driver"') in steps
    assert steps.index(("events/module/module_put/filter", 'name == "my_driver"')) < steps.index(
        ("events/module/module_load/enable", "1")
    )
    assert not any("kprobe" in path for path, _ in steps)


def test_a_trace_says_which_of_its_probes_get() -> None:
    what = wanted(None, ("thing_get:2", "thing_find:ret"), ("thing_put",))
    texts = [one.text for one in writes(what, "g", clock="mono") if one.append]
    assert texts[0] == "p:g/get_thing_get thing_get obj=$arg2 caller=$stack0"
    assert texts[1] == "r:g/get_thing_find thing_find obj=$retval"
    assert (
        heading(what, "g")
        == "# refs: kind=thing get=get_thing_get,get_thing_find put=put_thing_put object=obj\n"
    )


def test_a_count_is_fetched_where_its_place_is_known() -> None:
    what = wanted(None, ("thing_get:1+56", "thing_find:ret+56"), ("thing_put:1+56",))
    texts = [one.text for one in writes(what, "g", clock="mono") if one.append]
    assert texts[0].endswith(" obj=$arg1 caller=$stack0 count=+56($arg1):s32")
    assert texts[1].endswith(" obj=$retval count=+56($retval):s32")
    assert heading(what, "g").endswith(" object=obj count=count\n")


def test_pages_become_the_text_that_the_kernel_prints() -> None:
    text = text_of(
        sent((0, page(5_000_000_000, event(got(42, "lender", 2)), event(stack(42, 0xFFFFFFFF81000185)))))
    )
    assert text == (
        "              sh-42      [000] .....     5.000001: module_get: lender call_site=do_work refcnt=2\n"
        "              sh-42      [000] .....     5.000002: <stack trace>\n => helper+0x5/0x80\n"
    )


def test_processors_are_merged_by_time_and_losses_told() -> None:
    early, late = event(got(42, "a", 2)), event(got(7, "b", 3))
    text = text_of(sent((1, page(2_000, late, lost=9)), (0, page(1_000, early))))
    lines = text.splitlines()
    assert "[000]" in lines[0]
    assert lines[1] == "CPU:1 [LOST 9 EVENTS]"
    assert "<...>-7" in lines[2]


def test_long_gaps_and_long_events() -> None:
    extended = struct.pack("<II", 30 | 5 << 5, 1) + event(got(42, "x" * 200, 2), delta=0)
    [one] = records(page(100, extended), 0)
    assert one.time == 100 + 5 + (1 << 27)
    assert b"x" * 200 in one.data


def test_what_was_sent_before_is_not_told_again() -> None:
    first = event(got(42, "a", 2))
    whole = page(1_000, first, event(got(42, "b", 3)))
    [one] = records(whole, 0, len(first))
    assert one.time == 3_000
    assert b"b\0" in one.data


def test_a_probe_says_its_caller_where_the_stack_does_not() -> None:
    data = common(1500, 42, flags=0x48, depth=0xFF) + struct.pack(
        "<QQQ", 0xFFFFFFFF81000100, 0xABC0, 0xFFFFFFFFC0000084
    )
    text = text_of(sent((0, page(0, event(data), event(stack(42, 0xFFFFFFFF81000101))))))
    assert "[000] .....     0.000001: get_thing: (do_work+0x0/0x80) obj=0xabc0\n" in text
    assert text.endswith(" => do_work+0x1/0x80\n => driver_close+0x4/0x1000 [driver]\n")


def test_latency_is_spelled_as_the_kernel_does() -> None:
    assert latency(0, 0) == "....."
    assert latency(0x01 | 0x10, 0x02) == "d.s2."
    assert latency(0x80 | 0x04, 0x13) == "bN.31"


def test_cut_and_shuffled_streams_are_read_as_far_as_they_go() -> None:
    chance = random.Random(7)
    pages = [(n % 2, page(n * 9_000, event(got(42, "lender", n)), event(stack(42, 1, 2)))) for n in range(20)]
    whole = sent(*pages)
    for _ in range(300):
        data = bytearray(whole[: chance.randrange(len(whole))])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        came = read_sent(bytes(data))
        assert not came.ended or came.cut or len(data) == len(whole)
        for piece in trace_text(came, symbols_of(KALLSYMS, came, {})):
            assert piece.endswith("\n")


def test_btf_that_is_none_has_no_layout() -> None:
    assert read_layout(b"") is None
    assert read_layout(b"\x9f\xeb\x01\x00" + b"\xff" * 40) is None
    assert read_layout(btf({"trace_array": ("list",)})) is None
    layout = read_layout(btf(NEEDED))
    assert layout is not None
    assert layout["buffer_page.page"] == 16


def btf(structures: dict[str, tuple[str, ...]]) -> bytes:
    """Return BTF with some structures in it, whose members are 8 bytes each."""
    words = sorted({word for name, members in structures.items() for word in (name, *members)})
    strings = b"\0" + b"".join(word.encode() + b"\0" for word in words)
    at = {word: strings.index(b"\0" + word.encode() + b"\0") + 1 for word in words}
    types = b""
    for name, members in structures.items():
        types += struct.pack("<III", at[name], 4 << 24 | len(members), 8 * len(members))
        for number, member in enumerate(members):
            types += struct.pack("<III", at[member], 0, 64 * number)
    return (
        struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings
    )
