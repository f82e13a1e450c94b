"""Stack traces in reports: where they begin, what their lines look like, which frame names the crash."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ktriage.console.formats.format import CALL_TRACE, FUNC, PC, STACK, Stack, compiled
from ktriage.console.formats.skip import skipping
from ktriage.console.rust import demangled

# riscv's show_regs() dumps a stack after its last line with nothing that says so.
RISCV_REGS = r"status: [0-9a-f]{16} badaddr: [0-9a-f]{16} cause: [0-9a-f]{16}"
TRACE_STARTS = (
    "Call [Tt]race",
    "Allocated:",
    "Allocated by task [0-9]+:",
    "Freed:",
    "Freed by task [0-9]+:",
    # kmemleak's, but not the "stack backtrace:" of lockdep, which a "Call Trace:" follows.
    r"[^k] backtrace(?: \(crc [0-9a-fA-F]*\))?:",
    "Backtrace:",
    "Uninit was stored to memory at",
    RISCV_REGS,
)
TRACE_START = re.compile("|".join(TRACE_STARTS), re.ASCII)
STARTS = tuple(re.compile(pattern, re.ASCII) for pattern in TRACE_STARTS)
FRAME = re.compile(
    rf"^ *(?:(?:{PC} ){{0,2}}{FUNC}"
    # 32-bit arm prints both ends of a call; the top frame is only in the first of these.
    rf"|{PC} \(([a-zA-Z0-9_.]+)\) from {PC} \({FUNC})",
    re.ASCII,
)
# Fault injection prints its own stack, often in the middle of the report that it provoked.
INJECTED = re.compile(r"^(?: \[<?(?:0x)?[0-9a-f]+>?\])? should_fail(?:slab)?(?:\.[a-z0-9.]+)?\+0x", re.ASCII)

# A system call's implementation has many names, by architecture, version and calling convention.
SYSCALL_PREFIXES = (
    "SYSC_", "SyS_", "sys_", "__x64_", "__ia32_", "__arm64_", "____sys_", "___sys_", "__sys_", "__se_",
    "__se_sys_", "__do_sys_", "compat_SYSC_", "compat_SyS_", "ksys_",
)  # fmt: skip


def plain(function: str) -> str:
    """Return ``function`` without the prefix that only says how a system call is entered."""
    if not function.startswith(SYSCALL_PREFIXES):
        return function
    return min((function.removeprefix(prefix) for prefix in SYSCALL_PREFIXES), key=len)


def starts_trace(line: str) -> bool:
    """Return whether a stack trace begins after ``line``."""
    # Looking for words first is four times as fast as the pattern.
    return (
        "race" in line or "reed" in line or "located" in line or "Uninit" in line or "badaddr" in line
    ) and TRACE_START.search(line) is not None


@dataclass(frozen=True, slots=True)
class Key:
    """A frame that names a crash: ``name`` as titles have it, ``raw`` as the log has it."""

    name: str
    raw: str


NOBODY = Key("corrupted", "corrupted")

# Whatever a stalled CPU loops in, these are the functions that dispatch to it: the one called by the first
# of them stays the same from report to report, while those above it change.
DISPATCHERS = re.compile(
    "|".join(
        (
            # Works, timers, softirqs, threads, idle CPUs.
            "process_one_work", "do_softirq", "call_timer_fn", "_run_timers", "run_timer_softirq",
            "hrtimer_run", "run_ksoftirqd", "smpboot_thread_fn", "^kthread$", "start_secondary",
            "cpu_startup_entry", "ret_from_fork", "tasklet_(?:hi_)?action", "smp_call_function",
            "netif_receive_skb",
            # System calls.
            "do_syscall_", "do_fast_syscall_", "sysenter_dispatch", "tracesys_phase2", "el0_svc_handler",
            "invoke_syscall", "ret_fast_syscall", "^(?:sys_)?(?:socketpair|connect|ioctl)",
            # File operations: what they call tells one driver from another.
            "vfs_(?:iter_)?(?:read|write)", "do_iter_(?:read|write)", "call_(?:read|write)_iter",
            "new_sync_(?:read|write)", "vfs_ioctl", "ksys_ioctl", "compat_(?:sys_)?ioctl",
            "blkdev_(?:driver_)?ioctl", "do_iter_readv_writev", "^call_mmap", "mmap_region", "do_mmap",
            "do_dentry_open", "vfs_open", "__fput", "task_work_run", "exit_to_usermode",
            # Sockets.
            "^sock_(?:sendmsg|recvmsg|release|mmap|do_ioctl|ioctl)", "^__sock_release", "^setsockopt$",
            "kernel_(?:setsockopt|listen|accept)", "sock_common_setsockopt", "^listen$", "sk_common_release",
            "^accept$", "^compat_sock_ioctl", "^nfnetlink_rcv_msg", "^rtnetlink_rcv_msg", "^netlink_dump",
            # Page faults.
            "__do_fault", "do_page_fault", "^page_fault$",
        )
    ),
    re.ASCII,
)  # fmt: skip

# A hang shows in whoever waits, not in who makes it wait. Two waits are so common that they are bugs of
# their own: for a grace period of RCU, and for the rtnl lock.
GRACE_PERIOD = re.compile("synchronize_(?:rcu|srcu|net|sched)")
WAITING = re.compile(
    "sched|_lock|_slowlock|down|rwsem|completion|kthread|wait|synchronize|context_switch|__switch_to"
    "|cancel_delayed_work|rcu_barrier"
)


def _first(names: list[str]) -> tuple[str, int] | None:
    return names[0], 0


def _stall(names: list[str]) -> tuple[str, int] | None:
    for index, name in enumerate(names):
        if DISPATCHERS.search(name):
            if "smp_call_function" in name:
                return "smp_call_function", index
            previous = max(index - 1, 0)
            return names[previous], previous
    return None


def _hang(names: list[str]) -> tuple[str, int] | None:
    for index, name in enumerate(names):
        if "rtnl_lock" in name:
            return name, index
        if GRACE_PERIOD.search(name):
            return "synchronize_rcu", index
    for index, name in enumerate(names):
        if not WAITING.search(name):
            return name, index
    return None


CHOICES: dict[str, Callable[[list[str]], tuple[str, int] | None]] = {
    "first": _first,
    "stall": _stall,
    "hang": _hang,
}


@cache
def _skip(more: tuple[str, ...]) -> re.Pattern[str]:
    return skipping(more)


def key_frames(stack: Stack, lines: list[str], *, callers: bool) -> tuple[list[Key], bool]:
    """Walk ``stack`` over ``lines`` (the announcing line first, from where it matched).

    ``callers`` says that the log has caller ids. Returns a frame for each stack of the path, ``NOBODY`` for
    one that gave none, and whether all of it was found unspoilt.
    """
    keys, whole = _walk(stack.path, stack, lines)
    for path in (stack.otherwise, () if callers else stack.last):
        if path and not whole:
            keys, whole = _walk(path, stack, lines)
    return keys, whole


def _choose(names: list[str], how: str) -> Key | None:
    if not names:
        return None
    chosen = CHOICES[how]([plain(name) for name in names])
    return Key(chosen[0], names[chosen[1]]) if chosen and chosen[0] else None


def _walk(path: tuple[str, ...], stack: Stack, lines: list[str]) -> tuple[list[Key], bool]:
    skip = _skip(stack.skip)
    names: list[str] = []
    keys: list[Key] = []
    whole, seen_stack = True, False
    index = step = 0
    while True:
        if step == len(path) or (path[step] == STACK and seen_stack):
            key = _choose(names, stack.choose)
            whole = whole and key is not None
            keys.append(key or NOBODY)
            names = []
        if step == len(path):
            return keys, whole
        if path[step] == STACK:
            seen_stack = True
            following = compiled(path[step + 1]) if step + 1 < len(path) else None
            index, advance, clean = _read_stack(lines, index, following, skip, names)
            step += advance
        else:
            index, clean = _find(lines, index, path[step], skip, names)
            step += 1
        whole = whole and clean


def _add(match: re.Match[str], skip: re.Pattern[str], names: list[str]) -> None:
    functions = [demangled(group) for group in match.groups() if group is not None]
    names.extend(function for function in functions if not skip.search(function))


# Most lines can be told apart by a word, without trying the pattern.
_HINTS = {"{ip}": ("IP", "pc ", "PC is"), CALL_TRACE: ("race:",)}


def _hints(pattern: str) -> tuple[str, ...]:
    return next((words for part, words in _HINTS.items() if pattern == part), ())


def _find(
    lines: list[str], index: int, step: str, skip: re.Pattern[str], names: list[str]
) -> tuple[int, bool]:
    """Move past the next line that ``step`` matches. False where fault injection's stack came first."""
    pattern, hints = compiled(step), _hints(step)
    for at in range(index, len(lines)):
        line = lines[at]
        if "should_fail" in line and INJECTED.match(line):
            return at + 1, False
        if hints and not any(hint in line for hint in hints):
            continue
        match = pattern.search(line)
        if match is not None:
            _add(match, skip, names)
            return at + 1, True
    return len(lines), True


def _read_stack(
    lines: list[str],
    index: int,
    following: re.Pattern[str] | None,
    skip: re.Pattern[str],
    names: list[str],
) -> tuple[int, int, bool]:
    """Read frames up to the next stack, or to what the path wants next.

    Returns the next line, how many steps of the path that was, and False where fault injection's stack
    came in between.
    """
    for at in range(index, len(lines)):
        line = lines[at]
        match = following.search(line) if following is not None else None
        if match is not None:
            if starts_trace(line):
                return at + 1, 1, True
            _add(match, skip, names)
            return at + 1, 2, True
        match = FRAME.match(line)
        if match is not None:
            if "should_fail" in line and INJECTED.match(line):
                return at + 1, 1, False
            _add(match, skip, names)
        elif starts_trace(line):
            return at + 1, 1, True
    return len(lines), 1, True
