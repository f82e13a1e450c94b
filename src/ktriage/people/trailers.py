"""The trailers of a commit message: who signed, reported, reviewed, and what they link to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit

_TRAILER = re.compile(r"([A-Za-z][A-Za-z0-9-]*):[ \t]*(\S.*)")
_NOTE = re.compile(r"\[[^\]]*\]?$|\s+\S")
_COMMENT = re.compile(r"\s+(?:#.*|\(.*\))$")
_ARCHIVES = {"lore.kernel.org", "patch.msgid.link", "lkml.kernel.org", "msgid.link", "lists.openwall.net"}


@dataclass(frozen=True, slots=True)
class Trailer:
    """One ``Key: value`` line; ``key`` as it was written."""

    key: str
    value: str

    def address(self) -> tuple[str, str] | None:
        """Return (name, address), or None where the value is no mail address.

        What follows an address, such as ``# 6.1+`` after a Cc to stable, is left out.
        """
        text = _COMMENT.sub("", self.value).strip()
        name, address = parseaddr(text)
        local, at, domain = address.rpartition("@")
        if not (local and at and domain) or any(c.isspace() for c in address):
            return None
        return name, address


def parse_trailers(message: str) -> tuple[Trailer, ...]:
    """Return the trailers at the end of a commit message, in order.

    Git takes the last paragraph only (git-interpret-trailers(1)); kernel commits often have more than
    one, parted by blank lines or by a note in brackets, so paragraphs are taken from the end for as long
    as most of their lines are trailers. A line that begins with white space goes on with the value
    before it. The subject is never a trailer.
    """
    paragraphs = re.split(r"\n[ \t]*\n", message.strip("\n"))
    found: list[Trailer] = []
    for paragraph in reversed(paragraphs[1:]):
        trailers = _paragraph(paragraph)
        if trailers is None:
            break
        found = trailers + found
    return tuple(found)


def _paragraph(paragraph: str) -> list[Trailer] | None:
    trailers: list[Trailer] = []
    other = 0
    for line in paragraph.splitlines():
        if match := _TRAILER.fullmatch(line.rstrip()):
            trailers.append(Trailer(match[1], match[2]))
        elif line[:1].isspace() and trailers:
            last = trailers[-1]
            trailers[-1] = Trailer(last.key, f"{last.value} {line.strip()}")
        elif line.strip() and not _NOTE.fullmatch(line):
            other += 1
    return trailers if trailers and other <= len(trailers) / 3 else None


def fixes(trailers: tuple[Trailer, ...]) -> tuple[str, ...]:
    """Return the abbreviated hashes that ``Fixes:`` trailers name, in order."""
    found = []
    for trailer in trailers:
        match = re.match(r"(?:commit\s+)?([0-9a-f]{8,40})\b", trailer.value)
        if trailer.key.lower() == "fixes" and match:
            found.append(match[1])
    return tuple(found)


def message_id(link: str) -> str | None:
    """Return the Message-Id, without brackets, that a link to a mail archive holds, or None.

    Known are lore.kernel.org (``/r/ID``, ``/LIST/ID/``), patch.msgid.link and lkml.kernel.org.
    """
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        return None
    if parts.hostname not in _ARCHIVES:
        return None
    for piece in parts.path.split("/"):
        text = unquote(piece)
        if re.fullmatch(r"[^\s<>@]+@[^\s<>@]+", text):
            return text
    return None


def patch_message_id(trailers: tuple[Trailer, ...]) -> str | None:
    """Return the Message-Id of the mail in which the patch was sent, or None.

    Who applies a patch adds its ``Link:`` last, after those to discussions and reports; links to
    patch.msgid.link are always to the patch.
    """
    links = [trailer.value.split()[0] for trailer in trailers if trailer.key.lower() == "link"]
    links.sort(key=lambda link: "patch.msgid.link" in link)
    for link in reversed(links):
        found = message_id(link)
        if found:
            return found
    return None
