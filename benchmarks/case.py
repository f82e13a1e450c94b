"""The case store: logs imported a second and the memory that takes; pages of a large store under load.

Usage: ``python benchmarks/case.py [--logs 10000] [--bugs 10000] [--crashes 1000000] [--postgresql]``.

The large store is filled by statements of the database, not by imports. Then the list of bugs, a search and
single bugs, each time another, are fetched over HTTP by 20 readers while an import runs into the same store
and a machine uploads a log a second by token. Readers who do not wait between two pages are the hard case: as
many people as can be served at all. Those who look at a page for two seconds are what twenty people are.
Figures are milliseconds from the request to the last byte of the answer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from case_fill import fill, log_of, write_logs
from case_readers import Request, measure, told
from ktriage.case.store import open_store
from ktriage.case.store.check import check

READERS = 20
PAUSE = 2.0
WORDS = ("null-ptr", "file_7", "proc_reg_write", "caller_gg", "function_kk")
TESTS = Path(__file__).parents[1] / "tests/case"
FRESH = 10_000_000
"""Numbers from here on are of logs that no store has yet."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--bugs", type=int, default=10_000)
    parser.add_argument("--crashes", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement of pages (15)")
    parser.add_argument("--postgresql", action="store_true", help="a server of its own, not SQLite")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, help="processes that serve (as ktriage serve has it)")
    parser.add_argument("--at", metavar="PLACE", help="the large store: filled where it is empty, and kept")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _database(Path(folder), args) as place:
        say(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}")
        if args.logs:
            imports(Path(folder), args)
        large(place, args)
        again = Path(folder) / "again"
        write_logs(again, max(args.logs, 20_000), args.bugs, first=FRESH)
        pages(place, None, args)
        pages(place, again, args)
        tended(place)


@contextmanager
def _database(folder: Path, args: argparse.Namespace) -> Iterator[str]:
    """Give the place of the large store."""
    if not args.postgresql:
        yield args.at or f"{folder}/large.db"
        return
    sys.path.insert(0, str(TESTS))
    with importlib.import_module("postgres").server() as server:
        yield server.url


def imports(folder: Path, args: argparse.Namespace) -> None:
    """Import a folder into an empty store, and again."""
    write_logs(folder / "logs", args.logs, max(1, args.logs // 10))
    for name in ("first import", "second import"):
        command = [
            "import",
            "--json",
            "--case",
            f"{folder}/small.db",
            "--jobs",
            str(args.jobs),
            f"{folder}/logs",
        ]
        began = time.monotonic()
        with _ktriage(*command, out=subprocess.PIPE) as process:
            assert process.stdout
            peaks, last = [], ""
            for number, line in enumerate(process.stdout):
                last = line
                if number % max(1, args.logs // 8) == 0:
                    peaks.append(f"{memory(process.pid):.0f}")
            process.wait()
        seconds = time.monotonic() - began
        said = json.loads(last)
        say(
            f"{name}: {said['logs'] / seconds:.0f} logs a second with {args.jobs} jobs, {said['new']} bugs "
            f"new, {said['known']} logs known; MiB as it went: {' '.join(peaks)}"
        )
    shutil.rmtree(folder / "logs")


def large(place: str, args: argparse.Namespace) -> None:
    """Fill the large store, unless it is there."""
    store = open_store(place)
    began = time.monotonic()
    if not store.bugs(limit=1)[1]:
        fill(store, args.bugs, args.crashes)
    _, bugs = store.bugs(limit=1)
    say(f"{bugs:,} bugs, {args.crashes:,} crashes: filled in {time.monotonic() - began:.0f} s")
    store.close()


def pages(place: str, logs: Path | None, args: argparse.Namespace) -> None:
    """Serve a store, and fetch pages with many readers, with an import under way or not."""
    store = open_store(place)
    token = store.new_token("benchmark")
    store.close()

    def request(reader: int, number: int, host: str) -> Request:
        bug = (reader * 7919 + number * 104729) % args.bugs + 1
        name, path = (
            ("list", ("/", "/?sort=crashes", "/?state=open", "/?offset=100")[number // 3 % 4]),
            ("search", f"/?q={WORDS[bug % len(WORDS)]}"),
            ("bug", f"/bugs/{bug}"),
        )[number % 3]
        return name, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    began = time.time_ns() // 1_000_000 % FRESH

    def upload(number: int, host: str) -> Request:
        log = log_of(number % args.bugs, 2 * FRESH + began + number)
        head = f"POST /api/v1/logs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        return "upload", f"{head}Content-Length: {len(log)}\r\n\r\n".encode() + log

    workers = ["--workers", str(args.workers)] if args.workers else []
    with _ktriage("serve", "--case", place, "--port", "0", *workers, err=subprocess.PIPE) as server:
        assert server.stderr
        address = next(word for word in server.stderr.readline().split() if word.startswith("http"))
        measure(address, 2 * READERS, 3.0, request)  # all workers are up, and have all templates
        import_ = ["import", "--case", place, "--jobs", "1", str(logs)]
        importing = nullcontext() if logs is None else _ktriage(*import_, out=subprocess.DEVNULL)
        with importing as process:
            time.sleep(2.0 if process else 0.0)
            for readers, pause in ((1, 0.0), (READERS, PAUSE), (READERS, 0.0)):
                used = time.process_time()
                times = measure(address, readers, args.seconds, request, pause=pause, upload=upload)
                used = (time.process_time() - used) / args.seconds
                if process is not None and process.poll() is not None:
                    raise RuntimeError("the import ended too soon: give more --logs or fewer --seconds")
                load = "an import under way" if process else "otherwise idle"
                count = sum(map(len, times.values())) / args.seconds
                wait = f"{pause:.0f} s between pages" if pause else "no wait between pages"
                say(
                    f"{readers} readers, {wait}, {load}: {count:.0f} answers a second; the readers took "
                    f"{used:.0%} of a processor; load average {os.getloadavg()[0]:.1f}; "
                    f"the server has {memory(server.pid):.0f} MiB"
                )
                for name, taken in times.items():
                    say(f"  {name:6} {told(taken)}")


def tended(place: str) -> None:
    """Say how long a check and pruning take, and how much memory."""
    store = open_store(place)
    began = time.monotonic()
    wrong = check(store)
    say(f"check: {len(wrong)} counts are wrong, in {time.monotonic() - began:.1f} s")
    store.close()
    began = time.monotonic()
    with _ktriage("prune", "--keep", "30", "--case", place, out=subprocess.PIPE) as process:
        most = 0.0
        while process.poll() is None:
            most = max(most, memory(process.pid))
            time.sleep(0.2)
        assert process.stdout
        said = process.stdout.read().strip()
    say(f"prune --keep 30: {said}, in {time.monotonic() - began:.1f} s, at most {most:.0f} MiB")


@contextmanager
def _ktriage(
    *command: str, out: int | None = None, err: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command while the block lasts."""
    process = subprocess.Popen([sys.executable, "-m", "ktriage", *command], stdout=out, stderr=err, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def memory(pid: int) -> float:
    """Return the MiB that a process and its children have, what they share counted once (proc(5))."""
    total, ours = 0, {pid}
    for place in sorted(Path("/proc").glob("[0-9]*"), key=lambda place: int(place.name)):
        with suppress(OSError, ValueError):
            number, parent = int(place.name), int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if number in ours or parent in ours:
                ours.add(number)
                lines = (place / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def say(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
