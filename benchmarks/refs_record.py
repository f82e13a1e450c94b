#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What recording references costs a load in a guest.

usage: refs_record.py [-n PAIRS] [--only LOAD]...

One guest does the same work over and over, with and without recording in turns. What is compared is the
processor time that the whole guest took on the host for a unit of work (modules loaded and unloaded, a symbol
looked up and put back, a connection through a ULP): other jobs on the machine change it less than they change
a clock. The guest's own clock is printed beside it. Sending what is recorded counts as a part of it; setting
the recording up and ending it does not.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from ktriage.jobs.demo import example_folder, make_repository
from ktriage.kernel import FolderSources, RevisionSources, build_module, packaged_kernel
from ktriage.machine import Guest, GuestSpec, Plan, Program, prepare, run
from ktriage.refs.record_events import wanted
from ktriage.trial.recording import Recording

PACKAGE = "linux-image-cloud-amd64"
MODULES = Path(__file__).resolve().parents[1] / "tests/modules/lender"
GOAL = 0.10
POLL_SECONDS = 0.002

SCRIPT = """\
cd /ktriage
{setup}
load() {{ {load}
}}
one() {{ read before _ < /proc/uptime; echo "begin $1"; load; echo "end $1 $units"
         read after _ < /proc/uptime; echo "clock $1 $before $after"; }}
load
n=0; while [ $n -lt {pairs} ]; do n=$((n+1))
    one off
    tracer start || exit 1
    one on
    tracer stop || exit 1
done
"""

LOADS = {
    "modules": (
        "lender",
        "",
        """units=30; i=0; while [ $i -lt $units ]; do i=$((i+1))
           insmod lender.ko; insmod hasty.ko; echo $i > /proc/hasty; rmmod hasty; rmmod lender; done""",
    ),
    "symbols": (
        "lender",
        "insmod lender.ko; insmod forgetful.ko",
        "units=4000; i=0; while [ $i -lt $units ]; do i=$((i+1)); echo $i > /proc/forgetful; done",
    ),
    "connections": (
        "ulp_tally",
        "insmod ulp_tally.ko",
        "set -- $(ulp-storm -c 256 -w 64 -k 1 -t 3000); units=$2",
    ),
}
"""By name: the module that is recorded, what comes first, and the work, which sets ``units``."""


@dataclass
class Watch:
    """Reads what the guest prints as it comes, and how much processor time it has had by then."""

    path: Path
    marks: list[tuple[str, float]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        """Note the processor time at each line, until told to stop."""
        seen = 0
        while not self.done.wait(POLL_SECONDS):
            text = self.path.read_text() if self.path.exists() else ""
            whole = text[: text.rfind("\n") + 1]
            if len(whole) > seen:
                now = processor_seconds()
                self.marks += [(line.strip(), now) for line in whole[seen:].splitlines()]
                seen = len(whole)


def processor_seconds() -> float:
    """Return the processor time of all our children's threads so far."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            for thread in Path(f"/proc/{child}/task").glob("*/schedstat"):
                total += int(thread.read_text().split()[0])
    return total / 1e9


def costs(marks: list[tuple[str, float]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return processor seconds a unit, and the guest's own, of each turn: by ``on`` and ``off``."""
    used: dict[str, list[float]] = {"on": [], "off": []}
    clocks: dict[str, list[float]] = {"on": [], "off": []}
    began, units = 0.0, 1
    for line, now in marks:
        match line.split():
            case ["begin", _]:
                began = now
            case ["end", kind, count]:
                units = int(count)
                used[kind].append((now - began) / units)
            case ["clock", kind, before, after]:
                clocks[kind].append((float(after) - float(before)) / units)
    return used, clocks


def measure(guest: Guest, name: str, files: dict[str, bytes | Path], pairs: int) -> None:
    """Measure a load and print what recording costs it."""
    module, setup, load = LOADS[name]
    script = SCRIPT.format(setup=setup, load=load, pairs=pairs)
    recording = Recording(wanted(module, (), ()), guest)
    recording.tell()
    plan = Plan(("step all",), {**files, **recording.files(), "ktriage/all": script.encode()})
    with tempfile.TemporaryDirectory(prefix="ktriage-benchmark-") as folder:
        watch = Watch(Path(folder, "output.log"))
        thread = threading.Thread(target=watch.follow)
        thread.start()
        try:
            left = run(guest, plan, Path(folder), timeout=3600)
        finally:
            watch.done.set()
            thread.join()
    used, clocks = costs(watch.marks)
    if len(used["on"]) != pairs:
        raise SystemExit(f"{name}: {left.end}: {left.detail}")
    ratios = sorted(on / off - 1 for on, off in zip(used["on"], used["off"], strict=True))
    off, on = (1e3 * median(used[kind]) for kind in ("off", "on"))
    print(
        f"{name:<12} {off:8.3f} ms a unit, recorded {on:8.3f} ms: {on / off - 1:+.1%} (pairs: "
        f"median {median(ratios):+.1%}, "
        f"{ratios[pairs // 4]:+.1%} to {ratios[-1 - pairs // 4]:+.1%}); by the guest's clock "
        f"{median(clocks['on']) / median(clocks['off']) - 1:+.1%}; goal {GOAL:.0%}",
        flush=True,
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=12, metavar="PAIRS", help="pairs of turns of each load (12)")
    parser.add_argument("--only", action="append", choices=LOADS, metavar="LOAD", help="this load only")
    args = parser.parse_args()
    kernel = packaged_kernel(PACKAGE, headers=True)
    example = example_folder()
    guest = prepare(
        GuestSpec(
            kernel.image, kernel.modules, programs=(Program(example / "repro/ulp-storm.c"),), trace=True
        )
    )
    print(f"kernel {kernel.release}, {guest.hardware.accel.upper()}, load average {os.getloadavg()[0]:.1f}")
    build = build_module(FolderSources(MODULES), kernel=kernel, name="lender")
    names = ("lender", "hasty", "forgetful")
    files: dict[str, bytes | Path] = {f"ktriage/{name}.ko": build.folder / f"{name}.ko" for name in names}
    with tempfile.TemporaryDirectory(prefix="ktriage-benchmark-") as folder:
        good = make_repository(example, Path(folder, "repo"))["good"]
        ulp = build_module(RevisionSources(Path(folder, "repo"), good, "."), kernel=kernel, name="ulp_tally")
    if ulp.module is None:
        raise SystemExit(f"ulp_tally does not build: {ulp.error}")
    files["ktriage/ulp_tally.ko"] = ulp.module
    for name in args.only or LOADS:
        measure(guest, name, files, args.n)


if __name__ == "__main__":
    main()
