"""``ktriage bisect``: find the commit that brought a crash, with a probability."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.cli import KEEP, tls
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ktriage.bisect.types import Answer

HELP = "Find the commit that brought a crash which comes and goes, with a probability."
EXAMPLE = "ktriage bisect run --repo linux --good v6.1 --bad v6.2 --build 'make -j8' -- ./reproduce.sh"

_RUN = """CMD runs in a worktree of the revision, with KTRIAGE_REVISION and KTRIAGE_ATTEMPT set. Its exit
code means what it means to git bisect run: 0 good, 125 cannot be tested, 1 to 124, 126 and 127 bad; 128 and
above, or a signal, stops. The exit code of ktriage is 0 where a culprit is named, 1 where not."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    _configure_run(actions.add_parser("run", help="start a bisection", description=_RUN))

    resume = actions.add_parser("resume", help="go on with one that was interrupted")
    resume.add_argument("log", metavar="LOG", type=Path)
    resume.add_argument("--jobs", type=_positive, metavar="N", help="runs at a time (default: as before)")
    resume.add_argument("--cluster", metavar="ADDRESS", help="go on on the Dask cluster there")
    tls.configure(resume)
    resume.add_argument("--case", metavar="PLACE", help=KEEP)
    resume.add_argument("--json", action="store_true", help="print JSON Lines, the answer last")

    status = actions.add_parser("status", help="say how far a bisection is")
    status.add_argument("log", metavar="LOG", type=Path)
    status.add_argument("--json", action="store_true", help="print the state as one JSON object")

    replay = actions.add_parser("replay", help="work out the belief again, run by run, from a log")
    replay.add_argument("log", metavar="LOG", type=Path)
    replay.add_argument("--json", action="store_true", help="print JSON Lines, a belief each")

    page = actions.add_parser("page", help="write a bisection's page, finished or not")
    page.add_argument("log", metavar="LOG", type=Path)
    page.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: LOG.html")

    log = actions.add_parser("log", help="print a bisection in another form")
    log.add_argument("--git", action="store_true", required=True, help="print what git bisect replay takes")
    log.add_argument("log", metavar="LOG", type=Path)

    from ktriage.cli import bisect_audit

    about = bisect_audit.DESCRIPTION
    bisect_audit.configure(actions.add_parser("audit", help=bisect_audit.HELP, description=about))

    _configure_simulate(actions.add_parser("simulate", help="measure the engine on simulated crashes"))


def _configure_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--repo", type=Path, default=Path(), metavar="DIR", help="the repository (default: .)")
    run.add_argument("--bad", required=True, metavar="REV", help="a revision with the crash")
    run.add_argument("--good", required=True, metavar="REV", help="one without it")
    run.add_argument(
        "--find",
        choices=("cause", "fix"),
        default="cause",
        help="the commit that brought the crash (default), or the one that ended it, good being newer",
    )
    run.add_argument("--spec", type=Path, metavar="FILE", help="in place of CMD: what to run in VMs")
    run.add_argument("--confidence", type=_share, metavar="C", help="stop when this sure (default: 0.998)")
    run.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time (default: 1)")
    run.add_argument("--cluster", metavar="ADDRESS", help="run on the Dask cluster whose scheduler is there")
    tls.configure(run)
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of what is random (default: 0)")
    run.add_argument("--max-runs", type=_positive, metavar="N", help="give up after so many runs")
    run.add_argument("--max-time", type=_seconds, metavar="S", help="give up after so many seconds")
    run.add_argument("--timeout", type=_seconds, metavar="S", help="kill CMD after so many seconds")
    run.add_argument("--timeout-is", choices=("bad", "infra"), default="infra", help="default: infra")
    run.add_argument("--signal-is", choices=("stop", "bad", "infra"), default="stop", help="default: stop")
    run.add_argument("--build", metavar="CMD", help="a shell command that builds a revision, run once each")
    run.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="[A..B:]PATCH",
        help="a patch or commit to put on top of revisions that can't be tested, or of all in A..B",
    )
    run.add_argument("--no-mend", action="store_true", help="do not look for commits that mend the build")
    run.add_argument(
        "--rate", type=_rate, metavar="K/N", help="the crash is known to come in K of N runs, as 6/10 or 0.6"
    )
    run.add_argument("--no-prior", action="store_true", help="let no files of the crash weigh on commits")
    run.add_argument("--first-parent", action="store_true", help="look at the first parents of merges alone")
    run.add_argument("--no-verify", action="store_true", help="name the culprit without checking it")
    run.add_argument("--log", type=Path, metavar="FILE", help="the log to write, which resume takes")
    run.add_argument("--case", metavar="PLACE", help=KEEP)
    run.add_argument("--json", action="store_true", help="print JSON Lines, the answer last")
    run.add_argument("command", nargs="*", metavar="CMD", help="after --: what to run")


