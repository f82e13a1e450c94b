"""Bugs as mails in an mbox: what `git am`'s users and lore's read."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from email.generator import BytesGenerator
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import TYPE_CHECKING

from ktriage.case.formats.markdown import markdown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ktriage.case.formats.bundle import BugBundle

LONGEST_LINE = 998
"""Octets of a line in a mail (RFC 5322, 2.1.1)."""
POLICY = SMTP.clone(linesep="\n", max_line_length=LONGEST_LINE)


def mbox(bundles: Iterable[BugBundle], sender: str) -> bytes:
    """Return an mbox with a mail a bug, from ``sender``; lines that begin with "From " are quoted."""
    out = io.BytesIO()
    for one in bundles:
        message = _message(one, sender)
        when = datetime.fromtimestamp(one.bug.last_seen, UTC)
        out.write(f"From ktriage@localhost {when:%a %b %d %H:%M:%S %Y}\n".encode())
        BytesGenerator(out, mangle_from_=True, policy=POLICY).flatten(message)
        out.write(b"\n")
    return out.getvalue()


def _message(one: BugBundle, sender: str) -> EmailMessage:
    message = EmailMessage(policy=POLICY)
    message["From"] = sender
    message["Subject"] = " ".join(one.bug.title.split())
    message["Date"] = format_datetime(datetime.fromtimestamp(one.bug.last_seen, UTC))
    message["Message-ID"] = f"<ktriage-bug-{one.bug.id}@localhost>"
    text = markdown(one).replace("\0", "\N{REPLACEMENT CHARACTER}")
    long = any(len(line.encode()) > LONGEST_LINE for line in text.splitlines())
    message.set_content(text, cte="quoted-printable" if long else "8bit")
    return message
