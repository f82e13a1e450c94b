"""The case store: logs imported a second and the memory that takes; pages of a large store under load.

Usage: ``python benchmarks/case.py [--logs 10000] [--bugs 10000] [--crashes 1000000] [--url POSTGRESQL]``.

The large store is filled by statements of the database, not by imports. Then the list of bugs and single bugs
are fetched over HTTP by 20 readers at once while an import runs; figures are milliseconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from sqlalchemy import insert

from ktriage.case.store import Store, open_store
from ktriage.case.store.models import BugRow, CrashRow, FunctionRow, TitleRow
from ktriage.case.store.types import BugState

OOPS = """[    1.000000] Linux version 6.1.0-{number} (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: {number} Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:function_{bug}+0x9/0x20
[   12.345683] Call Trace:
[   12.345684]  <TASK>
[   12.345685]  caller_{bug}+0x1be/0x22c
[   12.345686]  vfs_write+0xc7/0x3f0
[   12.345687]  do_syscall_64+0x5d/0x90
[   12.345688]  </TASK>
"""
BOOT = "".join(
    f"[    1.{n:06d}] pci 0000:00:{n % 32:02x}.0: [8086:{n:04x}] type 00 class 0x060000\n" for n in range(150)
)
READERS = 20
PAGES = 15
BATCH = 20_000


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--bugs", type=int, default=10_000)
    parser.add_argument("--crashes", type=int, default=1_000_000)
    parser.add_argument("--url", help="a PostgreSQL database, empty, for the large store")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        write_logs(logs, args.logs)
        place = f"{folder}/small.db"
        for name in ("first import", "second import"):
            imported(name, place, logs, args)
        large = args.url or f"{folder}/large.db"
        store = open_store(large)
        began = time.monotonic()
        fill(store, args.bugs, args.crashes)
        say(
            f"filled with {args.bugs:,} bugs and {args.crashes:,} crashes in {time.monotonic() - began:.0f} s"
        )
        store.close()
        for busy in (False, True):
            pages(large, logs if busy else None, args)


def write_logs(folder: Path, count: int) -> None:
    """Write small logs, of which a tenth are of bugs of their own."""
    for number in range(count):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.log").write_text(
            BOOT + OOPS.format(number=number, bug=number % max(1, count // 10))
        )


def imported(name: str, place: str, logs: Path, args: argparse.Namespace) -> None:
    """Import the folder in a process of its own, and say how fast and how large that was."""
    command = [
        sys.executable,
        "-m",
        "ktriage",
        "import",
        "--case",
        place,
        "--jobs",
        str(args.jobs),
        str(logs),
    ]
    began = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    say(
        f"{name}: {args.logs / seconds:.0f} logs a second, {args.jobs} jobs, "
        f"the largest process {peak:.0f} MiB"
    )
    say(f"  {done.stdout.strip()}")


def fill(store: Store, bugs: int, crashes: int) -> None:
    """Put many bugs and crashes into a store, as imports would leave them."""
    now = time.time()
    with store.batch() as connection:
        rows = [
            {
                "id": n + 1, "title": f"KASAN: use-after-free Read in function_{n}", "type": None,
                "state": str(BugState.OPEN),
                "frame": f"function_{n}", "guilty_file": f"drivers/net/file_{n % 900}.c",
                "stack": f"function_{n} caller_{n % 500} vfs_write do_syscall_64", "first_seen": now - n,
                "last_seen": now - n / 2, "crashes": crashes // bugs, "kept": 0,
                "words": f"kasan: use-after-free read in function_{n} caller_{n % 500} file_{n % 900}.c",
            }
            for n in range(bugs)
        ]  # fmt: skip
        connection.execute(insert(BugRow), rows)
        connection.execute(
            insert(TitleRow), [{"title": row["title"], "bug_id": row["id"], "crashes": 1} for row in rows]
        )
        names = [
            {"name": name, "bug_id": row["id"]}
            for row in rows
            for name in dict.fromkeys(str(row["stack"]).split())
        ]
        connection.execute(insert(FunctionRow), names)
    for start in range(0, crashes, BATCH):
        with store.batch() as connection:
            some = [
                {
                    "bug_id": n % bugs + 1, "start": n, "line": n, "title": rows[n % bugs]["title"],
                    "when": now - n, "kernel": "6.1.0", "rank": float(n % 16), "report": None,
                }
                for n in range(start, min(start + BATCH, crashes))
            ]  # fmt: skip
            connection.execute(insert(CrashRow), some)


def pages(place: str, logs: Path | None, args: argparse.Namespace) -> None:
    """Serve a store, and fetch pages with many readers, with an import under way or not."""
    server = subprocess.Popen(
        [sys.executable, "-m", "ktriage", "serve", "--case", place, "--port", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr
    address = next(word for word in server.stderr.readline().split() if word.startswith("http"))
    importing = None
    if logs is not None:
        command = [sys.executable, "-m", "ktriage", "import", "--case", place, "--jobs", "1", str(logs)]
        importing = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(2)
    try:
        for readers in (1, READERS):
            times: dict[str, list[float]] = {"list": [], "search": [], "bug": []}
            threads = [
                threading.Thread(target=read, args=(address, number, args.bugs, times))
                for number in range(readers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            load = "while an import runs" if logs else "otherwise idle"
            for name, taken in times.items():
                taken.sort()
                middle, late = statistics.median(taken), taken[int(len(taken) * 0.95)]
                say(f"{name}, {readers} readers, {load}: median {middle:.0f} ms, 95% within {late:.0f} ms")
    finally:
        server.terminate()
        server.wait()
        if importing is not None:
            importing.terminate()
            importing.wait()


def read(address: str, reader: int, bugs: int, times: dict[str, list[float]]) -> None:
    """Fetch pages one after another."""
    for number in range(PAGES):
        bug = (reader * 7919 + number * 104729) % bugs + 1
        for name, path in (
            ("list", "?sort=crashes"),
            ("search", f"?q=function_{bug}"),
            ("bug", f"bugs/{bug}"),
        ):
            began = time.monotonic()
            with urllib.request.urlopen(address + path) as answer:
                answer.read()
            times[name].append(1000 * (time.monotonic() - began))


def say(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
