"""The other formats: trace-cmd's, perf's, ref_tracker's and our own, and what they have in common."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
import zstandard

from ktriage.errors import UserError
from ktriage.refs import read_traces
from ktriage.refs.read import read_ledger

FTRACE = """\
          insmod-412     [001] .....    12.000000: module_load: ulp OE
          insmod-412     [001] .....    12.000001: module_put: ulp call_site=do_init_module refcnt=1
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "trace"
    path.write_text(text)
    return read_traces([str(path)])


def event(time: float, text: str, who: str = "ab-7", cpu: int = 0, flags: str = "...1. ") -> str:
    return f"{who:>16}     [{cpu:03}] {flags}{time:12.6f}: {text}\n"


def stack(time: float, *names: str, who: str = "ab-7", cpu: int = 0) -> str:
    return event(time, "<stack trace>", who, cpu) + "".join(f" => {name}\n" for name in names)


SYMBOLS = [
    ("user_open+0x12/0x50 [user]", "user_open", "user"),
    ("user_open+0x12/0x50", "user_open", None),
    ("user_open", "user_open", None),
    ("user_open <ffffffffc0123456>", "user_open", None),
    ("user_open+0x12/0x50 [user] <ffffffffc0123456>", "user_open", "user"),
    ("user_open.isra.0.cold+0x1/0x2 [user]", "user_open.isra.0.cold", "user"),
    ("0xffffffffc0123456", "0xffffffffc0123456", None),
    ("<ffffffffc0123456>", "0xffffffffc0123456", None),
]


@pytest.mark.parametrize(("symbol", "function", "module"), SYMBOLS)
def test_symbols_as_kernels_print_them(
    tmp_path: Path, symbol: str, function: str, module: str | None
) -> None:
    text = FTRACE + event(13, "module_get: ulp call_site=f refcnt=2")
    text += stack(
        13, "trace_event_raw_event_module_refcnt", "try_module_get+0x1/0x2", symbol, "do_syscall_64"
    )
    (one,) = read(tmp_path, text)
    (holder,) = one.holders
    assert (holder.function, holder.holder, holder.path[1:]) == (
        function,
        module or "ab-7",
        ("do_syscall_64",),
    )


@pytest.mark.parametrize(
    "head",
    [
        "              ab-7       [002] .....    13.000001: ",
        "              ab-7       [002]    13.000001: ",
        "              ab-7     (      7) [002] d..1.    13.000001: ",
        "              ab-7     (-------) [002] ....    13.000001: ",
        "   my long-name-7       [002]    13.000001000: ",
        "  strange] [x]: -7       [002] .....    13.000001: ",
        "              ab-7     2...1.    13us+: ",
    ],
)
def test_heads_of_lines_with_and_without_flags_groups_and_nanoseconds(tmp_path: Path, head: str) -> None:
    text = FTRACE + f"{head}module_get: ulp call_site=user_open [user] refcnt=2\n"
    (one,) = read(tmp_path, text)
    (holder,) = one.holders
    assert (holder.holder, holder.since) == ("user", 13e-6 if "us" in head else 13.000001)
    assert holder.task is not None
    assert holder.task.endswith("-7")


def test_trace_cmd_report(tmp_path: Path) -> None:
    text = """\
version = 7
cpus=2
CPU:1 [17 EVENTS DROPPED]
          insmod-412   [001]    12.000000: module_load:          ulp OE
          insmod-412   [001]    12.000001: module_put:           ulp call_site=do_init_module refcnt=1
              ab-7     [000]    13.000000: module_get:           ulp call_site=user_open refcnt=2
              ab-7     [000]    13.000002: kernel_stack:         <stack trace >
=> try_module_get (ffffffff81100000)
=> user_open (ffffffffc0100000)
=> do_syscall_64 (ffffffff81000000)
"""
    (one,) = read(tmp_path, text)
    assert one.lost == 17
    assert one.holders[0].path == ("user_open", "do_syscall_64")


def test_perf_script_with_and_without_stacks(tmp_path: Path) -> None:
    text = (
        "insmod   412 [001]    12.345678:                module:module_load: ulp OE\n"
        "insmod   412 [001]    12.345679: module:module_put: ulp call_site=do_init_module refcnt=1\n"
        "\tffffffff8114e5a1 do_init_module+0x51 ([kernel.kallsyms])\n\n"
        "a b  412/413 [001]    12.345680: module:module_get: ulp call_site=user_open refcnt=2\n"
        "\tffffffff8114e5a1 try_module_get+0x51 ([kernel.kallsyms])\n"
        "\tffffffffc014e5a1 user_open+0x10 ([user])\n"
        "\tffffffffc014e5a1 helper+0x10 (/lib/modules/6.1/kernel/net/my-mod.ko.xz)\n"
        "\t    7f1234567890 [unknown] (/lib/libc.so)\n\n"
        "a b  413 [001]    12.345780: PERF_RECORD_LOST lost 12\n"
    )
    (one,) = read(tmp_path, text)
    (holder,) = one.holders
    assert (holder.holder, holder.task, holder.path) == ("user", "a b-413", ("user_open", "helper"))
    assert one.lost == 12


