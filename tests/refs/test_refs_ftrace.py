"""ftrace's text, as kernels and trace-cmd print it."""

from __future__ import annotations

from ktriage.refs.ftrace import Ftrace
from ktriage.refs.names import Names
from ktriage.refs.types import Op

TRACE = b"""\
# tracer: nop
#
# entries-in-buffer/entries-written: 4/7   #P:2
#
          insmod-412     [001] .....    12.345678: module_load: ulp OE
          insmod-412     [001] .....    12.345679: <stack trace>
 => trace_event_raw_event_module_load+0x11f/0x1a0
 => load_module+0x2058/0x21a0
             srv-500     [001] ...1.    13.000001: module_get: ulp call_site=tcp_set_ulp refcnt=2
             cli-501     [000] ...1.    13.000002: module_get: ulp call_site=other [mod] refcnt=3
             srv-500     [001] ...1.    13.000003: <stack trace>
 => trace_event_raw_event_module_refcnt
 => try_module_get
 => tcp_set_ulp+0x12/0x50
 => do_tcp_setsockopt
CPU:1 [LOST 312 EVENTS]
          <idle>-0       [000] ..s1.    13.000004: module_put: ulp call_site=tcp_cleanup_ulp refcnt=2
"""


def read(text: bytes, size: int) -> tuple[Names, list[tuple[int, ...]]]:
    names = Names()
    reader = Ftrace(names)
    batches = [reader.feed(text[at : at + size]) for at in range(0, len(text), size)] + [reader.close()]
    rows = [
        row
        for b in batches
        for row in zip(b.times, b.cpus, b.tasks, b.ops, b.objects, b.counts, b.paths, strict=True)
    ]
    return names, rows


def test_events_get_their_stacks_however_the_trace_is_cut() -> None:
    whole = read(TRACE, 1 << 20)[1]
    for size in (1, 7, 100, 333):
        assert read(TRACE, size)[1] == whole
    names, rows = read(TRACE, 1 << 20)
    assert [row[3] for row in rows] == [Op.LOST, Op.LOAD, Op.GET, Op.GET, Op.LOST, Op.PUT]
    assert rows[0][5] == 3
    assert rows[4][5] == 312
    assert rows[2][0] == 13_000_001_000
    get = names.paths[rows[2][6]]
    assert (get.function, get.names, get.places[get.site].offset) == (
        "tcp_set_ulp",
        ("tcp_set_ulp", "do_tcp_setsockopt"),
        0x12,
    )
    other = names.paths[rows[3][6]]
    assert other.function == "other"
    assert other.places[0].module == "mod"
    assert str(names.tasks[rows[5][2]]) == "softirq"
    assert rows[5][5] == 2


def test_damaged_stamps_and_stray_stacks_hurt_nothing() -> None:
    lines = [
        b"          ab-1     [000] .....  1073\xb4.823000: module_get: ulp call_site=f refcnt=2\n",
        b"          ab-1     [000] : module_get: ulp call_site=f refcnt=2\n",
        b"          ab-1     [000] ..... 99999999999999999999.000001: module_get: ulp call_site=f refcnt=2\n",
        b"          ab-1     [000] .....  1.000000: module_get: ulp call_site=f refcnt=2\n",
        b"          ab-1     [000] .....  1.000000: <stack trace>\n => f\n",
        b"          ab-1     [000] .....  1.000000: <stack trace>\n => stray\n",
    ]
    names, rows = read(b"".join(lines), 1 << 20)
    assert [row[3] for row in rows] == [Op.GET] * 4
    assert {names.paths[row[6]].function for row in rows} == {"f"}
    assert rows[0][0] == 0
    for size in (1, 50, 120):
        assert read(b"".join(lines), size)[1] == rows
