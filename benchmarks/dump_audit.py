#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""How long the audit of a large guest takes: many sockets, files and tasks.

usage: dump_audit.py [--memory MIB] [--sockets N] [--files N] [--tasks N] [-n RUNS]

A guest on Debian's cloud kernel opens them and is dumped; then the audit is run as a whole process. What is
printed is the median of the runs with a warm page cache, and the largest peak memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from dump import Taken, measure
from ktriage.kernel import packaged_kernel
from ktriage.machine import GuestSpec, Plan, Program, prepare, run

USES = Path(__file__).parents[1] / "tests/dump/programs/uses.c"
GOAL = "60 s, 1024 MiB"


def make_dump(folder: Path, wanted: argparse.Namespace) -> tuple[Path, Path]:
    """Return a dump of a guest that holds so much, and its vmlinux."""
    kernel = packaged_kernel("linux-image-cloud-amd64", headers=True, debuginfo=True, progress=_say)
    if kernel.vmlinux is None:
        raise SystemExit("no debug information")
    spec = GuestSpec(
        kernel.image, kernel.modules, drivers=("loop", "fuse", "tls", "dummy"), programs=(Program(USES),),
        memory_mib=wanted.memory, cpus=2,
    )  # fmt: skip
    # A pair over the loopback is three sockets, its listener included.
    steps = [
        f"uses sockets {wanted.sockets // 3 + 1}",
        f"uses files {wanted.files} /dev/null",
        f"uses tasks {wanted.tasks}",
        "uses ulp tls",
    ]
    files: dict[str, bytes | Path] = {f"ktriage/s{n}": f"{line}\n".encode() for n, line in enumerate(steps)}
    plan = Plan(tuple(f"must s{number}" for number in range(len(steps))), files)
    left = run(prepare(spec), plan, folder, timeout=600, vmcore=lambda _: True)
    if left.vmcore is None or any(step.code for step in left.steps):
        raise SystemExit(f"no dump: {left.detail}")
    return left.vmcore, kernel.vmlinux


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def main() -> int:
    """Make the guest, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB")
    parser.add_argument("--sockets", type=int, default=10_000, metavar="N")
    parser.add_argument("--files", type=int, default=5_000, metavar="N")
    parser.add_argument("--tasks", type=int, default=500, metavar="N")
    parser.add_argument("-n", "--runs", type=int, default=3, metavar="RUNS")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        vmcore, vmlinux = make_dump(Path(folder), wanted)
        command = [sys.executable, "-m", "ktriage", "dump", "show", str(vmcore), "--vmlinux", str(vmlinux)]
        taken = Taken()
        for _ in range(wanted.runs):
            measure([*command, "audit"], taken)
    sys.stdout.write(
        f"audit of {wanted.memory} MiB with {wanted.sockets} sockets, {wanted.files} files and"
        f" {wanted.tasks} tasks\n"
        f"{taken}   (wanted: {GOAL})\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
