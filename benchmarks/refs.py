"""How fast traces are read into the ledger, in how much memory, and how often it accuses rightly.

usage: benchmarks/refs.py [speed [EVENTS]...] [accuracy [HISTORIES]] [dat TRACE.DAT]

``speed`` makes ftrace text with stacks on the fly, writes it to ``ktriage refs read --json -`` and prints the
processor time and the peak memory of that (default: 10,000, 1,000,000 and 10,000,000 events). ``accuracy``
makes histories with faults planted in them and compares what is said with what was planted. ``dat`` reads a
trace.dat, with the time that ``trace-cmd report`` alone takes beside it.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice

from ktriage.refs.read import read_lines
from ktriage.refs.simulate import Plan, Route, history, routes
from ktriage.refs.types import Account

FRAMES = 12
ROUTES = 40


def blocks(seed: int) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Return routes as (site that gets, its stack, site that puts, its stack)."""
    made = []
    chance = random.Random(seed)
    for index in range(ROUTES):
        stacks = []
        for verb, counting in (("open", "try_module_get"), ("release", "module_put")):
            names = ["trace_event_raw_event_module_refcnt", counting, f"user{index}_{verb}"]
            names += [f"path{chance.randrange(400)}_{verb}_{depth}" for depth in range(FRAMES - 5)]
            names += ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"]
            stacks.append(
                "".join(f" => {name}+0x{chance.randrange(4096):x}/0x1000\n" for name in names).encode()
            )
        made.append((f"user{index}_open".encode(), stacks[0], f"user{index}_release".encode(), stacks[1]))
    return made


def events(number: int, seed: int = 0) -> Iterator[bytes]:
    """Yield the text of ``number`` events of one module: 200 tasks on 4 CPUs, a few references each."""
    chance = random.Random(seed)
    made = blocks(seed)
    holding: list[list[int]] = [[] for _ in range(200)]
    now, count = 100.0, 1
    heads = [f"          task-{1000 + task:<7} [{{:03}}] ...1. ".encode() for task in range(200)]
    for _ in range(number):
        task = chance.randrange(200)
        now += 0.00001
        held = holding[task]
        taking = not held or (len(held) < 4 and chance.random() < 0.5)
        route = chance.randrange(ROUTES) if taking else held.pop()
        if taking:
            held.append(route)
        count += 1 if taking else -1
        site, stack = made[route][:2] if taking else made[route][2:]
        head = heads[task].replace(b"{:03}", b"%03d" % (task % 4)) + b"%12.6f: " % now
        verb = b"get" if taking else b"put"
        yield b"%smodule_%s: ulp call_site=%s refcnt=%d\n%s<stack trace>\n%s" % (
            head, verb, site, count, head, stack,
        )  # fmt: skip


