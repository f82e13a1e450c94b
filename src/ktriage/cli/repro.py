"""``ktriage repro``: run a reproducer a number of times, tell how often it crashes, make it shorter."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.case.text import plural
from ktriage.cli import BUG, KEEP, tls

if TYPE_CHECKING:
    from ktriage.jobs.lab import Lab
    from ktriage.jobs.minimize import Minimized
    from ktriage.jobs.repro import Rate
    from ktriage.trial import Outcome

HELP = "Run a reproducer in VMs and tell how often it crashes, or shorten it."
EXAMPLE = "ktriage repro run ktriage.toml -n 20 --jobs 2"
RUN = "Run it a number of times. Exit code 1: the hunted crash never showed."
RATE = (
    "Run it until its crash rate is known well enough, and tell how often and how fast it crashes.\n"
    "Exit code 1: the hunted crash never showed."
)
MINIMIZE = (
    "Take out of it whatever it can do without: statements of a C program, lines of a script, or commands\n"
    "of the specification. A removal is kept where the crash still shows as often, by as many runs as it\n"
    "takes to tell. The original stays as it is.\n"
    "Exit code 1: nothing could be taken out, or the runs were used up."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ktriage repro``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    run_parser = _verb(verbs, "run", "run it a number of times", RUN)
    run_parser.add_argument("-n", "--runs", type=positive, default=10, metavar="N", help="how often (10)")
    run_parser.add_argument("--rate", action="store_true", help="as ktriage repro rate: at the most N runs")
    rate_parser = _verb(verbs, "rate", "tell how often and how fast it crashes", RATE)
    rate_parser.add_argument(
        "-n", "--runs", type=positive, default=100, metavar="N", help="runs at the most (100)"
    )
    for each in (run_parser, rate_parser):
        each.add_argument(
            "--precision",
            type=fraction,
            default=0.1,
            metavar="P",
            help="a rate is known where half its 95%% interval is no more than this (0.1)",
        )
        each.add_argument("--boot", action="store_true", help="boot a guest for each run, restore none")
        each.add_argument(
            "--vmcore", choices=("never", "hung", "crashed"), help="keep the guest's memory of such"
        )
        each.add_argument(
            "--cluster", metavar="ADDRESS", help="run on the Dask cluster whose scheduler is there"
        )
        tls.configure(each)
    minimize_parser = _verb(verbs, "minimize", "make it shorter", MINIMIZE)
    minimize_parser.add_argument(
        "--file", type=Path, metavar="FILE", help="which of its files to shorten, where it has several"
    )
    minimize_parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to write it (NAME.min.c beside NAME.c)"
    )
    minimize_parser.add_argument(
        "--max-runs", type=positive, metavar="N", help="give back the best there is after so many runs"
    )


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, description: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", metavar="SPEC", type=Path, help="the specification, ktriage.toml")
    parser.add_argument("--jobs", type=positive, metavar="N", help="VMs at a time (1; a cluster's)")
    parser.add_argument("--repo", type=Path, metavar="DIR", help="git repository of the module or the kernel")
    parser.add_argument(
        "--rev", metavar="REV", help="its revision (HEAD); without --repo the folder as it is"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"where to keep the trials (ktriage-out/{_folder(name)})"
    )
    parser.add_argument("--case", metavar="PLACE", help=KEEP)
    parser.add_argument("--bug", metavar="N", type=int, help=BUG)
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    return parser


def _folder(verb: str) -> str:
    return "minimize" if verb == "minimize" else "repro"


def positive(text: str) -> int:
    """Return ``text`` as a positive number, for argparse."""
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def fraction(text: str) -> float:
    """Return ``text`` as a number between 0 and 1, for argparse."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")
    return number


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage repro``."""
    out = args.out or Path("ktriage-out") / _folder(args.verb)
    if args.verb == "minimize":
        return _minimize(args, out)
    return _measure(args, out)


def _lab(args: argparse.Namespace, out: Path, *, restore: bool = True) -> tuple[Lab, str | None]:
    """Return the laboratory that is asked for, and the commit to run at."""
    from ktriage.history.repository import Repository
    from ktriage.jobs.labs import open_lab
    from ktriage.trial import load_spec

    spec = load_spec(args.spec)
    repo = args.repo or (Path() if args.rev else None)
    commit = Repository(repo).resolve(args.rev or "HEAD") if repo else None
    if getattr(args, "cluster", None):
        from ktriage.jobs.fleet.lab import open_fleet_lab

        tls.apply(args)
        lab = open_fleet_lab(spec, out, args.cluster, repo=repo, restore=restore, progress=say)
        args.jobs = args.jobs or lab.room
        return lab, commit
    return open_lab(spec, out, repo=repo, restore=restore, progress=say), commit


def _measure(args: argparse.Namespace, out: Path) -> int:
    from ktriage.jobs.repro import measure_rate

    adaptive = args.verb == "rate" or args.rate
    lab, commit = _lab(args, out, restore=not args.boot)
    with closing(lab):
        rate = measure_rate(
            lab,
            args.runs,
            commit=commit,
            jobs=args.jobs or 1,
            vmcore=args.vmcore,
            precision=args.precision if adaptive else None,
            watch=_watch(args.json, args.runs),
        )
        if args.case:
            from ktriage.jobs.keeping import keep_trials

            kernel = lab.kernel(commit)
            keep_trials(
                args.case, args.spec, out, rate,
                revision=commit, kernel=kernel.release if kernel else None, bug=args.bug,
            )  # fmt: skip
    if args.json:
        print_json(rate.to_json())
    else:
        _print(rate, out)
    return 0 if rate.rate else 1


def _minimize(args: argparse.Namespace, out: Path) -> int:
    from ktriage.jobs.minimize import minimize
    from ktriage.jobs.minimize_target import find_target

    lab, commit = _lab(args, out)
    target = find_target(lab.spec, args.spec, args.file)
    found = minimize(
        lab,
        target,
        out,
        commit=commit,
        output=args.output,
        jobs=args.jobs or 1,
        most_runs=args.max_runs,
        progress=say,
    )
    if args.case:
        from ktriage.jobs.keeping import keep_minimized

        keep_minimized(args.case, args.spec, found, next(iter(lab.spec.hunted.titles), None), args.bug)
    if args.json:
        print_json(found.to_json())
    else:
        _print_minimized(found, out)
    return 0 if found.complete and found.lines[1] < found.lines[0] else 1


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


def _in_percent(rate: float, interval: tuple[float, float]) -> str:
    return f"{rate:.0%} (95% interval {interval[0]:.0%} to {interval[1]:.0%})"


def _print(rate: Rate, out: Path) -> None:
    lines = [
        f"{plural(rate.runs, 'run')} in {rate.seconds:.1f} s ({rate.per_minute:.0f} a minute): "
        + ", ".join(f"{n} {k}" for k, n in rate.outcomes.items())
    ]
    if rate.rate is None:
        lines.append("crash rate unknown: no run could show it")
    else:
        lines.append(f"crash rate {_in_percent(rate.rate, rate.interval)}")
    if rate.crash_seconds is not None:
        lines.append(f"a run that crashes does so within {rate.crash_seconds:.2f} s (median)")
    lines += [f"{count:5} {title}" for title, count in sorted(rate.titles.items(), key=lambda item: -item[1])]
    lines.append(f"trials are in {out}")
    sys.stdout.write("\n".join(lines) + "\n")


def _print_minimized(found: Minimized, out: Path) -> None:
    now = _in_percent(found.minimized_rate, found.minimized_interval)
    cost = f"{found.runs} runs, {found.free} of them without any, in {found.seconds:.0f} s"
    lines = [
        f"{found.minimized}: {found.lines[1]} lines of {found.lines[0]}",
        f"it crashes in {now} of its runs; the original in {_in_percent(found.rate, found.interval)}",
        f"{found.candidates} shorter ones were tried in {cost}",
    ]
    if not found.complete:
        lines.append(f"the runs were used up: call it again with more, and --out {out}, to go on")
    sys.stdout.write("\n".join(lines) + "\n")
