"""What mails of all kinds need: who sends, who is left out, a tree's people, the crash and its text."""

from __future__ import annotations

import getpass
import socket
from dataclasses import dataclass
from email.utils import parseaddr
from typing import TYPE_CHECKING

from ktriage.console import Crash, read
from ktriage.errors import UserError
from ktriage.history.git import GitError, git
from ktriage.people.addresses import split_address
from ktriage.people.recipients import CC, TO, Recipients
from ktriage.people.tree import People
from ktriage.symbols.report import annotated_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ktriage.history.repository import Repository

CUT = "------------[ cut here ]------------"
MOST_LINES_BEFORE = 8
"""Lines of console before a report's own first line that may be left out of a mail."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the sender of a mail adds or overrides.

    ``reproducer`` is a text file. With ``vmlinux`` and ``modules`` the report gets source lines.
    """

    reproducer: Path | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    ignore: Path | None = None
    in_reply_to: str | None = None
    vmlinux: Path | None = None
    modules: tuple[Path, ...] = ()


NO_WISHES = Wishes()


def parse_address(text: str) -> tuple[str, str]:
    """Return (name, address); raises UserError where ``text`` is no address."""
    name, address = parseaddr(text)
    if "@" not in address.strip("@") or any(c.isspace() for c in address):
        raise UserError(f"not a mail address: {text!r}")
    return name, address


def sender_of(asked: str | None, repository: Repository | None) -> tuple[str, str]:
    """Return who sends: as asked, else git's user, else the login at this host."""
    if asked:
        return parse_address(asked)
    try:
        if repository is not None:
            return parse_address(git(repository.path, "var", "GIT_AUTHOR_IDENT").rsplit(" ", 2)[0])
    except (GitError, UserError):
        pass
    return "", f"{getpass.getuser()}@{socket.getfqdn()}"


def start_recipients(to: Iterable[str], cc: Iterable[str], ignore: Path | None, people: People) -> Recipients:
    """Return recipients with those that the sender named.

    ``ignore`` is a file of addresses that get no mail, in the format of .get_maintainer.ignore. Raises
    UserError where an address is none.
    """
    found = Recipients(_ignored(ignore), people.ignored)
    for field, texts in ((TO, to), (CC, cc)):
        for text in texts:
            found.add(*parse_address(text), field, "was named by the sender")
    return found


def _ignored(path: Path | None) -> list[str]:
    """Return the addresses of a file: one a line, # for comments."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return [address for line in lines if (address := split_address(line.partition("#")[0])[1])]


def blob(repository: Repository, revision: str, name: str) -> bytes:
    """Return a file of a revision, empty where it has none of that name."""
    try:
        text = git(repository.path, "cat-file", "blob", f"{revision}:{name}")
    except GitError:
        return b""
    return text.encode("utf-8", errors="surrogateescape")


def people_at(repository: Repository, revision: str) -> People:
    """Return the people of the tree at a revision, as far as it names any."""

    def read_blob(name: str) -> str:
        return blob(repository, revision, name).decode("utf-8", errors="replace")

    listed = git(repository.path, "ls-tree", "-r", "-d", "-z", "--name-only", "--full-tree", revision)
    return People.of_files(read_blob, set(listed.split("\0")).__contains__)


def keyword_text(message: str, diff: str) -> bytes:
    """Return what of a commit MAINTAINERS' ``K:`` lines are looked for in: its message and what it changes.

    That is what get_maintainer.pl looks at in a patch: neither context nor the names of files.
    """
    lines = (line for line in diff.splitlines() if line[:1] in ("+", "-"))
    changed = [line[1:] for line in lines if not line.startswith(("+++ ", "--- "))]
    return "\n".join([message, *changed]).encode("utf-8", errors="surrogateescape")


def read_crash(report: Path) -> Crash:
    """Return the first crash of a console log; raises UserError where it has none."""
    crash = next((finding for finding in read(report) if isinstance(finding, Crash)), None)
    if crash is None:
        raise UserError(f"{report}: there is no crash in this log")
    return crash


def symbolized(crash: Crash, vmlinux: Path | None, modules: tuple[Path, ...]) -> Crash:
    """Return the crash with source lines, where there is what to read them from."""
    if not (vmlinux or modules):
        return crash
    # drgn takes 100 ms to load, which who has no debug information need not pay.
    from ktriage.symbols.symbolize import symbolize_crash

    return symbolize_crash(crash, vmlinux=vmlinux, modules=modules)


def quoted(crash: Crash) -> str:
    """Return the first report of the text, with its source lines, without the console's lines before it."""
    before, *reports = annotated_text(crash).split(CUT)
    if not reports or before.count("\n") > MOST_LINES_BEFORE:
        return annotated_text(crash)
    more = f"[and {len(reports) - 1} more of the kind]\n" if len(reports) > 1 else ""
    return CUT + reports[0] + more
