"""How fast console logs are read, beside a bare Vectorscan pass and wc -l.

usage: benchmarks/console.py [--huge]

Logs are made by the corpus' make_log.py (``$KTRIAGE_CORPUS``, or ``../shared/corpus`` beside the checkout)
in a temporary directory: about 450 MB, and 2 GB more with ``--huge``. Times are the best of a few runs; on a
busy machine the processor time beside them says more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hyperscan

from ktriage.console import read_crashes
from ktriage.console.formats.headers import HEADERS
from ktriage.console.reader import Reader

CORPUS = Path(os.environ.get("KTRIAGE_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))
MB = 1_000_000


def best(work: Callable[[], object], runs: int = 5) -> tuple[float, float]:
    """Return the least wall and processor seconds of ``work``."""
    wall = cpu = float("inf")
    for _ in range(runs):
        began, used = time.perf_counter(), time.process_time()
        work()
        wall, cpu = min(wall, time.perf_counter() - began), min(cpu, time.process_time() - used)
    return wall, cpu


def command(path: Path, *options: str) -> tuple[float, float, float, int]:
    """Run ``ktriage report`` and return wall and processor seconds, peak memory in MB, and lines printed."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "ktriage", "report", *options, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        printed = sum(1 for _ in process.stdout)
        _, _, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, printed


def row(what: str, wall: float, cpu: float, size: float | None = None, more: str = "") -> None:
    """Print one line of the table."""
    rate = (
        f"{size / MB / wall / 1000:6.2f} GB/s ({size / MB / cpu / 1000:.2f})" if size and wall and cpu else ""
    )
    print(f"{what:58} {wall * 1000:9.1f} ms ({cpu * 1000:7.1f} cpu) {rate} {more}")


def made(directory: Path, size: int, crashes: int) -> Path:
    """Make a log of ``size`` MB."""
    path = directory / f"{size}-{crashes}.log"
    make = [sys.executable, str(CORPUS / "make_log.py"), str(size), str(crashes), str(path)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return path


def bare(data: bytes) -> Callable[[], object]:
    """Return a bare pass over ``data`` with as many literals as there are headers."""
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    literals = [header.encode() for header in HEADERS]
    database.compile(
        expressions=literals, ids=list(range(len(literals))), elements=len(literals), flags=0, literal=True
    )
    return lambda: database.scan(data, match_event_handler=lambda *_: None)


def in_process(benign: Path) -> None:
    """Print what reading a log without a crash costs, warm."""
    data = benign.read_bytes()
    row(
        "wc -l",
        *best(lambda: subprocess.run(["wc", "-l", benign], check=True, capture_output=True)),
        len(data),
    )
    row(f"bare Vectorscan, {len(HEADERS)} literals", *best(bare(data)), len(data))
    row("no crash, in memory", *best(lambda: list(Reader().read(data))), len(data))
    row(
        "no crash, in memory, not looking for floods",
        *best(lambda: list(Reader(floods=False).read(data))),
        len(data),
    )


def small_logs() -> None:
    """Print what the small logs of the corpus cost, in one process and as a process each."""
    logs = [_log(path.read_bytes()) for path in sorted((CORPUS / "console").glob("*.txt"))]
    wall, cpu = best(lambda: [read_crashes(log) for log in logs])
    row(f"{len(logs)} small logs, each", wall / len(logs), cpu / len(logs))
    with tempfile.NamedTemporaryFile(suffix=".log") as file:
        file.write(max((log for log in logs if len(log) < 20_000), key=len))
        file.flush()
        runs = [command(Path(file.name)) for _ in range(10)]
    row("ktriage report, one small log", min(run[0] for run in runs), min(run[1] for run in runs))


def _log(case: bytes) -> bytes:
    head = re.match(rb"(?:(?:#.*|[A-Z]+: .*)\n)*\n", case)
    return case[head.end() :] if head else case


def big_logs(directory: Path, *, huge: bool) -> None:
    """Print what the whole command costs on big logs with a crash every MB."""
    nothing = directory / "nothing.log"
    nothing.write_text("all is well\n")
    start = min(command(nothing, "--json")[1] for _ in range(5))
    sizes = [(20, made(directory, 20, 20)), (200, made(directory, 200, 200))]
    if huge:
        path = directory / "2000.log"
        with path.open("wb") as file:
            for _ in range(10):
                file.write(sizes[1][1].read_bytes())
        sizes.append((2000, path))
    for size, path in sizes:
        runs = [command(path, "--json") for _ in range(3 if size < 2000 else 1)]
        wall, cpu = min(run[0] for run in runs), min(run[1] for run in runs)
        each = (cpu - start) / size * 1000
        more = f"{each:.2f} ms/MB after start, {runs[0][2]:.0f} MB peak, {runs[0][3]} findings"
        row(f"ktriage report --json, {size} MB, a crash every MB", wall, cpu, size * MB, more)


def main() -> None:
    """Print the table."""
    if not CORPUS.is_dir():
        sys.exit(f"no corpus at {CORPUS} (set KTRIAGE_CORPUS)")
    with tempfile.TemporaryDirectory(prefix="ktriage-bench-") as name:
        directory = Path(name)
        # First what runs as a process of its own: its peak memory would begin with this one's.
        big_logs(directory, huge="--huge" in sys.argv[1:])
        small_logs()
        in_process(made(directory, 200, 0))
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