def test_probes_get_their_meaning_from_names_or_from_a_comment(tmp_path: Path) -> None:
    text = event(1, "thing_get: (thing_get+0x0/0x20) obj=0xffff888000000010 count=1")
    text += stack(1, "thing_get", "opener")
    text += event(2, "r_take: (closer+0x4/0x20 <- thing_get) obj=0xffff888000000010 count=3")
    text += event(3, "thing_put: (thing_put+0x0/0x20) obj=0xffff888000000010 count=3")
    text += stack(3, "thing_put", "closer")
    (one,) = read(tmp_path, text)
    assert (one.object, one.kind, one.gets, one.puts) == ("0xffff888000000010", "thing", 2, 1)
    # A probe at the function's entry has the count before.
    assert (one.first, one.last) == (1, 2)
    declared = "# refs: kind=box get=p_one put=p_two object=kref count=n\n"
    text = declared + event(1, "p_one: (weird+0x0/0x20) kref=0x10 n=1")
    text += event(2, "p_two: (odd+0x0/0x20) kref=0x10 n=2") + event(3, "p_two: (odd+0x0/0x20) kref=0x10 n=1")
    (one,) = read(tmp_path, text)
    assert (one.kind, one.gets, one.puts, one.last, one.ended) == ("box", 1, 2, 0, True)


def test_an_address_used_again_is_another_object(tmp_path: Path) -> None:
    lines = []
    for life in range(3):
        at = 10 * life
        lines.append(f"refs: get conn kind=conn count=2 time={at + 1} task=ab-1 stack=conn_get;opener")
        lines.append(f"refs: put conn kind=conn count=1 time={at + 2} task=ab-1 stack=conn_put;closer")
        lines.append(f"refs: put conn kind=conn count=0 time={at + 3} task=cd-2 stack=conn_put;destroyer")
    (one,) = read(tmp_path, "\n".join(lines) + "\n")
    assert (one.events, one.gets, one.puts, one.last, one.ended) == (9, 3, 6, 0, True)
    assert (one.unmatched_gets, one.unmatched_puts, one.holders, one.underflow) == ((), (), (), None)


def test_our_own_lines_with_stacks_in_the_line_and_below(tmp_path: Path) -> None:
    text = """\
[   12.000000] drv: refs: get port0 kind=port count=1 via=port_get stack=port_get+0x1/0x2;drv_open [drv];open
[   12.500000] drv: refs: get port0 kind=port count=2 task=ab-12 via=port_get
        port_get+0x2/0x8
        drv_ioctl+0x2/0x8 [drv]
noise
refs: put port0 kind=port count=1 time=13.25 cpu=3 task=ab-12 stack=drv_close [drv]
refs: lost 4
"""
    (one,) = read(tmp_path, text)
    assert (one.kind, one.gets, one.puts, one.first, one.last, one.lost) == ("port", 2, 1, 0, 1, 4)
    assert {holder.holder for holder in one.holders} == {"drv"}
    assert {holder.function for holder in one.holders} <= {"drv_open", "drv_ioctl"}


def test_ref_tracker_dumps_name_the_holders(tmp_path: Path) -> None:
    text = """\
[  100.000100] unregister_netdevice: waiting for eth0 to become free. Usage count = 3
[  100.000200] ref_tracker: eth%d@00000000deadbeef has 2/3 users at
[  100.000300]      netdev_hold+0x10/0x20
[  100.000300]      foo_open+0x10/0x20 [foo]

[  110.000200] ref_tracker: eth%d@00000000deadbeef has 2/3 users at
                    netdev_hold+0x10/0x20
                    foo_open+0x10/0x20 [foo]

[  110.000200] ref_tracker: eth%d@00000000deadbeef has 1/3 users at
                    bar_open+0x10/0x20
"""
    found = {one.kind: one for one in read(tmp_path, text)}
    tracked = found["ref_tracker"]
    assert [(holder.function, holder.holder, holder.count) for holder in tracked.holders] == [
        ("foo_open", "foo", 2),
        ("bar_open", "(unknown)", 1),
    ]
    assert [entry.function for entry in tracked.unmatched_gets] == ["foo_open", "bar_open"]
    assert (found["netdev"].object, found["netdev"].last) == ("eth0", 3)
    old = (
        "[    1.0] ref_tracker: leaked reference.\n[    1.0]  bar_get+0x1/0x2\n[    1.0]  bar+0x1/0x2 [bar]\n"
    )
    (one,) = read(tmp_path, 2 * old)
    (leak,) = one.unmatched_gets
    assert (leak.count, leak.path, leak.certainty) == (2, ("bar_get", "bar"), "certain")


