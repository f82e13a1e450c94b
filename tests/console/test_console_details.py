"""What a crash says beside its title."""

from __future__ import annotations

import pytest
from console_reports import GPF, HUNG, KASAN, LOCKDEP, REFCOUNT, WARNING

from ktriage.console import Crash, read_crashes
from ktriage.console.taints import words


def first(log: bytes | str) -> Crash:
    return read_crashes(log if isinstance(log, bytes) else log.encode())[0]


def test_machine() -> None:
    crash = first(WARNING)
    assert (crash.cpu, crash.pid, crash.comm) == (1, 812, "server")
    assert crash.kernel == "6.1.0-18-amd64"
    assert crash.hardware == "QEMU Standard PC (Q35 + ICH9, 2009), BIOS 1.16.2 04/01/2014"
    assert crash.taint == "G        W  OE"
    assert any("out-of-tree" in word for word in crash.taints)
    assert crash.modules == ("ulp_demo", "tls", "xfs")
    assert crash.module_taints == {"ulp_demo": "OE"}
    assert crash.last_unloaded == "ulp_old"
    assert crash.code == "48 8b 47 08 c3 <0f> 0b 5b c3 66 90"


def test_registers_are_the_kernels() -> None:
    registers = first(WARNING).registers
    assert registers["rax"] == 0xFFFFFFFF  # not user space's, further down
    assert registers["rsp"] == 0xFFFFB1C2405C3D90
    assert registers["cr2"] == 0x7F0E2C1A5000


@pytest.mark.parametrize(
    ("lines", "want"),
    [
        (["x29: ffff800008003c00 x28: 0000000000000001", "sp : ffff800008003c00", "pstate: 60400005 (nZCv)"],
         {"x29": 0xFFFF800008003C00, "x28": 1, "sp": 0xFFFF800008003C00, "pstate": 0x60400005}),
        (["pc : [<80101234>]    lr : [<80101230>]    psr: 60000013", "r10: 00000005  r9 : 00000007"],
         {"pc": 0x80101234, "lr": 0x80101230, "psr": 0x60000013, "r10": 5, "r9": 7}),
        ([" gp : ffffffff82a0a010 tp : ff60000080e31b80 t0 : ffffffff81000000",
          "status: 0000000200000120 badaddr: 0000000000000038 cause: 000000000000000d"],
         {"gp": 0xFFFFFFFF82A0A010, "t0": 0xFFFFFFFF81000000, "badaddr": 0x38, "cause": 13}),
        (["NIP:  c000000000012345 LR: c000000000054321 CTR: 0000000000000000",
          "GPR00: c000000000000001 c000000000000002 c000000000000003 c000000000000004",
          "GPR04: c000000000000005 c000000000000006 c000000000000007 c000000000000008"],
         {"nip": 0xC000000000012345, "lr": 0xC000000000054321, "gpr0": 0xC000000000000001,
          "gpr7": 0xC000000000000008}),
        (["Krnl PSW : 0704c00180000000 00000000001a2b3c (func+0x1c/0x40)",
          "Krnl GPRS: 0000000000000001 0000000000000002 0000000000000003 0000000000000004",
          "           0000000000000005 0000000000000006 0000000000000007 0000000000000008"],
         {"pswa": 0x1A2B3C, "r0": 1, "r7": 8}),
        (["EAX: 00000005 EBX: c1a2b3c4 ECX: 00000000 EDX: 00000001"], {"eax": 5, "ebx": 0xC1A2B3C4}),
    ],
)  # fmt: skip
def test_registers_of_all_architectures(lines: list[str], want: dict[str, int]) -> None:
    crash = first("\n".join(["kernel BUG at a.c:1!", *lines, "Call Trace:", " f+0x1/0x2", ""]))
    assert {name: crash.registers.get(name) for name in want} == want


def test_stack_has_contexts() -> None:
    crash = first(GPF)
    assert [(frame.function, frame.context) for frame in crash.stack] == [
        ("bar_timeout", "hardirq"),
        ("call_timer_fn", "softirq"),
        ("handle_softirqs", "softirq"),
        ("irq_exit_rcu", "softirq"),
        ("default_idle", "task"),
    ]
    origins = [frame.function for frame in first(KASAN).stack if frame.context == "origin"]
    assert origins == ["kasan_save_stack", "foo_open", "kasan_save_stack", "foo_evict"]


