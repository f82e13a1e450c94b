"""``ktriage repro``: run a reproducer, tell its crash rate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ktriage.jobs.repro import Rate
    from ktriage.trial import Outcome

HELP = "Run a reproducer in VMs and tell how often it crashes. Exit code 1: the hunted crash never showed."
EXAMPLE = "ktriage repro run ktriage.toml -n 20 --jobs 2"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ktriage repro``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    run_parser = verbs.add_parser("run", help="run it a number of times", description=HELP)
    run_parser.add_argument("spec", metavar="SPEC", type=Path, help="the specification, ktriage.toml")
    run_parser.add_argument("-n", "--runs", type=positive, default=10, metavar="N", help="how often (10)")
    run_parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="VMs at a time (1)")
    run_parser.add_argument("--repo", type=Path, metavar="DIR", help="git repository of the module")
    run_parser.add_argument(
        "--rev", metavar="REV", help="its revision (HEAD); without --repo the folder as it is"
    )
    run_parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to keep the trials (ktriage-out/repro)"
    )
    run_parser.add_argument("--boot", action="store_true", help="boot a guest for each run, restore none")
    run_parser.add_argument(
        "--vmcore", choices=("never", "hung", "crashed"), help="keep the guest's memory of such"
    )
    run_parser.add_argument("--json", action="store_true", help="print JSON Lines")


def positive(text: str) -> int:
    """Return ``text`` as a positive number, for argparse."""
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage repro``."""
    from ktriage.history.repository import Repository
    from ktriage.jobs.lab import open_lab
    from ktriage.jobs.repro import measure_rate
    from ktriage.trial import load_spec

    spec = load_spec(args.spec)
    repo = args.repo or (Path() if args.rev else None)
    commit = Repository(repo).resolve(args.rev or "HEAD") if repo else None
    out = args.out or Path("ktriage-out/repro")
    lab = open_lab(spec, out, repo=repo, restore=not args.boot, progress=say)
    rate = measure_rate(
        lab, args.runs, commit=commit, jobs=args.jobs, vmcore=args.vmcore, watch=_watch(args.json, args.runs)
    )
    if args.json:
        print_json(rate.to_json())
    else:
        _print(rate, out)
    return 0 if rate.rate else 1


def say(text: str) -> None:
    """Print a line of progress."""
    sys.stderr.write(f"{text}\n")


def print_json(data: object) -> None:
    """Print one line of JSON Lines."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def _watch(as_json: bool, runs: int) -> Callable[[int, Outcome], None]:
    def watch(number: int, outcome: Outcome) -> None:
        if as_json:
            print_json({"run": number, **outcome.to_json()})
        else:
            what = f": {outcome.title or outcome.detail}" if outcome.title or outcome.detail else ""
            say(f"run {number + 1} of {runs}: {outcome.kind}{what}")

    return watch


def _print(rate: Rate, out: Path) -> None:
    low, high = rate.interval
    lines = [
        f"{rate.runs} runs in {rate.seconds:.1f} s: "
        + ", ".join(f"{n} {k}" for k, n in rate.outcomes.items())
    ]
    if rate.rate is None:
        lines.append("crash rate unknown: no run could show it")
    else:
        lines.append(f"crash rate {rate.rate:.0%} (95% interval {low:.0%} to {high:.0%})")
    lines += [f"{count:5} {title}" for title, count in sorted(rate.titles.items(), key=lambda item: -item[1])]
    lines.append(f"trials are in {out}")
    sys.stdout.write("\n".join(lines) + "\n")
