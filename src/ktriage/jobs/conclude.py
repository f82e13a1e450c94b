"""From a finished bisection in VMs to all that is worth knowing of it: crash, vmcore, mail, page."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from ktriage.bisect.types import Answer, Log
from ktriage.case.bisection import from_log
from ktriage.case.page import render_page
from ktriage.case.trials import load_outcome
from ktriage.case.types import CaseFile, Vmcore
from ktriage.case.types import Commit as CaseCommit
from ktriage.console.types import Crash
from ktriage.errors import KtriageError
from ktriage.history.repository import Repository
from ktriage.jobs.change import read_change, read_commits
from ktriage.jobs.lab import Lab
from ktriage.jobs.mail import MailRequest, write_mail
from ktriage.kernel import Kernel
from ktriage.symbols.symbolize import symbolize_crash
from ktriage.trial import Outcome

TRIES = 16
"""Runs of the culprit, at the most, for a vmcore of its crash: at 0.2 crashes a run 3 in 100 go without."""

VMCORE_DIRECTORY = "culprit"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What was concluded, and the files that hold it."""

    case: CaseFile
    page: Path
    mail: Path | None


def conclude(
    lab: Lab, log: Log, directory: Path, *, tries: int = TRIES, progress: Progress = lambda _: None
) -> Conclusion:
    """Catch the culprit's crash once more with a vmcore, read it, and write page and mail to ``directory``.

    Without a culprit the page shows what is believed. Raises OSError where ``directory`` can't be written.
    """
    answer = log.end
    culprit = answer.culprit if answer else None
    outcome = catch(lab, culprit, tries, progress) if culprit else None
    outcome = outcome or _kept(log, culprit)
    crash = _symbolized(lab, culprit, outcome.crash, progress) if outcome and outcome.crash else None
    mail = _mail(log, crash, directory, progress) if culprit else None
    case = CaseFile(
        title=_title(crash, outcome, log),
        bisection=from_log(log, _commits(log)),
        culprit=read_change(Repository(Path(log.start.repo)), culprit, log.start.bad) if culprit else None,
        crash=crash,
        modules_before=outcome.modules_before if outcome else None,
        modules_after=outcome.modules_after if outcome else None,
        vmcore=_vmcore(lab, outcome, culprit, progress),
        mail=mail.read_text(encoding="utf-8") if mail else None,
        kernel=_kernel(lab, culprit or log.start.bad),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        trials=str(lab.directory),
        log=_log_path(answer),
        commands=_commands(lab, log, culprit),
    )
    page = directory / "index.html"
    page.write_text(render_page(case), encoding="utf-8")
    return Conclusion(case, page, mail)


def catch(lab: Lab, commit: str, tries: int, progress: Progress = lambda _: None) -> Outcome | None:
    """Run a revision until the hunted crash shows and its memory is dumped; None after ``tries`` runs.

    In the first half of them the console has to tell of it: a count below zero alone has no frames.
    """
    for number in range(1, tries + 1):
        progress(f"running the culprit for a vmcore ({number} of at most {tries})")
        outcome, _ = lab.trial(VMCORE_DIRECTORY, commit, vmcore="crashed")
        if outcome.hunted and (outcome.crash or 2 * number > tries):
            return outcome
    shutil.rmtree(lab.directory / VMCORE_DIRECTORY, ignore_errors=True)
    return None


def _kept(log: Log, culprit: str | None) -> Outcome | None:
    """Return the outcome of a run that crashed: the culprit's where there is one, else any."""
    runs = [run for run in log.runs if run.outcome == "crashed" and run.where and not run.patches]
    for run in sorted(runs, key=lambda run: run.commit != culprit):
        try:
            return load_outcome(Path(run.where or ""))
        except KtriageError:
            continue
    return None


def _symbolized(lab: Lab, commit: str | None, crash: Crash, progress: Progress) -> Crash:
    kernel, modules = lab.kernel(commit), lab.modules(commit)
    if kernel is None or (kernel.vmlinux is None and not modules):
        return crash
    try:
        return symbolize_crash(crash, vmlinux=kernel.vmlinux, modules=modules or None, note=progress)
    except KtriageError as error:
        progress(f"no source lines: {error}")
        return crash


