#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a trial costs over the reproducer's own time in the guest, restored and booted.

usage: trial.py [-n RUNS] [SPEC]

The cost is a trial's wall-clock time (from the call to the verdict on disk) less the seconds that the
reproducer's commands took by the guest's own clock. Without a specification a command that sleeps is run.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from ktriage.jobs.lab import Lab
from ktriage.jobs.labs import open_lab
from ktriage.jobs.repro import measure_rate
from ktriage.trial import load_spec

SPEC = """
[kernel]
package = "linux-image-cloud-amd64"
[run]
commands = ["sleep 0.5"]
[hunted]
titles = ["none"]
"""


def costs(lab: Lab, runs: int, name: str) -> list[float]:
    """Return the cost of each of ``runs`` trials, in seconds."""
    found = []
    for number in range(runs):
        began = time.monotonic()
        outcome, _ = lab.trial(f"{name}-{number}", None)
        found.append(time.monotonic() - began - outcome.seconds["guest"])
    return found


def show(name: str, found: list[float], limit: float) -> None:
    """Print the median and the spread of some costs."""
    low, _, high = quantiles(found, n=4)
    print(
        f"{name:<9} median {median(found):.3f} s  quartiles {low:.3f} to {high:.3f} s  "
        f"min {min(found):.3f}  max {max(found):.3f}  ({len(found)} trials; goal {limit} s)"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20, metavar="RUNS", help="trials of each kind (20)")
    parser.add_argument("spec", nargs="?", type=Path, metavar="SPEC")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ktriage-benchmark-") as folder:
        path = args.spec or Path(folder, "ktriage.toml")
        if args.spec is None:
            path.write_text(SPEC)
        spec = load_spec(path)
        restored = open_lab(spec, Path(folder, "restored"))
        restored.build(None)
        kernel = restored.kernel(None)
        release = kernel.release if kernel else "?"
        print(f"kernel {release}, {restored.accel.upper()} on {platform.machine()}")
        restored.trial("warm-up", None)
        show("restored", costs(restored, args.n, "one"), 0.3)
        booted = open_lab(spec, Path(folder, "booted"), restore=False)
        show("booted", costs(booted, max(args.n // 4, 3), "one"), 4.0)
        for jobs in (1, 2):
            rate = measure_rate(restored, args.n, jobs=jobs)
            print(f"{jobs} VM{'s' if jobs > 1 else ' '}: {60 * rate.runs / rate.seconds:.0f} trials a minute")


if __name__ == "__main__":
    main()