def test_refcount_complaint_of_a_console_log(tmp_path: Path) -> None:
    text = """\
[  130.000000] refcount_t: underflow; use-after-free.
[  130.100000] WARNING: CPU: 1 PID: 1 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110
[  130.100000] Call Trace:
[  130.100000]  <TASK>
[  130.100000]  kobject_put+0x1/0x2
[  130.100000]  baz_release+0x1/0x2 [baz]
"""
    (one,) = read(tmp_path, text)
    assert one.underflow is not None
    assert (one.underflow.kind, one.underflow.function, one.underflow.holder) == (
        "reported",
        "baz_release",
        "baz",
    )


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_compressed_traces_and_cut_ones(tmp_path: Path, pack) -> None:
    text = FTRACE + "".join(
        event(13 + n, f"module_get: ulp call_site=f{n} refcnt={n + 2}") for n in range(3000)
    )
    path = tmp_path / "trace"
    path.write_bytes(pack(text.encode()))
    (one,) = read_traces([str(path)])
    assert one.gets == 3000
    path.write_bytes(pack(text.encode())[:-50])
    with pytest.raises(UserError, match="cut short"):
        read_traces([str(path)])


def test_softirq_is_nobodys_task(tmp_path: Path) -> None:
    text = FTRACE + event(13, "module_get: ulp call_site=f refcnt=2", flags="..s1. ")
    text += event(14, "module_get: ulp call_site=f refcnt=3")
    text += stack(14, "try_module_get", "f", "handle_softirqs", "irq_exit_rcu")
    (one,) = read(tmp_path, text)
    assert {holder.holder for holder in one.holders} == {"softirq"}


def test_buffer_that_begins_in_the_middle_excuses_puts_of_what_was_held_before(tmp_path: Path) -> None:
    text = "# tracer: nop\n# entries-in-buffer/entries-written: 3/40   #P:1\n"
    text += "".join(event(n, f"module_put: ulp call_site=f refcnt={4 - n}") for n in range(1, 4))
    (one,) = read(tmp_path, text)
    assert (one.first, one.last, one.lost) == (3, 0, 37)
    assert one.unmatched_puts == ()
    assert any("overwritten" in note for note in one.notes)


def test_extra_puts_that_go_on_printing_zero(tmp_path: Path) -> None:
    text = FTRACE + event(13, "module_get: ulp call_site=f refcnt=2")
    text += "".join(event(14 + n, f"module_put: ulp call_site=g refcnt={max(0, 1 - n)}") for n in range(4))
    (one,) = read(tmp_path, text)
    assert sum(entry.count for entry in one.unmatched_puts) == 3
    assert one.unmatched_puts[0].certainty == "certain"
    assert one.last == -1
    assert one.underflow is not None
    assert one.underflow.event == 5
    assert one.notes == ()


def test_clocks_that_differ_are_put_right(tmp_path: Path) -> None:
    text = FTRACE
    rows = []
    for n in range(400):
        at = 13 + n / 1000
        rows.append((at, 0, "module_get: ulp call_site=f refcnt=2"))
        rows.append((at + 0.0002 - 0.0004, 1, "module_put: ulp call_site=g refcnt=1"))
    text += "".join(event(at, words, cpu=cpu) for at, cpu, words in sorted(rows))
    path = tmp_path / "trace"
    path.write_text(text)
    reading = read_ledger([str(path)])
    (one,) = reading.accounts
    assert (one.unmatched_gets, one.unmatched_puts, one.holders, one.notes) == ((), (), (), ())


def test_a_put_that_went_to_another_object_names_both(tmp_path: Path) -> None:
    text = FTRACE + FTRACE.replace("ulp", "other")
    for n in range(60):
        name, at = ("ulp", "other")[n % 2], 13 + n / 100
        dropped = "other" if n == 40 else name
        text += event(at, f"module_get: {name} call_site=f refcnt=2") + stack(at, "try_module_get", "f", "g")
        count = 0 if n == 40 else 2 if n > 40 and name == "ulp" else 1
        text += event(at + 0.001, f"module_put: {dropped} call_site=h refcnt={count}")
        text += stack(at + 0.001, "module_put", "h", "g")
    found = {one.object: one for one in read(tmp_path, text)}
    (leak,) = found["ulp"].unmatched_gets
    (put,) = found["other"].unmatched_puts
    assert leak.function == "f"
    assert put.function == "h"
    assert "gone to other" in leak.note
    assert "meant for ulp" in put.note