def test_stack_entries() -> None:
    crash = first(WARNING)
    assert crash.stack[0].function == "module_put"
    assert "tcp_cleanup_ulp" in [frame.function for frame in crash.stack]
    assert first(REFCOUNT).stack[1].module == "vethx"
    symbolized = first(
        "kernel BUG at a.c:1!\nCall Trace:\n f fs/a.c:1 [inline]\n g+0x10/0x20 fs/a.c:22\n h+0x1/0x2\n"
    )
    inlined, outer = symbolized.stack[:2]
    assert (inlined.function, inlined.file, inlined.line, inlined.inline) == ("f", "fs/a.c", 1, True)
    assert (outer.function, outer.offset, outer.size, outer.line) == ("g", 16, 32, 22)


def test_arm_stack_has_its_top_frame() -> None:
    arm = (
        "kernel BUG at a.c:1!\nBacktrace:\n[<80101000>] (top) from [<80102000>] (next+0x10/0x20)\n"
        "[<80102000>] (next) from [<80103000>] (last+0x10/0x20 [mod])\n"
    )
    assert [frame.function for frame in first(arm).stack] == ["top", "next", "last"]


def test_deadlock_is_a_structure() -> None:
    crash = first(LOCKDEP)
    wanted, held = crash.locks[:2]
    assert (wanted.name, wanted.wanted, wanted.task, wanted.pid) == ("&a->mutex", True, "locker", 311)
    assert (held.name, held.wanted, held.function) == ("&b->mutex", False, "take_b")
    assert held.address == 0xFFFF888104A1C128
    assert [(link.number, link.lock) for link in crash.chain] == [(1, "&b->mutex"), (0, "&a->mutex")]
    assert [frame.function for frame in crash.chain[0].stack] == ["__mutex_lock", "take_b_under_a"]


def test_hung_task_says_who_holds_its_lock() -> None:
    crash = first(HUNG)
    assert (crash.comm, crash.pid) == ("writer", 777)
    (wanted,) = [lock for lock in crash.locks if lock.wanted]
    assert (wanted.task, wanted.name) == ("writer", "&store->lock")
    holders = [lock for lock in crash.locks if lock.address == wanted.address and not lock.wanted]
    assert [(lock.task, lock.pid) for lock in holders] == [("owner", 700)]


def test_hung_task_whose_lock_knows_its_owner() -> None:
    crash = first(
        "INFO: task writer:777 blocked for more than 120 seconds.\nCall Trace:\n store+0x1/0x2\n a+0x1/0x2\n"
        "INFO: task writer:777 is blocked on a mutex likely owned by task owner:700.\n"
    )
    assert [(lock.name, lock.wanted, lock.task, lock.pid) for lock in crash.locks] == [
        ("mutex", True, "writer", 777),
        ("mutex", False, "owner", 700),
    ]


def test_refcounts() -> None:
    counted = first(REFCOUNT).refcount
    assert counted is not None
    assert counted.kind == "underflow"
    put = first(WARNING).refcount
    assert put is not None
    assert put.kind == "put-unheld"


def test_device_that_never_becomes_free() -> None:
    crash = first(
        "unregister_netdevice: waiting for veth0 to become free. Usage count = 3\n"
        "ref_tracker: veth0@000000001234 has 2/2 users at\n     dst_init+0x10/0x20\n     ip6_route+0x1/0x2\n"
    )
    counted = crash.refcount
    assert counted is not None
    assert (counted.kind, counted.object, counted.count) == ("leak", "veth0", 3)
    (holder,) = counted.holders
    assert holder.count == 2
    assert [frame.function for frame in holder.stack] == ["dst_init", "ip6_route"]


def test_leaked_references_of_older_kernels() -> None:
    crash = first(
        "unregister_netdevice: waiting for lo to become free. Usage count = 2\n"
        "leaked reference.\n     first_user+0x1/0x2\nleaked reference.\n     other_user+0x1/0x2\n"
    )
    assert crash.refcount
    assert [(holder.count, holder.stack[0].function) for holder in crash.refcount.holders] == [
        (1, "first_user"),
        (1, "other_user"),
    ]


def test_taint_letters() -> None:
    assert words("G      D") == ("the kernel died before (an oops or BUG)",)
    assert words(None) == ()


def test_executor() -> None:
    crash = first(
        "kernel BUG at a.c:1!\nCPU: 0 PID: 1 Comm: syz.3.584 Not tainted 6.1 #1\nCall Trace:\n f+0x1/0x2\n"
    )
    assert crash.executor == {"proc": 3, "id": 584}


def test_text_is_utf8_where_the_log_is() -> None:
    log = "kernel BUG at a.c:1!\nCPU: 0 PID: 7 Comm: zażółć Not tainted 6.1 #1\nCall Trace:\n f+0x1/0x2\n"
    crash = first(log)
    assert crash.comm == "zażółć"
    assert "zażółć" in crash.text
    assert "\ufffd" in first(log.encode().replace("ż".encode(), b"\xff")).text
