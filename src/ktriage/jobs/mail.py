"""The mail about a culprit: the bisection's log, the commit, its crash and its people joined."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from datetime import datetime
from email.utils import parseaddr
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.case.bisection import from_log
from ktriage.case.text import percent
from ktriage.case.trials import load_outcome
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.jobs.change import read_diff
from ktriage.jobs.mail_parts import (
    NO_WISHES,
    Wishes,
    blob,
    keyword_text,
    people_at,
    quoted,
    read_crash,
    sender_of,
    start_recipients,
    symbolized,
)
from ktriage.people.mail import WIDTH, Finding, as_text, draft
from ktriage.people.recipients import CC, TO, Recipient, commit_recipients
from ktriage.people.trailers import parse_trailers, patch_message_id
from ktriage.trial import load_spec

if TYPE_CHECKING:
    from ktriage.bisect.types import Log
    from ktriage.case.types import Bisection
    from ktriage.console import Crash
    from ktriage.history.repository import Commit
    from ktriage.trial import Outcome, Spec

REGRESSIONS = "regressions@lists.linux.dev"
MOST_SOURCE_LINES = 150
"""A reproducer in C that is longer is named, but not quoted."""


@dataclass(frozen=True, slots=True)
class MailRequest:
    """What to write a mail about.

    ``crash`` is the crash to quote; without it the one in ``report`` (a console log) is, else that of the
    culprit's first crashed run whose directory is still there. Without a reproducer the commands of the
    specification are told, where the bisection ran in VMs.
    """

    log: Log
    repo: Path
    crash: Crash | None = None
    report: Path | None = None
    regzbot: bool = False
    wishes: Wishes = NO_WISHES


def write_mail(request: MailRequest) -> tuple[str, list[Recipient]]:
    """Return the mail's text and whom it goes to.

    Raises UserError where the bisection named no culprit, the repository does not have it, a file is not
    to be read, or an address is none.
    """
    answer = request.log.end
    if answer is None or answer.culprit is None:
        raise UserError("there is no culprit to write about")
    repository = Repository(request.repo)
    commit = repository.commit(repository.resolve(answer.culprit))
    outcome = _outcome(request)
    crash = request.crash or (
        read_crash(request.report) if request.report else outcome.crash if outcome else None
    )
    crash = symbolized(crash, request.wishes.vmlinux, request.wishes.modules) if crash else None
    recipients = _recipients(request, repository, commit)
    message = draft(
        _finding(request, commit, crash, outcome.evidence if outcome else ()),
        recipients,
        sender=sender_of(request.wishes.sender, repository),
        date=datetime.now().astimezone(),
        in_reply_to=request.wishes.in_reply_to
        or patch_message_id(parse_trailers(f"{commit.subject}\n\n{commit.body}")),
        regzbot=request.regzbot,
    )
    return as_text(message), recipients


def _recipients(request: MailRequest, repository: Repository, commit: Commit) -> list[Recipient]:
    people = people_at(repository, commit.commit)
    found = start_recipients(request.wishes.to, request.wishes.cc, request.wishes.ignore, people)
    author = parseaddr(commit.author)[0] or commit.author.partition(" <")[0]
    text = f"{commit.subject}\n\n{commit.body}"
    commit_recipients((author, commit.email), text, into=found)
    searched = keyword_text(text, read_diff(repository, commit.commit))
    files = repository.files(commit.commit)
    people.collect(dict.fromkeys(files, searched), into=found)
    for file in files:
        if file.endswith(".yaml"):
            people.named_in(file, blob(repository, commit.commit, file), TO, found)
    if request.regzbot:
        found.add("", REGRESSIONS, CC, "tracks regressions")
    return found.all()


def _outcome(request: MailRequest) -> Outcome | None:
    """Return what the culprit's first crashed run left, or another's, where one is still there."""
    answer = request.log.end
    runs = [run for run in request.log.runs if run.outcome == "crashed" and run.where and not run.patches]
    for run in sorted(runs, key=lambda run: answer is None or run.commit != answer.culprit):
        if (Path(run.where or "") / "outcome.json").exists():
            return load_outcome(Path(run.where or ""))
    return None


def _reproduce(request: MailRequest, commit: str) -> str:
    if request.wishes.reproducer:
        return request.wishes.reproducer.read_text(encoding="utf-8", errors="replace")
    path = Path(request.log.start.call.get("spec", ""))
    try:
        spec = load_spec(path)
        sources = {name: spec.path(name).read_text(encoding="utf-8") for name in spec.guest.compile}
    except (UserError, OSError, UnicodeDecodeError):
        # Moved or changed since: then the mail says nothing of it.
        return ""
    lines = [*_kernel(spec, commit), f"# {spec.guest.cpus} CPU(s), {spec.guest.memory} of memory"]
    lines += [f"gcc -static -O2 -pthread -o {Path(c).stem} {Path(c).name}" for c in spec.guest.compile]
    lines += [f"modprobe {name}" for name in spec.guest.drivers]
    lines += [f"insmod {spec.module.name}.ko {spec.module.parameters}".rstrip()] if spec.module else []
    lines += spec.run.commands
    for name, text in sources.items():
        if text.count("\n") <= MOST_SOURCE_LINES:
            lines += ["", f"{Path(name).name}:", "", *text.rstrip().splitlines()]
    return "\n".join(lines)


def _kernel(spec: Spec, commit: str) -> list[str]:
    """Return what the reproducer runs on, as comments."""
    table = spec.kernel
    if table.tree is None:
        return [f"# on {table.package or table.image}"]
    wanted = [*table.options, *(f"the lines of {Path(name).name}" for name in table.fragments)]
    words = f"Linux at {commit[:12]}, {table.config}" + (f" with {', '.join(wanted)}" if wanted else "")
    return [f"# {line}" for line in textwrap.wrap(words, WIDTH - 4, break_long_words=False)]


def _finding(request: MailRequest, commit: Commit, crash: Crash | None, evidence: tuple[str, ...]) -> Finding:
    bisection = from_log(request.log)
    ranked = bisection.candidates()
    second = ranked[1] if len(ranked) > 1 else None
    title = crash.title if crash else next((r.title for r in request.log.runs if r.title), None)
    return Finding(
        title=title or f"a failure since {commit.subject}",
        commit=commit.commit,
        subject=commit.subject,
        author=commit.author,
        date=commit.date,
        probability=percent(bisection.probability),
        runs=len(bisection.runs),
        revisions=bisection.revisions(),
        commits=bisection.count(),
        range=f"{bisection.good[:12]}..{bisection.bad[:12]}",
        crash_rate=_rate(bisection),
        runner_up=f'{second.short} ("{second.subject}") at {percent(second.probability)}' if second else None,
        verification=_verification(bisection),
        evidence=[line for line in evidence if not line.startswith("console: ")],
        report=quoted(crash) if crash else "",
        kernel=crash.kernel if crash else None,
        reproduce=_reproduce(request, commit.commit),
    )


def _rate(bisection: Bisection) -> str | None:
    if bisection.crash_rate is None:
        return None
    low, high = bisection.crash_interval or (None, None)
    interval = (
        f" (95% interval: {percent(low)} to {percent(high)})" if low is not None and high is not None else ""
    )
    return percent(bisection.crash_rate) + interval


def _verification(bisection: Bisection) -> list[str]:
    if not bisection.verification:
        return []
    checks = "; ".join(f"{what}: {came}" for what, came in bisection.verification)
    return [f"Checked: {checks}."]
