"""Starting and resuming bisections for the command line."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.bisect.command import open_runner
from ktriage.bisect.drive import bisect
from ktriage.bisect.drive import resume as resume_drive
from ktriage.bisect.log import read_log
from ktriage.bisect.mend import fix_name
from ktriage.bisect.types import Fix, Options
from ktriage.cli import tls
from ktriage.cli.bisect_view import open_view
from ktriage.errors import KtriageError, UserError
from ktriage.history.git import GitError, git
from ktriage.history.repository import Repository

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ktriage.bisect.types import Answer
    from ktriage.cli.bisect_view import View
    from ktriage.jobs.lab import Lab


def options(args: argparse.Namespace, repository: Repository, call: dict[str, Any]) -> Options:
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
        informed=not args.no_prior,
        find=args.find,
        fixes=tuple(read_fix(repository, text) for text in args.fix),
        mend=not args.no_mend,
        call=call,
    )


@contextmanager
def unless_begun(log: Path) -> Iterator[None]:
    """Take an empty log away again where the bisection did not begin."""
    try:
        yield
    except KtriageError:
        if log.is_file() and not log.stat().st_size:
            log.unlink()
        raise


def read_fix(repository: Repository, text: str) -> Fix:
    """Read what ``--fix`` takes: a file with a patch or a commit, after ``A..B:`` for a range of revisions.

    Raises ``UserError`` where it is neither.
    """
    only = None
    ends, colon, what = text.rpartition(":")
    if colon and ".." in ends:
        old, _, new = ends.partition("..")
        only = repository.resolve(old), repository.resolve(new)
    else:
        what = text
    path = Path(what)
    if path.is_file():
        patch = path.read_text(encoding="utf-8", errors="surrogateescape")
        if "--- " not in patch and "diff --git" not in patch:
            raise UserError(f"--fix {what}: not a patch", hint="git diff or git format-patch make one")
        digest = hashlib.sha256(patch.encode(errors="surrogateescape")).hexdigest()[:12]
        return Fix(f"fix {path.name}@{digest}", text=patch, only=only)
    try:
        commit = repository.resolve(what)
    except UserError:
        raise UserError(f"--fix {what}: neither a file nor a commit", fix=what) from None
    return Fix(fix_name(commit), commit=commit, only=only)


def default_log(repository: Path) -> Path:
    """Return a new log's name in the XDG state directory, so that nobody's checkout gets a file."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    folder = Path(home) / "ktriage" / "bisect"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        path = folder / f"{repository.name}-{stamp}{f'-{number}' if number else ''}.jsonl"
        try:
            path.touch(exist_ok=False)  # nobody else gets it, who begins in the same second
        except FileExistsError:
            continue
        return path
    raise UserError(f"{folder}: no free name for a log", hint="--log FILE names one")


def _end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that worktrees and commands go with it."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)


def run_command(args: argparse.Namespace) -> Answer:
    """Bisect with a command of the user's."""
    tls.apply(args)
    repository = Repository(args.repo)
    if "/" not in args.command[0] and shutil.which(args.command[0]) is None:
        raise UserError(f"{args.command[0]}: no such command")
    ends = repository.resolve(args.good), repository.resolve(args.bad)
    args.command[0] = find_command(repository, ends, args.command[0])
    call = {
        "kind": "command",
        "command": args.command,
        "build": args.build,
        "timeout": args.timeout,
        "timeout_is": args.timeout_is,
        "signal_is": args.signal_is,
    }
    log = args.log or default_log(repository.path)
    _end_in_order()
    chosen = options(args, repository, call)
    where, good, bad = repository.path, args.good, args.bad
    with ExitStack() as stack:
        stack.enter_context(unless_begun(log))
        if args.cluster:
            from ktriage.jobs.fleet.command import on_cluster

            away = stack.enter_context(on_cluster(args.cluster, repository, _output(log), call))
            remote, cluster, jobs, cancel = away
            view = stack.enter_context(open_view(as_json=args.json, log=log, case=args.case))
            chosen = replace(chosen, jobs=jobs)
            return bisect(where, good, bad, remote, cluster, chosen, log, view, cancel)
        runner = open_runner(stack, repository, call, _output(log), chosen.jobs)
        view = stack.enter_context(open_view(as_json=args.json, log=log, case=args.case))
        executor = stack.enter_context(ThreadPoolExecutor(chosen.jobs))
        return bisect(where, good, bad, runner, executor, chosen, log, view, runner.cancel)


