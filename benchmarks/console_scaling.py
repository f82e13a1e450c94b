#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Whether reading a console log stays linear on logs made to hurt it.

usage: console_scaling.py [--largest MB] [--limit SECONDS] [NAME]...

Prints, for each kind of log and for sizes that double, the processor seconds that each MB takes. They should
stay the same along a line; ``growth`` is the factor from the smallest to the largest size. A kind is given
up at the first size that takes longer than the limit. NAME picks kinds. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Callable

from ktriage.console.reader import Reader

MB = 1_000_000
SMALLEST = 0.0625
REPORT = b"""\
------------[ cut here ]------------
refcount_t: underflow; use-after-free.
WARNING: CPU: 0 PID: 1234 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110
Modules linked in: a(OE) b c [last unloaded: d]
CPU: 0 PID: 1234 Comm: bench Tainted: G        W  OE      6.1.0 #1
RIP: 0010:refcount_warn_saturate+0xba/0x110
Code: 01 01 e8 8a 9c 8f ff 0f 0b c3 <0f> 0b c3
RSP: 0018:ffffc90000a2fdf8 EFLAGS: 00010286
RAX: 0000000000000000 RBX: ffff888004c4e000 RCX: 0000000000000000
Call Trace:
 <TASK>
 __sk_destruct+0x142/0x1f0
 tcp_close+0x1d/0x70 [a]
 entry_SYSCALL_64_after_hwframe+0x64/0xce
 </TASK>
---[ end trace 0000000000000000 ]---
"""
LINES = REPORT.splitlines()
GPF = b"general protection fault, probably for non-canonical address 0xdead%d: 0000 [#%d] SMP\n"