def _title(crash: Crash | None, outcome: Outcome | None, log: Log) -> str:
    title = (crash.title if crash else None) or (outcome.title if outcome else None)
    return title or next((run.title for run in log.runs if run.title), None) or "a crash"


def _commits(log: Log) -> list[CaseCommit] | None:
    if not log.start.commits:
        return None
    told = read_commits(Repository(Path(log.start.repo)), log.start.commits)
    return [
        replace(commit, parents=tuple(parents))
        for commit, parents in zip(told, log.start.parents, strict=True)
    ]


def _vmcore(lab: Lab, outcome: Outcome | None, culprit: str | None, progress: Progress) -> Vmcore | None:
    if outcome is None or outcome.vmcore is None:
        return None
    path = Path(outcome.vmcore)
    table, kernel = lab.spec.module, lab.kernel(culprit)
    name = table.name if table else None
    size = path.stat().st_size
    if kernel is None or kernel.vmlinux is None:
        return Vmcore(str(path), size, name, note=f"to read it, {_debug_information(lab, kernel)}")
    # drgn takes 100 ms to load, which who has no vmlinux need not pay.
    from ktriage.dump.core import open_vmcore
    from ktriage.dump.modules import all_modules

    progress("reading the vmcore")
    try:
        core = open_vmcore(path, kernel.vmlinux, lab.modules(culprit))
        states, notes = all_modules(core.program)
    except KtriageError as error:
        return Vmcore(str(path), size, name, note=f"it could not be read: {error}")
    return Vmcore(str(path), size, name, tuple(states), "; ".join([*core.notes, *notes]) or None)


def _debug_information(lab: Lab, kernel: Kernel | None) -> str:
    """Return what has to be done to have a vmlinux with debug information."""
    if kernel is not None and kernel.package:
        return f"{kernel.package}-dbg is needed: make demo DEBUGINFO=1"
    if lab.spec.kernel.tree is not None:
        return "the kernel must be built with debug information: [kernel] debuginfo = true"
    return "a vmlinux with debug information is needed: [kernel] vmlinux"


def _mail(log: Log, crash: Crash | None, directory: Path, progress: Progress) -> Path | None:
    try:
        text, _ = write_mail(MailRequest(log=log, repo=Path(log.start.repo), crash=crash))
    except KtriageError as error:
        progress(f"no mail: {error}")
        return None
    path = directory / "mail.eml"
    path.write_text(text, encoding="utf-8")
    return path


def _kernel(lab: Lab, commit: str) -> str:
    kernel = lab.kernel(commit)
    if kernel is None:
        return "none: it does not build"
    version = f" ({kernel.package} {kernel.version})" if kernel.package else ""
    return ", ".join(filter(None, (f"{kernel.release}{version}", lab.accel.upper())))


def _log_path(answer: Answer | None) -> str | None:
    return answer.log if answer else None


def _commands(lab: Lab, log: Log, culprit: str | None) -> tuple[tuple[str, str], ...]:
    spec = log.start.call.get("spec", "ktriage.toml")
    revision = culprit or log.start.bad
    commands = [
        (
            f"ktriage repro run {spec} --repo {log.start.repo} --rev {revision[:12]} -n 10",
            "run the reproducer ten times and tell its crash rate",
        )
    ]
    if log.end and log.end.log:
        commands.append(
            (f"ktriage bisect replay {log.end.log}", "go through the bisection again, run by run")
        )
        commands.append((f"ktriage mail --log {log.end.log}", "write the mail anew"))
    kernel = lab.kernel(revision)
    vmlinux = kernel.vmlinux if kernel else None
    core = lab.directory / VMCORE_DIRECTORY / "vmcore"
    if vmlinux and core.exists():
        commands.append((f"ktriage dump show {core} --vmlinux {vmlinux} modules", "read the vmcore"))
    return tuple(commands)
