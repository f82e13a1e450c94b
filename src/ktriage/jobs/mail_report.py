"""The mail about a crash whose commit is not known, to those who look after the file that it points to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.console.guilt import guilty_file
from ktriage.errors import UserError
from ktriage.history.git import GitError, git
from ktriage.history.repository import Repository
from ktriage.jobs.mail_parts import (
    NO_WISHES,
    Wishes,
    people_at,
    quoted,
    read_crash,
    sender_of,
    start_recipients,
    symbolized,
)
from ktriage.people.definitions import where_defined
from ktriage.people.mail import Sighting, as_text, draft
from ktriage.people.tree import People

if TYPE_CHECKING:
    from ktriage.console import Crash
    from ktriage.people.recipients import Recipient

_MESSENGER = re.compile(r"_*(?:try_)?\w*_(?:get|put|hold|release)(?:_\w+)?|refcount_\w+|kref_\w+")
"""A function that gets or puts a reference tells of a count that went wrong before; the caller is at home."""
MOST_FRAMES = 16


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What to write about.

    ``report`` is a console log, of which the first crash is taken. ``tree`` is a kernel's source, or with
    ``revision`` a git repository of one. ``files`` are blamed in place of those that the report points to.
    """

    report: Path
    tree: Path
    revision: str | None = None
    files: tuple[str, ...] = ()
    wishes: Wishes = NO_WISHES


def write_report_mail(request: ReportRequest) -> tuple[str, list[Recipient]]:
    """Return the mail's text and whom it goes to.

    Raises UserError where there is no crash in the log, no MAINTAINERS in the tree, nothing to blame, or an
    address is none.
    """
    crash = symbolized(read_crash(request.report), request.wishes.vmlinux, request.wishes.modules)
    repository = _repository(request)
    revision = repository.resolve(request.revision) if repository and request.revision else None
    people = people_at(repository, revision) if repository and revision else People.of_folder(request.tree)
    if not people.maintainers.sections:
        raise UserError(f"{request.tree}: no MAINTAINERS there", hint="name a kernel's source with --tree")
    files = request.files or blame(crash, request.tree, revision)
    if not files:
        raise UserError(
            f"{request.report}: the report points to no file of {request.tree}", hint="name one with --file"
        )
    found = start_recipients(request.wishes.to, request.wishes.cc, request.wishes.ignore, people)
    people.collect({file: _content(request.tree, revision, file) for file in files}, into=found)
    message = draft(
        Sighting(
            title=crash.title,
            blamed=_blamed(files, chosen=bool(request.files)),
            report=quoted(crash),
            kernel=crash.kernel,
            reproduce=request.wishes.reproducer.read_text(encoding="utf-8", errors="replace")
            if request.wishes.reproducer
            else "",
        ),
        found.all(),
        sender=sender_of(request.wishes.sender, repository),
        date=datetime.now().astimezone(),
        in_reply_to=request.wishes.in_reply_to,
    )
    return as_text(message), found.all()


def _repository(request: ReportRequest) -> Repository | None:
    try:
        return Repository(request.tree)
    except UserError:
        if request.revision or not request.tree.is_dir():
            raise
        return None


def _content(tree: Path, revision: str | None, file: str) -> bytes:
    """Return a file of the tree; raises UserError where it has none of that name."""
    try:
        if revision is not None:
            text = git(tree, "cat-file", "blob", f"{revision}:{file}")
            return text.encode("utf-8", errors="surrogateescape")
        path = (tree / file).resolve()
        if path.is_relative_to(tree.resolve()):
            return path.read_bytes()
    except (GitError, OSError):
        pass
    raise UserError(f"{tree} has no file {file}")


def blame(crash: Crash, tree: Path, revision: str | None = None) -> tuple[str, ...]:
    """Return the file that a crash is put down to, and before it the caller's where a count went wrong.

    Files come from the report's lines and, for functions without one, from where the tree defines them.
    """
    frames = [frame for frame in crash.stack if frame.reliable][:MOST_FRAMES]
    unknown = [frame.function for frame in frames if not frame.file]
    defined = where_defined(tree, unknown, revision)
    files = [(frame.function, frame.file or defined.get(frame.function)) for frame in frames]
    placed = [(function, file) for function, file in files if file]
    if placed and _MESSENGER.fullmatch(placed[0][0]):
        placed = [(function, file) for function, file in placed if file != placed[0][1]] or placed
    lines = [f"{file}:1" for _, file in placed]
    guilty = guilty_file(crash.title, lines) if lines else crash.guilty_file
    return (guilty,) if guilty else ()


def _blamed(files: tuple[str, ...], *, chosen: bool) -> str:
    names = " and ".join(files)
    return f"It is about {names}." if chosen else f"The report points to {names}."
