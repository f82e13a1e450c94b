"""The mail about a culprit: the bisection's log, the commit, its crash and its people joined."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from datetime import datetime
from email.utils import parseaddr
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.case.bisection import from_log
from ktriage.case.text import percent
from ktriage.case.trials import load_outcome
from ktriage.console import Crash, read
from ktriage.errors import UserError
from ktriage.history.git import GitError, git
from ktriage.history.repository import Repository
from ktriage.people.mail import Finding, as_text, draft
from ktriage.people.recipients import CC, TO, Recipient, Recipients, commit_recipients
from ktriage.people.trailers import parse_trailers, patch_message_id
from ktriage.people.tree import People
from ktriage.symbols.report import annotated_text
from ktriage.trial import load_spec

if TYPE_CHECKING:
    from ktriage.bisect.types import Log
    from ktriage.case.types import Bisection
    from ktriage.history.repository import Commit
    from ktriage.trial import Outcome

CUT = "------------[ cut here ]------------"
MOST_LINES_BEFORE = 8
"""Lines of console before a report's own first line that may be left out of a mail."""
REGRESSIONS = "regressions@lists.linux.dev"


@dataclass(frozen=True, slots=True)
class MailRequest:
    """What to write a mail about, and what the sender adds or overrides.

    ``crash`` is the crash to quote; without it the one in ``report`` (a console log) is, else that of the
    culprit's first crashed run whose directory is still there. ``reproducer`` is a text file; without it
    the commands of the specification are told, where the bisection ran in VMs. With ``vmlinux`` and
    ``modules`` the report gets source lines.
    """

    log: Log
    repo: Path
    crash: Crash | None = None
    report: Path | None = None
    reproducer: Path | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    ignore: Path | None = None
    in_reply_to: str | None = None
    regzbot: bool = False
    vmlinux: Path | None = None
    modules: tuple[Path, ...] = ()


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
    crash = request.crash or (_read(request.report) if request.report else outcome.crash if outcome else None)
    if crash and (request.vmlinux or request.modules):
        crash = _symbolized(request, crash)
    recipients = _recipients(request, repository, commit)
    message = draft(
        _finding(request, commit, crash, outcome.evidence if outcome else ()),
        recipients,
        sender=_sender(request, repository),
        date=datetime.now().astimezone(),
        in_reply_to=request.in_reply_to
        or patch_message_id(parse_trailers(f"{commit.subject}\n\n{commit.body}")),
        regzbot=request.regzbot,
    )
    return as_text(message), recipients


def _address(text: str) -> tuple[str, str]:
    name, address = parseaddr(text)
    if "@" not in address.strip("@") or any(c.isspace() for c in address):
        raise UserError(f"not a mail address: {text!r}")
    return name, address


def _recipients(request: MailRequest, repository: Repository, commit: Commit) -> list[Recipient]:
    people = _people(repository, commit.commit)
    ignored = request.ignore.read_text(encoding="utf-8").split() if request.ignore else []
    found = Recipients([*ignored, *people.ignored])
    for field, texts in ((TO, request.to), (CC, request.cc)):
        for text in texts:
            found.add(*_address(text), field, "was named by the sender")
    author = parseaddr(commit.author)[0] or commit.author.partition(" <")[0]
    commit_recipients((author, commit.email), f"{commit.subject}\n\n{commit.body}", into=found)
    patch = repository.diff(commit.commit).encode(errors="surrogateescape")
    people.collect(dict.fromkeys(repository.files(commit.commit), patch), into=found)
    if request.regzbot:
        found.add("", REGRESSIONS, CC, "tracks regressions")
    return found.all()


def _people(repository: Repository, revision: str) -> People:
    """Return the people of the tree at a revision, as far as it names any."""

    def read(name: str) -> str:
        try:
            return git(repository.path, "cat-file", "blob", f"{revision}:{name}")
        except GitError:
            return ""

    listed = git(repository.path, "ls-tree", "-r", "-d", "-z", "--name-only", "--full-tree", revision)
    return People.of_files(read, set(listed.split("\0")).__contains__)


def _sender(request: MailRequest, repository: Repository) -> tuple[str, str]:
    """Return who sends: as asked, else git's user, else the login at this host."""
    if request.sender:
        return _address(request.sender)
    try:
        identity = git(repository.path, "var", "GIT_AUTHOR_IDENT").rsplit(" ", 2)[0]
        return _address(identity)
    except (GitError, UserError):
        return "", f"{getpass.getuser()}@{socket.getfqdn()}"


def _outcome(request: MailRequest) -> Outcome | None:
    """Return what the culprit's first crashed run left, or another's, where one is still there."""
    answer = request.log.end
    runs = [run for run in request.log.runs if run.outcome == "crashed" and run.where and not run.patches]
    for run in sorted(runs, key=lambda run: answer is None or run.commit != answer.culprit):
        if (Path(run.where or "") / "outcome.json").exists():
            return load_outcome(Path(run.where or ""))
    return None


def _read(report: Path) -> Crash:
    crash = next((finding for finding in read(report) if isinstance(finding, Crash)), None)
    if crash is None:
        raise UserError(f"{report}: there is no crash in this log")
    return crash


def _symbolized(request: MailRequest, crash: Crash) -> Crash:
    # drgn takes 100 ms to load, which who has no debug information need not pay.
    from ktriage.symbols.symbolize import symbolize_crash

    return symbolize_crash(crash, vmlinux=request.vmlinux, modules=request.modules)


def _quoted(crash: Crash) -> str:
    """Return the first report of the text, with its source lines, without the console's lines before it."""
    before, *reports = annotated_text(crash).split(CUT)
    if not reports or before.count("\n") > MOST_LINES_BEFORE:
        return annotated_text(crash)
    more = f"[and {len(reports) - 1} more of the kind]\n" if len(reports) > 1 else ""
    return CUT + reports[0] + more


def _reproduce(request: MailRequest) -> str:
    if request.reproducer:
        return request.reproducer.read_text(encoding="utf-8", errors="replace")
    path = Path(request.log.start.call.get("spec", ""))
    try:
        spec = load_spec(path)
    except (UserError, OSError):
        # Moved or changed since: then the mail says nothing of it.
        return ""
    kernel = spec.kernel.package or spec.kernel.image
    lines = [f"# on {kernel}, {spec.guest.cpus} CPU(s), {spec.guest.memory} of memory"]
    lines += [f"gcc -static -O2 -pthread -o {Path(c).stem} {Path(c).name}" for c in spec.guest.compile]
    lines += [f"insmod {spec.module.name}.ko {spec.module.parameters}".rstrip()] if spec.module else []
    return "\n".join([*lines, *spec.run.commands])


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
        report=_quoted(crash) if crash else "",
        kernel=crash.kernel if crash else None,
        reproduce=_reproduce(request),
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
