"""Starting and resuming bisections for the command line."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.bisect.command import CommandRunner, Meaning
from ktriage.bisect.drive import bisect
from ktriage.bisect.drive import resume as resume_drive
from ktriage.bisect.log import read_log
from ktriage.bisect.types import Options
from ktriage.bisect.watchdog import Watchdog
from ktriage.cli.bisect_view import open_view
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.history.worktrees import Worktrees

if TYPE_CHECKING:
    import argparse

    from ktriage.bisect.types import Answer
    from ktriage.cli.bisect_view import View
    from ktriage.jobs.lab import Lab


def options(args: argparse.Namespace, call: dict[str, Any]) -> Options:
    """Return the engine's options that the arguments ask for."""
    return Options(
        confidence=args.confidence or 0.998,
        jobs=args.jobs,
        seed=args.seed,
        max_runs=args.max_runs,
        max_seconds=args.max_time,
        rate=args.rate,
        first_parent=args.first_parent,
        verify=not args.no_verify,
        call=call,
    )


def default_log(repository: Path) -> Path:
    """Return a new log's name in the XDG state directory, so that nobody's checkout gets a file."""
    import os

    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    folder = Path(home) / "ktriage" / "bisect"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        path = folder / f"{repository.name}-{stamp}{f'-{number}' if number else ''}.jsonl"
        if not path.exists():
            return path
    raise UserError(f"{folder}: no free name for a log", hint="--log FILE names one")


def run_command(args: argparse.Namespace) -> Answer:
    """Bisect with a command of the user's."""
    repository = Repository(args.repo)
    if "/" not in args.command[0] and shutil.which(args.command[0]) is None:
        raise UserError(f"{args.command[0]}: no such command")
    if args.cluster:
        raise UserError("--cluster goes with --spec: a worktree of this machine is of no use on another")
    call = {
        "kind": "command",
        "command": args.command,
        "build": args.build,
        "timeout": args.timeout,
        "timeout_is": args.timeout_is,
        "signal_is": args.signal_is,
    }
    log = args.log or default_log(repository.path)
    chosen = options(args, call)
    with ExitStack() as stack:
        runner = _runner(stack, repository, call, log, chosen.jobs)
        view = stack.enter_context(open_view(as_json=args.json, log=log))
        executor = stack.enter_context(ThreadPoolExecutor(chosen.jobs))
        where = repository.path
        return bisect(where, args.good, args.bad, runner, executor, chosen, log, view, runner.cancel)


def _output(log: Path) -> Path:
    """Return the folder beside the log for what the runs leave behind."""
    return log.absolute().with_name(log.name + ".runs")


def _runner(
    stack: ExitStack, repository: Repository, call: dict[str, Any], log: Path, jobs: int
) -> CommandRunner:
    worktrees = stack.enter_context(Worktrees(repository))
    watchdog = stack.enter_context(Watchdog())
    return CommandRunner(
        command=tuple(call["command"]),
        worktrees=worktrees,
        watchdog=watchdog,
        output=_output(log),
        build=call["build"],
        meaning=Meaning(call["timeout"], call["timeout_is"], call["signal_is"]),
        jobs=jobs,
    )


def run_spec(args: argparse.Namespace) -> Answer:
    """Bisect in VMs, as a ktriage.toml says."""
    from ktriage.jobs.bisect_vms import bisect_in_vms

    repository = Repository(args.repo)
    log = args.log or default_log(repository.path)
    with open_view(as_json=args.json, log=log) as view:
        answer, lab = bisect_in_vms(
            args.spec,
            repo=repository.path,
            good=args.good,
            bad=args.bad,
            directory=_output(log),
            log=log,
            options=options(args, {}),
            cluster_address=args.cluster,
            observer=view,
            progress=view.note,
        )
        _page(lab, log, view)
    return answer


def _page(lab: Lab, log: Path, view: View) -> None:
    """Catch the culprit's crash with a vmcore, and write the page and the mail beside the trials."""
    from ktriage.jobs.conclude import conclude

    conclusion = conclude(lab, read_log(log), lab.directory.parent, progress=view.note)
    view.note(f"page: {conclusion.page}")
    if conclusion.mail:
        view.note(f"draft of a mail: {conclusion.mail}")


def resume(args: argparse.Namespace) -> Answer:
    """Go on with the bisection of a log."""
    log: Path = args.log
    old = read_log(log)
    if old.end is not None:
        return replace(old.end, log=str(log))
    call = old.start.call
    if call.get("kind") == "vms":
        from ktriage.jobs.bisect_vms import resume_in_vms

        with open_view(as_json=args.json, log=log) as view:
            answer, lab = resume_in_vms(log, old, jobs=args.jobs, observer=view, progress=view.note)
            _page(lab, log, view)
        return answer
    if call.get("kind") != "command":
        raise UserError(f"{log}: the log does not say what was run, so it can't be resumed from here")
    jobs = args.jobs or old.start.jobs
    with ExitStack() as stack:
        runner = _runner(stack, Repository(Path(old.start.repo)), call, log, jobs)
        view = stack.enter_context(open_view(as_json=args.json, log=log))
        executor = stack.enter_context(ThreadPoolExecutor(jobs))
        return resume_drive(log, runner, executor, view, runner.cancel, jobs)