def speed(number: int) -> None:
    """Print what reading ``number`` events costs."""
    with subprocess.Popen(
        [sys.executable, "-m", "ktriage", "refs", "read", "--json", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        size = 0
        stream = events(number)
        while piece := b"".join(islice(stream, 4096)):
            process.stdin.write(piece)
            size += len(piece)
        process.stdin.close()
        printed = process.stdout.read()
        _, _, used = os.wait4(process.pid, 0)
    seconds = used.ru_utime + used.ru_stime
    print(
        f"{number:>12,} events, {size / 1e6:8.1f} MB: {seconds:7.2f} s of processor time, "
        f"{seconds / number * 1e6:6.2f} us each, {used.ru_maxrss / 1024:5.0f} MB peak, "
        f"{printed.count(b'likely') + printed.count(b'certain')} accusations",
        flush=True,
    )


def simple(chance: random.Random, number: int) -> tuple[Route, ...]:
    """Return routes of which each has its own path to drop."""
    return routes(chance, number, mixed=False)


PLANS: dict[str, tuple[bool, Plan]] = {
    "no faults": (False, Plan()),
    "no faults, shared paths": (True, Plan()),
    "no faults, cut under load": (True, Plan(cut=True, rate=20_000)),
    "no faults, holders": (False, Plan(holders=4)),
    "leaks": (False, Plan(leaks=3)),
    "puts too many": (False, Plan(overputs=3)),
    "leaks, shared paths": (True, Plan(leaks=3)),
    "puts too many, shared paths": (True, Plan(overputs=3)),
    "leaks, holders": (False, Plan(leaks=3, holders=4)),
    "leaks, ten times the load": (False, Plan(leaks=3, rate=20_000)),
    "leaks, clocks differ": (False, Plan(leaks=3, skew=2e-4)),
    "leaks, three objects": (False, Plan(leaks=3, objects=("a", "b", "c"))),
    "1% lost, no faults": (False, Plan(lost=0.01)),
    "1% lost, leaks": (False, Plan(leaks=3, lost=0.01)),
    "1% lost, puts too many": (False, Plan(overputs=3, lost=0.01)),
    "1% lost in runs, leaks": (False, Plan(leaks=3, lost=0.01, run=20)),
}


def accuracy(number: int, wanted: str = "") -> None:
    """Print for each plan how many faults were found and how many accusations were false."""
    print(f"{'':32} {'planted':>8} {'found':>6} {'false':>6} {'certain and false':>18} {'net right':>10}")
    for name, (mixed, plan) in PLANS.items():
        if wanted in name:
            print(f"{name:32} {study(plan, number, mixed=mixed)}", flush=True)


def study(plan: Plan, number: int, *, mixed: bool) -> str:
    """Return a line of the table."""
    planted = found = false = sure = net = 0
    for seed in range(number):
        chance = random.Random(seed)
        whole = Plan(
            **{name: getattr(plan, name) for name in Plan.__slots__ if name != "routes"},
            routes=routes(chance, chance.randrange(2, 9), mixed=mixed),
        )
        made = history(whole, seed)
        accounts = read_lines(made.lines)
        wanted = [(fault.object, fault.kind, fault.path) for fault in made.faults]
        said = accusations(accounts)
        planted += len(wanted)
        found += sum(fault in [entry[:3] for entry in said] for fault in wanted)
        false += sum(entry[:3] not in wanted for entry in said)
        sure += sum(entry[:3] not in wanted and entry[3] == "certain" for entry in said)
        net += all(account.last == made.counts[account.object] for account in accounts)
    return f"{planted:8} {found:6} {false:6} {sure:18} {net:6}/{number}"


def accusations(accounts: list[Account]) -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return the first five of each object's ranking as object, kind, path and certainty."""
    said: list[tuple[str, str, tuple[str, ...], str]] = []
    for account in accounts:
        both = [("leak", entry) for entry in account.unmatched_gets]
        both += [("overput", entry) for entry in account.unmatched_puts]
        both.sort(key=lambda item: ("certain", "likely", "possible").index(item[1].certainty))
        said += [(account.object, kind, entry.path, entry.certainty) for kind, entry in both[:5]]
    return said


def dat(path: str) -> None:
    """Print what reading a trace.dat costs, and trace-cmd alone."""
    for words in (
        ["trace-cmd", "report", "-t", "-i", path],
        [sys.executable, "-m", "ktriage", "refs", "read", path],
    ):
        began = time.perf_counter()
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        print(f"{' '.join(words[:4]):60} {time.perf_counter() - began:7.2f} s")


def main() -> None:
    """Run what was asked for."""
    what, *rest = sys.argv[1:] or ["speed"]
    if what == "speed":
        for number in [int(word.replace(",", "")) for word in rest] or [10_000, 1_000_000, 10_000_000]:
            speed(number)
    elif what == "accuracy":
        accuracy(int(rest[0]) if rest else 20, *rest[1:])
    elif what == "dat" and rest:
        dat(rest[0])
    else:
        sys.exit(__doc__)
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors; "
          f"peak of this: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
