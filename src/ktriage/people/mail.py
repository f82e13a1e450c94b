"""The mail that tells people of a culprit: RFC 5322, plain text, wrapped, written and never sent."""

from __future__ import annotations

import email.policy
import textwrap
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, formataddr, make_msgid
from typing import TYPE_CHECKING

from ktriage import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from email.headerregistry import Address

    from ktriage.people.recipients import Recipient

WIDTH = 72
"""Columns of prose, as Documentation/process/email-clients.rst and the lists' habits have it."""
MOST_LINE = 998
"""Characters in a line, RFC 5322, 2.1.1."""
MOST_HEADER_COLUMNS = 78
MOST_REPORT_LINES = 400

_POLICY = email.policy.default.clone(linesep="\n", cte_type="8bit", max_line_length=MOST_LINE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What the mail says. ``percent``s are given as words; ``range`` is ``good..bad`` in short hashes.

    ``report`` is the crash's text and is quoted as it is. ``reproduce`` are command lines or the text of
    a reproducer. ``verification`` are sentences; ``evidence`` is what the
    guest showed beside the crash, a line each.
    """

    title: str
    commit: str
    subject: str
    author: str
    date: str
    probability: str
    runs: int
    revisions: int
    commits: int
    range: str = ""
    crash_rate: str | None = None
    runner_up: str | None = None
    verification: Sequence[str] = ()
    evidence: Sequence[str] = ()
    report: str = ""
    kernel: str | None = None
    reproduce: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the mail about a crash says whose commit is not known.

    ``blamed`` says in words which files it is put down to; ``report``, ``kernel`` and ``reproduce`` are as
    with ``Finding``.
    """

    title: str
    blamed: str = ""
    report: str = ""
    kernel: str | None = None
    reproduce: str = ""


def _safe(text: str) -> str:
    """Drop what may not stand in a header or a mail: controls other than newline and tab."""
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text.replace("\r\n", "\n"))


def _line(text: str) -> str:
    return " ".join(_safe(text).split())


def _prose(text: str) -> str:
    return textwrap.fill(_line(text), WIDTH, break_long_words=False, break_on_hyphens=False)


def _verbatim(text: str) -> list[str]:
    lines = _safe(text).rstrip().splitlines()
    cut = len(lines) - MOST_REPORT_LINES
    if cut > 0:
        lines = [*lines[:MOST_REPORT_LINES], f"[{cut} more lines]"]
    return [line[: MOST_LINE - 8].rstrip() for line in lines]


def _commit_block(finding: Finding) -> str:
    head = f"commit {finding.commit}\nAuthor: {_line(finding.author)}\nDate:   {_line(finding.date)}"
    return f"{head}\n\n    {_line(finding.subject)}"


def body(finding: Finding, *, regzbot: bool = False) -> str:
    """Return the text of the mail, prose wrapped at 72 columns, the report as it was printed.

    ``regzbot`` adds the line by which the regression tracker takes note (it reads
    ``#regzbot introduced: COMMIT``; Documentation/process/handling-regressions.rst).
    """
    short = finding.commit[:12]
    tested = f"{finding.runs} runs at {finding.revisions} of {finding.commits} commits"
    where = f" ({finding.range})" if finding.range else ""
    parts = [
        "Hello,",
        _prose(f'"{finding.title}" has been bisected to:'),
        _commit_block(finding),
        _prose(
            f"The probability that {short} brought it is {finding.probability}, from {tested}{where}."
            + (f" With it {finding.crash_rate} of the runs crash." if finding.crash_rate else "")
            + (f" The runner-up is {finding.runner_up}." if finding.runner_up else "")
        ),
    ]
    parts += [_prose(" ".join(finding.verification))] if finding.verification else []
    if finding.report:
        kernel = f", on Linux {finding.kernel}" if finding.kernel else ""
        parts += [_prose(f"The crash{kernel}:"), "\n".join(_verbatim(finding.report))]
    if finding.evidence:
        parts += ["What else was seen:", "\n".join(f"  {_line(line)}" for line in finding.evidence)]
    parts += _reproduction(finding.reproduce)
    if regzbot:
        parts.append(f"#regzbot introduced: {short}")
    parts.append(f"Found with ktriage {__version__}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _reproduction(text: str) -> list[str]:
    lines = (f"  {line}".rstrip() for line in _verbatim(text))
    return ["To reproduce it:", "\n".join(lines)] if text else []


def sighting_body(sighting: Sighting) -> str:
    """Return the text of a mail about a crash whose commit is not known."""
    kernel = f" on Linux {sighting.kernel}" if sighting.kernel else ""
    parts = [
        "Hello,",
        _prose(
            f'"{sighting.title}" was seen{kernel}. Which commit brought it is not known. {sighting.blamed}'
        ),
        "\n".join(_verbatim(sighting.report)),
        *_reproduction(sighting.reproduce),
        f"Read with ktriage {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def draft(
    about: Finding | Sighting,
    recipients: Sequence[Recipient],
    *,
    sender: tuple[str, str],
    date: datetime,
    in_reply_to: str | None = None,
    regzbot: bool = False,
) -> EmailMessage:
    """Return the mail about a culprit, or about a crash without one.

    ``sender`` is (name, address). ``in_reply_to`` is the Message-Id, without brackets, of the mail that
    brought the patch. Nothing in it comes out encoded in a way that a kernel list refuses: text is UTF-8,
    7bit or 8bit, never base64, quoted-printable or HTML. ``regzbot`` is for a culprit only.
    """
    kind = "bisected" if isinstance(about, Finding) else "BUG"
    message = EmailMessage(policy=_POLICY)
    message["From"] = formataddr((_line(sender[0]), sender[1]))
    for field in ("to", "cc"):
        addresses = [formataddr((_line(r.name), r.address)) for r in recipients if r.field == field]
        if addresses:
            message[field.capitalize()] = ", ".join(addresses)
    message["Subject"] = f"[{kind}] {_line(about.title).removeprefix(f'{kind}: ')}"
    message["Date"] = format_datetime(date)
    message["Message-ID"] = make_msgid(domain=sender[1].rpartition("@")[2] or "localhost")
    if in_reply_to:
        message["In-Reply-To"] = message["References"] = f"<{in_reply_to}>"
    text = body(about, regzbot=regzbot) if isinstance(about, Finding) else sighting_body(about)
    message.set_content(text, cte="7bit" if text.isascii() else "8bit")
    return message


def as_text(message: EmailMessage) -> str:
    """Return the mail as a file that mail programs and git send-email read.

    Lists of addresses are folded at 78 columns (RFC 5322, 2.1.1), between addresses. The other headers are
    not: Python would encode what has no space to fold at, and a Message-Id that is encoded is none.
    """
    lines = []
    for name, value in message.items():
        addresses = getattr(value, "addresses", None)
        lines.append(_folded(name, addresses) if addresses else _POLICY.fold(name, value))
    text = message.as_bytes(policy=_POLICY).decode("utf-8", errors="replace")
    return "".join(lines) + "\n" + text.partition("\n\n")[2]


def _folded(name: str, addresses: Sequence[Address]) -> str:
    """Return a header of addresses; Python's own folding may encode a comma between two of them."""
    lines = [f"{name}:"]
    for place, address in enumerate(addresses):
        word = formataddr((address.display_name, address.addr_spec))
        word += "," if place + 1 < len(addresses) else ""
        if lines[-1] != f"{name}:" and len(lines[-1]) + 1 + len(word) > MOST_HEADER_COLUMNS:
            lines.append("")
        lines[-1] += f" {word}"
    return "\n".join(lines) + "\n"
