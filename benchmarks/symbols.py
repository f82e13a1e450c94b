"""How long source lines take: ktriage as a whole process, beside the kernel's own script and addr2line.

usage: benchmarks/symbols.py LOG VMLINUX [DECODE_STACKTRACE]

LOG has a crash of the kernel that VMLINUX is of. DECODE_STACKTRACE is scripts/decode_stacktrace.sh of a
kernel tree. Lines are compared with what ``addr2line -i`` says of each call: decode_stacktrace.sh of Linux
6.1 looks up the address that a call returns to, which is often another line.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from ktriage.console import read_crashes
from ktriage.symbols.symbolize import exact_frames, symbolize_crash


def timed(command: list[str], stdin: Path = Path("/dev/null")) -> float:
    """Return the least wall-clock seconds of three runs of a command."""
    least = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        with stdin.open("rb") as file:
            subprocess.run(
                command, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
            )
        least = min(least, time.perf_counter() - began)
    return least


def agreement(log: Path, vmlinux: Path) -> tuple[int, int]:
    """Return how many of the kernel's frames have the lines that addr2line gives, and of how many."""
    crash = next(crash for crash in read_crashes(log.read_bytes()) if crash.stack)
    found = symbolize_crash(crash, vmlinux=vmlinux)
    table = subprocess.run(["nm", vmlinux], check=True, capture_output=True, text=True).stdout
    starts: dict[str, list[int]] = {}
    for line in table.splitlines():
        start, _, name = line.split(" ", 2)
        starts.setdefault(name, []).append(int(start, 16))
    exact = exact_frames(crash.text)
    same = total = 0
    places: list[str] = []
    for frame in found.stack:
        if frame.file:
            places.append(f"{frame.file}:{frame.line}")
        if frame.inline:
            continue
        if frame.file and frame.offset is not None and len(starts.get(frame.function, ())) == 1:
            back = 0 if (frame.function, frame.offset) in exact else 1
            address = starts[frame.function][0] + frame.offset - back
            said = subprocess.run(
                ["addr2line", "-i", "-e", vmlinux, hex(address)], check=True, capture_output=True, text=True
            ).stdout
            theirs = [line.split(" (")[0] for line in said.split("\n")[:-1]]
            total += 1
            same += len(theirs) == len(places) and all(
                a.endswith(b) for a, b in zip(theirs, places, strict=True)
            )
        places = []
    return same, total


def main() -> int:
    """Print the table."""
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    log, vmlinux = Path(sys.argv[1]), Path(sys.argv[2])
    ours = timed([sys.executable, "-m", "ktriage", "report", "--first", "--vmlinux", str(vmlinux), str(log)])
    plain = timed([sys.executable, "-m", "ktriage", "report", "--first", str(log)])
    print(f"ktriage report, with lines      {ours:7.3f} s")
    print(f"ktriage report, without         {plain:7.3f} s")
    if len(sys.argv) == 4:
        theirs = timed(["bash", sys.argv[3], str(vmlinux)], log)
        print(f"decode_stacktrace.sh            {theirs:7.3f} s  ({theirs / ours:.0f} times as long)")
    same, total = agreement(log, vmlinux)
    print(f"lines as addr2line -i has them  {same} of {total} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
