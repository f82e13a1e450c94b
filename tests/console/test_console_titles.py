"""Titles, types and alternatives, format by format."""

from __future__ import annotations

import re

import pytest
from console_reports import GPF, HUNG, KASAN, LOCKDEP, REFCOUNT, WARNING

from ktriage.console import Crash, read_crashes
from ktriage.console.formats import BY_HEADER, FAMILIES
from ktriage.console.formats.format import compiled
from ktriage.console.formats.headers import HEADERS, NOISE, announced
from ktriage.console.rust import demangled
from ktriage.console.titles import clean

STACK = """\
Call Trace:
 dump_stack+0x1/0x2
 kasan_report+0x1/0x2
 mutex_lock+0x1/0x2
 victim+0x10/0x20
 caller+0x10/0x20
"""
LOCKUP = """\
watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:1]
RIP: 0010:spin+0x1/0x2
Call Trace:
 victim+0x1/0x2
 do_syscall_64+0x1/0x2
"""
REGS = "RIP: 0010:victim+0x10/0x20\n" + STACK


def first(text: str) -> Crash:
    return read_crashes(text.encode())[0]


@pytest.mark.parametrize(
    ("text", "title", "kind"),
    [
        ("BUG: KASAN: slab-out-of-bounds in memcpy+0x1/0x2\nWrite of size 8 at addr 1\n" + STACK,
         "KASAN: slab-out-of-bounds Write in victim", "KASAN-WRITE"),
        ("BUG: KASAN: double-free in kfree+0x1/0x2\nFree of addr 1\n" + STACK,
         "KASAN: invalid-free in victim", "KASAN-INVALID-FREE"),
        ("BUG: KCSAN: data-race in one / other\n", "KCSAN: data-race in one / other", "KCSAN-DATARACE"),
        ("BUG: KFENCE: out-of-bounds write in victim+0x1/0x2\n victim+0x1/0x2\n caller+0x1/0x2\n",
         "KFENCE: out-of-bounds write in victim", "KFENCE-WRITE"),
        ("BUG: unable to handle page fault for address: 1\n" + REGS,
         "BUG: unable to handle kernel paging request in victim", "MEMORY_SAFETY_BUG"),
        ("BUG: kernel NULL pointer dereference, address: 8\n" + REGS,
         "BUG: unable to handle kernel NULL pointer dereference in victim", "NULL-POINTER-DEREFERENCE"),
        ("Oops: divide error: 0000 [#1] SMP\n" + REGS, "divide error in victim", "DoS"),
        ("Oops: stack segment: 0000 [#1] SMP\n" + REGS, "stack segment fault in victim", "DoS"),
        ("kernel BUG at fs/a.c:12!\nOops: invalid opcode: 0000 [#1]\n" + REGS, "kernel BUG in victim", "BUG"),
        ("kernel BUG at lib/list_debug.c:5!\n" + REGS, "BUG: corrupted list in victim", "MEMORY_SAFETY_BUG"),
        ("WARNING: fs/a.c:12 at victim+0x10/0x20, CPU#1: a/1\n" + REGS, "WARNING in victim", "WARNING"),
        ("WARNING: CPU: 1 PID: 1 at mm/page_alloc.c:1 kmalloc_x+0x1/0x2\n" + REGS,
         "WARNING: kmalloc bug in victim", "WARNING"),
        ("WARNING: possible recursive locking detected\na/1 is trying to acquire lock:\n"
         "ffff888104a1c0a8 (x){+.+.}-{3:3}, at: victim+0x1/0x2\n" + STACK,
         "possible deadlock in victim", "LOCKDEP"),
        ("WARNING: suspicious RCU usage\nfs/a.c:1 suspicious rcu_dereference_check() usage!\n" + STACK,
         "WARNING: suspicious RCU usage in victim", "LOCKDEP"),
        ("BUG: sleeping function called from invalid context at mm/a.c:1\n" + STACK,
         "BUG: sleeping function called from invalid context in victim", "ATOMIC_SLEEP"),
        ("BUG: using smp_processor_id() in preemptible [00000000] code: a/1\n" + STACK,
         "BUG: using smp_processor_id() in preemptible code in victim", "LOCKDEP"),
        ("BUG: memory leak\n  backtrace (crc 1f):\n    kmalloc+0x1/0x2\n    victim+0x1/0x2\n    a+0x1/0x2\n",
         "memory leak in victim", "LEAK"),
        (LOCKUP, "BUG: soft lockup in victim", "HANG"),
        ("UBSAN: shift-out-of-bounds in a.c:1:2\n" + STACK, "UBSAN: shift-out-of-bounds in victim", "UBSAN"),
        ("BUG: Bad rss-counter state mm:1 idx:0 val:1\n", "BUG: Bad rss-counter state", None),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n" + STACK,
         "kernel panic: VFS: Unable to mount root fs on unknown-block(NUM,NUM)", "DoS"),
        ("Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: victim+0x1/0x2\n",
         "kernel panic: stack is corrupted in victim", "DoS"),
        ("Unable to handle kernel paging request at virtual address 1\npc : victim+0x1/0x2\n" + STACK,
         "BUG: unable to handle kernel paging request in victim", "MEMORY_SAFETY_BUG"),
        ("Booting the kernel.\n", "unexpected kernel reboot", "REBOOT"),
        ("BUG: MAX_LOCKDEP_KEYS too low!\n", "BUG: MAX_LOCKDEP_KEYS too low!", None),
        ("VFS: Busy inodes after unmount of sdb (ext4)\n",
         "VFS: Busy inodes after unmount (use-after-free)", "DoS"),
    ],
)  # fmt: skip
def test_title(text: str, title: str, kind: str | None) -> None:
    crash = first(text)
    assert (crash.title, crash.type, crash.corrupted) == (title, kind, None)