def _configure_simulate(simulate: argparse.ArgumentParser) -> None:
    simulate.add_argument("--dag", type=Path, required=True, metavar="FILE", help=".npz: indptr, indices")
    simulate.add_argument("--p", type=float, required=True, help="chance of a crash with the culprit")
    simulate.add_argument("--q", type=float, required=True, help="chance of a crash without it")
    simulate.add_argument("--histories", type=_positive, default=100, metavar="N", help="default: 100")
    simulate.add_argument("--confidence", type=_share, default=0.998, metavar="C", help="default: 0.998")
    simulate.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time")
    simulate.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    simulate.add_argument("--json", action="store_true", help="print one JSON object")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0.5 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.5 and 1")
    return number


def _rate(text: str) -> tuple[int, int]:
    """Read K/N, or a share, which is taken for one of 100 runs, or more where it has more digits."""
    hits, slash, runs = text.partition("/")
    if slash and hits.isdigit() and runs.isdigit() and 0 <= int(hits) <= int(runs) > 0:
        return int(hits), int(runs)
    if not slash:
        share = float(text)
        digits = len(text.strip().rstrip("0").partition(".")[2])
        if 0 < share <= 1:
            runs_known = 10 ** min(max(digits, 2), 4)
            return round(share * runs_known), runs_known
    raise argparse.ArgumentTypeError(f"{text} is not like 6/10 or 0.6")


for _type, _name in ((_positive, "number"), (_seconds, "time"), (_share, "probability"), (_rate, "rate")):
    # argparse says "invalid <name> value" where the text is no number at all.
    _type.__name__ = _name


def run(args: argparse.Namespace) -> int:
    """Run the subcommand."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names that this terminal has no letters for
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": _run,
        "resume": _resume,
        "status": _status,
        "replay": _replay,
        "log": _log,
        "page": _page,
        "simulate": _simulate,
        "audit": _audit,
    }
    return actions[args.action](args)


def _run(args: argparse.Namespace) -> int:
    from ktriage.cli.bisect_run import run_command, run_spec

    if args.spec is not None and args.command:
        raise UserError("either --spec or a command, not both")
    if args.spec is None and not args.command:
        raise UserError("there is nothing to run", hint="give the command after --, or --spec")
    return _finish(run_spec(args) if args.spec is not None else run_command(args), json=args.json)


def _resume(args: argparse.Namespace) -> int:
    from ktriage.cli.bisect_run import resume

    return _finish(resume(args), json=args.json)


def _finish(answer: Answer, *, json: bool) -> int:
    from ktriage.cli.bisect_view import print_answer

    print_answer(answer, as_json=json)
    return 0 if answer.verdict == "culprit" else 1


def _status(args: argparse.Namespace) -> int:
    from ktriage.bisect.log import read_log
    from ktriage.cli.bisect_view import print_status

    print_status(read_log(args.log), as_json=args.json)
    return 0


def _replay(args: argparse.Namespace) -> int:
    from ktriage.bisect.replay import replay
    from ktriage.cli.bisect_view import print_replayed

    for run_made, belief in replay(args.log):
        print_replayed(run_made, belief, as_json=args.json)
    return 0


def _log(args: argparse.Namespace) -> int:
    from ktriage.bisect.replay import git_log

    sys.stdout.writelines(line + "\n" for line in git_log(args.log))
    return 0


def _page(args: argparse.Namespace) -> int:
    from ktriage.bisect.log import read_log
    from ktriage.jobs.bisect_page import bisection_page

    target = args.output or args.log.with_name(args.log.name + ".html")
    page = bisection_page(read_log(args.log), args.log)
    target.write_text(page, encoding="utf-8", errors="replace")
    sys.stdout.write(f"{target}\n")
    return 0


def _audit(args: argparse.Namespace) -> int:
    from ktriage.cli.bisect_audit import run as run_audit

    return run_audit(args)


def _simulate(args: argparse.Namespace) -> int:
    from ktriage.cli.bisect_view import print_simulated

    for name in ("p", "q"):
        if not 0 <= getattr(args, name) <= 1:
            raise UserError(f"--{name} {getattr(args, name)} is not a probability")
    print_simulated(args)
    return 0