def stamped(lines: list[bytes], callers: list[bytes]) -> bytes:
    """Return lines with the time and their callers' ids before them."""
    return b"".join(
        b"[%5d.%06d][%6s] %s\n" % (number // 1000, number % 1000, caller, line)
        for number, (line, caller) in enumerate(zip(lines, callers, strict=True))
    )


def one_line(size: int) -> bytes:
    """Return one line that announces a crash and never ends."""
    return b"BUG: KASAN: use-after-free in f+0x1/0x2 " + b"x" * size


def line_of_headers(size: int) -> bytes:
    """Return one line of nothing but announcements."""
    return b"BUG: WARNING: INFO: panic: " * (size // 27)


def line_of_suppressed(size: int) -> bytes:
    """Return a crash, and one line of words that mark what is no crash of the kernel."""
    return REPORT + b"executor sshd SIGBUS " * (size // 21)


def line_of_frames(size: int) -> bytes:
    """Return a crash whose stack is one line."""
    return REPORT.partition(b" <TASK>")[0] + b" f+0x1/0x2" * (size // 10)


def frames(size: int) -> bytes:
    """Return a stack of as many frames as fit."""
    head = REPORT.partition(b" <TASK>")[0]
    return head + b"".join(b" function_%d+0x10/0x20\n" % (n % 1000) for n in range(size // 26))


def doubtful(size: int) -> bytes:
    """Return a stack of frames that the unwinder can't vouch for."""
    return REPORT.partition(b" <TASK>")[0] + b" ? f+0x10/0x20 [m]\n" * (size // 19)


def nulls(size: int) -> bytes:
    """Return a report, then NULs, then another."""
    return REPORT + b"\0" * size + b"\n" + REPORT


def null_lines(size: int) -> bytes:
    """Return a report in which every other line is a NUL and every tenth announces a crash."""
    return (b"\0\n" * 9 + b"BUG: \0\n") * (size // 25)


def carriage_returns(size: int) -> bytes:
    """Return a report, then returns without line feeds."""
    return REPORT + b"\r" * size


def cut_here(size: int) -> bytes:
    """Return reports that begin and never get on."""
    one = LINES[0] + b"\n" + LINES[1] + b"\n" + LINES[2] + b"\n"
    return one * (size // len(one))


def distinct(size: int) -> bytes:
    """Return announcements one after the other, each with words of its own."""
    words = [
        bytes([97 + n % 26, 97 + n // 26 % 26, 97 + n // 676 % 26, 97 + n // 17576]) for n in range(400_000)
    ]
    return b"".join(b"BUG: unable to handle %s\n" % words[n] for n in range(size // 28))


def halves(size: int) -> bytes:
    """Return half reports, each of another function, cut somewhere."""
    chance = random.Random(1)
    made = bytearray()
    while len(made) < size:
        name = bytes(chance.choices(b"abcdefghijklmnop", k=6))
        text = REPORT.replace(b"refcount_warn_saturate", name).replace(b"__sk_destruct", name[::-1])
        made += text[: chance.randrange(100, len(text))] + b"\n"
    return bytes(made)


def mixed(size: int, kinds: tuple[bytes, ...] = (b"C%d", b"T%d")) -> bytes:
    """Return reports of many CPUs and tasks, their lines shuffled among each other."""
    chance = random.Random(1)
    queues = [(kinds[n % len(kinds)] % n, list(LINES)) for n in range(64)]
    lines, callers, length = [], [], 0
    while length < size:
        caller, queue = chance.choice(queues)
        line = queue.pop(0).replace(b"__sk_destruct", b"f%d" % (length % 997))
        if not queue:
            queue += [*LINES]
        lines.append(line)
        callers.append(caller)
        length += len(line) + 24
    return stamped(lines, callers)


def all_cpus(size: int) -> bytes:
    """Return stalls, each of which asks every CPU for its stack."""
    text = [
        *(b"rcu: INFO: rcu_preempt self-detected stall on CPU", b"Sending NMI from CPU 0 to CPUs 1:"),
        *(b"NMI backtrace for cpu 1", b"RIP: 0010:f+0x1/0x2", b"Call Trace:", b" g+0x1/0x2"),
    ]
    count = size // (sum(map(len, text)) + 24 * len(text))
    return stamped(text * count, [b"C0", b"C0", b"C1", b"C1", b"C1", b"C1"] * count)


def oopses(size: int) -> bytes:
    """Return oopses without end, each with numbers of its own."""
    return b"".join(GPF % (n, n) for n in range(size // 76))


def panics(size: int) -> bytes:
    """Return ends of panics, and no panic."""
    return b"---[ end Kernel panic - not syncing: Fatal exception ]---\n" * (size // 59)


def locks(size: int) -> bytes:
    """Return a hung task, and the locks of everybody."""
    head = (
        b"INFO: task bench:12 blocked for more than 120 seconds.\n\nShowing all locks held in the system:\n"
    )
    one = b"1 lock held by bench/%d:\n #0: ffff88800%07x (&a->lock){+.+.}-{3:3}, at: f+0x1/0x2\n"
    return head + b"".join(one % (n, n % (1 << 28)) for n in range(size // 90))


def modules(size: int) -> bytes:
    """Return a report with modules without end."""
    return REPORT.replace(b" b c ", b"".join(b" m%d(OE)" % n for n in range(size // 11)) + b" ")


def code(size: int) -> bytes:
    """Return a report with code without end."""
    return REPORT.replace(b"0f 0b c3 <0f>", b"90 " * (size // 3) + b"<0f>")


def quoted(size: int) -> bytes:
    """Return a mail that quotes a report deeper and deeper."""
    lines = [b"> " * (n % 200) + LINES[n % len(LINES)] for n in range(max(size // 240, 1))]
    return b"\n".join(lines)


def brackets(size: int) -> bytes:
    """Return lines of what a stamp begins with."""
    return REPORT + (b"[" * 2000 + b"\n" + b"[ " * 1000 + b"\n") * (size // 4002)


def rust(size: int) -> bytes:
    """Return a stack of mangled names that refer back to themselves."""
    name = b"_RNv" + b"Nt" * 30 + b"C3foo" + b"3barB3_" * 30
    head = REPORT.partition(b" <TASK>")[0]
    return head + (b" " + name + b"+0x1/0x2\n") * (size // (len(name) + 10))


def chain(size: int) -> bytes:
    """Return a possible deadlock whose chain does not end."""
    head = (
        b"WARNING: possible circular locking dependency detected\n6.1.0 #1 Not tainted\n"
        b"bench/12 is trying to acquire lock:\nffff888001 (&a->lock){+.+.}-{3:3}, at: f+0x1/0x2\n\n"
        b"but task is already holding lock:\nffff888002 (&b->lock){+.+.}-{3:3}, at: g+0x1/0x2\n\n"
        b"the existing dependency chain (in reverse order) is:\n\n"
    )
    one = b"-> #%d (&l%d->lock){+.+.}-{3:3}:\n       h+0x1/0x2\n\n"
    return head + b"".join(one % (n, n) for n in range(size // 48))


def kept_open(body: bytes, size: int) -> bytes:
    """Return ``body`` again and again, with a crash of its own between: one region of a MB at a time."""
    count = max(size // (len(body) + 40), 1)
    return b"".join(b"BUG: unable to handle x%d\n%s\n" % (n, body) for n in range(count))


def locks_open(size: int) -> bytes:
    """Return hung tasks and everybody's locks, without a pause."""
    return kept_open(locks(32_000), size)


def suppressed_open(size: int) -> bytes:
    """Return crashes and lines of words that mark what is no crash, without a pause."""
    return kept_open(b"executor sshd SIGBUS " * 1500, size)


def frames_open(size: int) -> bytes:
    """Return crashes and stacks of 1200 frames, without a pause."""
    return kept_open(frames(32_000), size)


def chain_open(size: int) -> bytes:
    """Return possible deadlocks with long chains, without a pause."""
    return kept_open(chain(32_000), size)


KINDS: tuple[Callable[[int], bytes], ...] = (
    *(one_line, line_of_headers, line_of_suppressed, line_of_frames, frames, doubtful, nulls, null_lines),
    *(carriage_returns, cut_here, distinct, halves, mixed, all_cpus, oopses, panics, locks, modules, code),
    *(quoted, brackets, rust, chain, locks_open, suppressed_open, frames_open, chain_open),
)


def seconds(log: bytes) -> float:
    """Return the processor seconds that reading a log takes, whole and fed in pieces, the slower of them."""
    began = time.process_time()
    count = sum(1 for _ in Reader().read(log))
    whole = time.process_time() - began
    began = time.process_time()
    reader = Reader()
    for start in range(0, len(log), 1 << 16):
        count -= sum(1 for _ in reader.feed(log[start : start + (1 << 16)]))
    sum(1 for _ in reader.close())
    return max(whole, time.process_time() - began)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=float, default=8.0, metavar="MB")
    parser.add_argument("--limit", type=float, default=20.0, metavar="SECONDS")
    parser.add_argument("names", nargs="*", metavar="NAME")
    args = parser.parse_args()
    seconds(REPORT)  # loads what is loaded late
    sizes = [SMALLEST]
    while sizes[-1] * 2 <= args.largest:
        sizes.append(sizes[-1] * 2)
    print(f"{'seconds per MB, at MB':<20}" + "".join(f"{size:>8g}" for size in sizes) + "  growth")
    for kind in KINDS:
        if args.names and kind.__name__ not in args.names:
            continue
        print(f"{kind.__name__:<20}", end="", flush=True)
        rates: list[float] = []
        for size in sizes:
            log = kind(int(size * MB))
            used = seconds(log)
            rates.append(used * MB / len(log))
            print(f"{rates[-1]:8.3f}", end="", flush=True)
            if used > args.limit:
                break
        print(f"{rates[-1] / max(rates[0], 1e-9):8.1f}" + ("  given up" if len(rates) < len(sizes) else ""))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main()