@pytest.mark.parametrize(
    ("log", "title", "alternatives"),
    [
        (WARNING, "WARNING in module_put", ()),
        (REFCOUNT, "WARNING: refcount bug in vethx_put_peer", ()),
        (KASAN, "KASAN: slab-use-after-free Read in foo_release", ("bad-access in foo_release",)),
        (GPF, "general protection fault in bar_timeout", ("bad-access in bar_timeout",)),
        (LOCKDEP, "possible deadlock in take_a", ()),
        (HUNG, "INFO: task hung in store_value", ("hang in store_value",)),
    ],
)
def test_whole_reports(log: bytes, title: str, alternatives: tuple[str, ...]) -> None:
    crash = read_crashes(log)[0]
    assert crash.title == title
    assert crash.alt_titles == alternatives
    assert crash.corrupted is None


def test_system_calls_have_one_title_and_all_their_names() -> None:
    stall = "BUG: soft lockup - CPU#0 stuck\nRIP: 0010:a+0x1/0x2\nCall Trace:\n __x64_sys_futex+0x1/0x2\n"
    crash = first(stall + " do_syscall_64+0x1/0x2\n")
    assert crash.title == "BUG: soft lockup in sys_futex"
    assert "BUG: soft lockup in __x64_sys_futex" in crash.alt_titles


def test_cut_reports_say_so() -> None:
    for end in range(len(KASAN) - 1):
        if b"foo_release+0x51/0x90\n" in KASAN[:end] and b"Call Trace" not in KASAN[:end]:
            assert read_crashes(KASAN[:end])[0].corrupted
    assert first("WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n").corrupted
    assert first("Kernel panic - not syncing: Fatal exception\n").corrupted


def test_frames_of_another_caller_are_not_taken() -> None:
    lines = GPF.decode().splitlines()
    stranger = "[   77.000005][  T999]  stranger+0x10/0x20"
    mixed = [line for own in lines for line in (own, stranger)]
    crash = first("\n".join(mixed) + "\n")
    assert crash.title == "general protection fault in bar_timeout"
    assert "stranger" not in crash.text


def test_every_format_is_reachable() -> None:
    formats = [format_ for family in FAMILIES for format_ in family.FORMATS]
    assert {format_.header for format_ in formats} == set(HEADERS)
    assert sum(map(len, BY_HEADER.values())) == len(formats)
    for format_ in formats:
        compiled(format_.line)
        for step in (*format_.then, *(format_.stack.path if format_.stack else ())):
            compiled(step)
        words = set(re.findall(r"\{(\w+)\}", " ".join((format_.title, *format_.alt))))
        given = set(compiled(format_.line).groupindex)
        given |= {name for step in format_.then for name in compiled(step).groupindex}
        given |= {"frame", "origin"} if format_.stack else set()
        assert words <= given, format_


def test_noise_is_no_crash() -> None:
    assert set(NOISE) <= set(HEADERS)
    assert announced("EXT4-fs (sda1): WARNING: mounting unchecked fs") is None
    assert announced("traps: a[1] general protection fault ip:1 sp:2 error:0 in a[1+2]") is None
    assert announced("INFO: NMI handler (perf) took too long to run: 1.3 msecs") is None


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("x in f at addr ffff88810b3a4c38", "x in f at addr ADDR"),
        ("x at net/core/dev.c:123", "x at net/core/dev.c:LINE"),
        ("in ip6_fragment+0x1052/0x2d80", "in ip6_fragment"),
        ("on 10.0.0.12 CPU#3", "on IP CPU"),
        ("in cfg80211_scan 1,2,3", "in cfg80211_scan NUM,NUM,NUM"),
        ("a\tb \x01 c", "a b c"),
        ("a " * 200, ("a " * 60).strip()),
    ],
)
def test_what_changes_is_left_out(raw: str, title: str) -> None:
    assert clean(raw) == title


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("_RNvMs_NtCs1234_6binder7processNtB4_7Process5flush", "<binder::process::Process>::flush"),
        ("_RNvXs1_NtCs5_6kernel4taskNtB5_4TaskNtNtB7_5types3Ref3put",
         "<kernel::task::Task as kernel::types::Ref>::put"),
        ("_RINvNtC3std3mem8align_ofjE", "std::mem::align_of::<usize>"),
        ("_RNCNvC4name3foo0", "name::foo::{closure#0}"),
        ("_RNvMNtCs3o_4core6optionINtB2_6OptionRShE6unwrap", "<core::option::Option<&[u8]>>::unwrap"),
        ("tcp_close", "tcp_close"),
        ("_RNvB0_", "_RNvB0_"),
        ("_R" + "Nv" * 500, "_R" + "Nv" * 500),
    ],
)  # fmt: skip
def test_rust_names(name: str, source: str) -> None:
    assert demangled(name) == source


def test_rust_panic() -> None:
    crash = first(
        "rust_kernel: panicked at drivers/android/a.rs:12:34:\nindex out of bounds\n"
        "Call Trace:\n _RNvCs1_7___rustc17rust_begin_unwind+0x1/0x2\n"
        " _RNvNtCs1_4core9panicking9panic_fmt+0x1/0x2\n"
        " _RNvMs_NtCs1234_6binder7processNtB4_7Process5flush+0x1/0x2\n"
    )
    assert crash.title == "index out of bounds in <binder::process::Process>::flush"
    assert crash.frame == "<binder::process::Process>::flush"