def find_command(repository: Repository, ends: tuple[str, str], command: str) -> str:
    """Return the command with its full path where it is a file of the user's that a revision lacks.

    A relative path means the worktree's file where good and bad have one, as the command runs there. A script
    that only lies in the user's checkout is in no worktree.
    """
    path = Path(command)
    if "/" not in command or path.is_absolute() or not os.access(path, os.X_OK) or path.is_dir():
        return command
    name = path.as_posix().removeprefix("./")
    try:
        for end in ends:
            git(repository.path, "cat-file", "-e", f"{end}:{name}")
    except GitError:
        return str(path.absolute())
    return command


def _output(log: Path) -> Path:
    """Return the folder beside the log for what the runs leave behind."""
    return log.absolute().with_name(log.name + ".runs")


def run_spec(args: argparse.Namespace) -> Answer:
    """Bisect in VMs, as a ktriage.toml says."""
    tls.apply(args)
    from ktriage.jobs.bisect_vms import bisect_in_vms

    repository = Repository(args.repo)
    log = args.log or default_log(repository.path)
    with open_view(as_json=args.json, log=log, case=args.case) as view:
        answer, lab = bisect_in_vms(
            args.spec,
            repo=repository.path,
            good=args.good,
            bad=args.bad,
            directory=_output(log),
            log=log,
            options=options(args, repository, {}),
            cluster_address=args.cluster,
            observer=view,
            progress=view.note,
        )
        with closing(lab):
            _page(lab, log, view)
    return answer


def _page(lab: Lab, log: Path, view: View) -> None:
    """Catch the culprit's crash with a vmcore, and write the page and the mail beside the trials.

    A commit that ended a crash has none of its own, and nobody is to be told of it.
    """
    from ktriage.jobs.bisect_page import bisection_page
    from ktriage.jobs.conclude import conclude

    read = read_log(log)
    if read.start.kind == "fix":
        page = lab.directory.parent / "index.html"
        page.write_text(bisection_page(read, log), encoding="utf-8", errors="replace")
        view.note(f"page: {page}")
        return
    conclusion = conclude(lab, read, lab.directory.parent, progress=view.note)
    view.note(f"page: {conclusion.page}")
    if conclusion.mail:
        view.note(f"draft of a mail: {conclusion.mail}")
        if view.case is not None:
            from ktriage.jobs.keeping import keep_mail

            keep_mail(view.case, conclusion.mail.read_text(encoding="utf-8"), [], title=conclusion.case.title)


def resume(args: argparse.Namespace) -> Answer:
    """Go on with the bisection of a log."""
    tls.apply(args)
    log: Path = args.log
    old = read_log(log)
    if old.end is not None:
        return replace(old.end, log=str(log))
    call = old.start.call
    _end_in_order()
    if call.get("kind") == "vms":
        from ktriage.jobs.bisect_vms import resume_in_vms

        with open_view(as_json=args.json, log=log, case=args.case) as view:
            answer, lab = resume_in_vms(
                log, old, jobs=args.jobs, cluster_address=args.cluster, observer=view, progress=view.note
            )
            with closing(lab):
                _page(lab, log, view)
        return answer
    if call.get("kind") != "command":
        raise UserError(f"{log}: the log does not say what was run, so it can't be resumed from here")
    repository, jobs = Repository(Path(old.start.repo)), args.jobs or old.start.jobs
    with ExitStack() as stack:
        if args.cluster:
            from ktriage.jobs.fleet.command import on_cluster

            away = stack.enter_context(on_cluster(args.cluster, repository, _output(log), call))
            remote, cluster, room, cancel = away
            view = stack.enter_context(open_view(as_json=args.json, log=log, case=args.case))
            return resume_drive(log, remote, cluster, view, cancel, room)
        runner = open_runner(stack, repository, call, _output(log), jobs)
        view = stack.enter_context(open_view(as_json=args.json, log=log, case=args.case))
        executor = stack.enter_context(ThreadPoolExecutor(jobs))
        return resume_drive(log, runner, executor, view, runner.cancel, jobs)
