#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""How long a vmcore takes: ktriage as a whole process, and crash to its prompt and back, in the same run.

usage: dump.py [--vmcore FILE --vmlinux FILE [--modules DIR]] [--memory MIB] [-n RUNS]

Without ``--vmcore`` a guest of ``--memory`` MiB on Debian's cloud kernel loads a driver of the tests, removes
it, and panics in a reset that comes too late; its memory is dumped. What is printed is the median of so many
runs with a warm page cache, and the largest peak memory (getrusage(2), ru_maxrss: pages of mapped files
count). The runs of both take turns, so that what else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ktriage.kernel import FolderSources, build_module, packaged_kernel
from ktriage.machine import GuestSpec, Plan, prepare, run

DRIVER = Path(__file__).parents[1] / "tests/modules/resetnic"
GOALS = {"summary": (2.0, 300), "all": (10.0, None)}
"""Seconds and MiB that a report may take on a dump of 512 MiB."""


@dataclass(slots=True)
class Taken:
    """What the runs of one command took."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{median(self.seconds):6.2f} s  (processor {median(self.processor):5.2f} s)  "
            f"{max(self.mebibytes):5.0f} MiB"
        )


def make_dump(folder: Path, memory: int) -> tuple[Path, Path, Path]:
    """Return a dump, its vmlinux and the driver's module file."""
    kernel = packaged_kernel("linux-image-cloud-amd64", headers=True, debuginfo=True, progress=_say)
    build = build_module(FolderSources(DRIVER), kernel=kernel, name="resetnic")
    if build.module is None or kernel.vmlinux is None:
        raise SystemExit(f"the driver does not build: {build.error}")
    guest = prepare(GuestSpec(kernel.image, kernel.modules, memory_mib=memory))
    steps = ["insmod /ktriage/resetnic.ko late_irq=1", "ip link set rnic0 up; sleep 0.2", "rmmod resetnic"]
    files: dict[str, bytes | Path] = {"ktriage/resetnic.ko": build.module}
    files |= {f"ktriage/step-{number}": f"{line}\n".encode() for number, line in enumerate(steps)}
    plan = Plan(tuple(f"step step-{number}" for number in range(len(steps))), files)
    left = run(guest, plan, folder, timeout=60, vmcore=lambda _: True)
    if left.vmcore is None:
        raise SystemExit(f"no dump: {left.detail}")
    return left.vmcore, kernel.vmlinux, build.module


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


def measure(command: list[str], taken: Taken, given: str = "") -> None:
    """Run a command once; its output is thrown away."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert process.stdin
    process.stdin.write(given.encode())
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    taken.seconds.append(time.monotonic() - began)
    taken.processor.append(usage.ru_utime + usage.ru_stime)
    taken.mebibytes.append(usage.ru_maxrss / 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vmcore", type=Path)
    parser.add_argument("--vmlinux", type=Path)
    parser.add_argument("--modules", type=Path)
    parser.add_argument("--memory", type=int, default=512)
    parser.add_argument("-n", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ktriage-bench-") as name:
        if args.vmcore is None:
            args.vmcore, args.vmlinux, args.modules = make_dump(Path(name), args.memory)
        compare(args.vmcore, args.vmlinux, args.modules, args.n)


def compare(vmcore: Path, vmlinux: Path, modules: Path | None, runs: int) -> None:
    """Let ktriage and crash take turns on a dump, and print what each took."""
    print(f"{vmcore.stat().st_size / 2**20:,.0f} MiB of dump, {runs} runs each")
    base = [sys.executable, "-m", "ktriage", "dump", "show", str(vmcore), "--vmlinux", str(vmlinux)]
    base += ["--modules", str(modules)] if modules else []
    reports = ("summary", "waits", "works", "teardown", "irqs", "audit", "all")
    taken = {name: Taken() for name in (*reports, "crash", "crash: bt -a, ps, foreach bt, log")}
    crash = shutil.which("crash")
    for _ in range(runs):
        for name in reports:
            measure([*base, name], taken[name])
        if crash is not None:
            command = [crash, "-s", str(vmlinux), str(vmcore)]
            measure(command, taken["crash"], "quit\n")
            given = "bt -a\nps\nforeach bt\nlog\nquit\n"
            measure(command, taken["crash: bt -a, ps, foreach bt, log"], given)
    for name, what in taken.items():
        if what.seconds:
            print(f"{name:<36}{what}{_goal(name, what)}")
    if crash is None:
        print("crash is not installed (apt-get install crash): no ratio")
        return
    ours, theirs = taken["summary"], taken["crash"]
    print(
        f"summary takes 1/{median(theirs.seconds) / median(ours.seconds):.1f} of crash's time to its prompt"
    )
    print(f"and {max(ours.mebibytes) / max(theirs.mebibytes):.2f} of its memory")


def _goal(name: str, taken: Taken) -> str:
    if name not in GOALS:
        return ""
    seconds, memory = GOALS[name]
    said = f"goal {seconds:.0f} s" + (f", {memory} MiB" if memory else "")
    met = median(taken.seconds) <= seconds and (memory is None or max(taken.mebibytes) <= memory)
    return f"  ({said}: {'met' if met else 'not met'})"


if __name__ == "__main__":
    main()
