"""Whom to write to about a commit, each with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ktriage.people.trailers import Trailer, parse_trailers

if TYPE_CHECKING:
    from collections.abc import Iterable

TO = "to"
CC = "cc"

REASONS = {
    "signed-off-by": "signed it off",
    "co-developed-by": "wrote it with the author",
    "reviewed-by": "reviewed it",
    "acked-by": "acked it",
    "tested-by": "tested it",
    "reported-by": "reported what it mends",
    "suggested-by": "suggested it",
    "cc": "was copied on it",
}
"""Trailers that name people who should hear of a commit's crash, and why."""

_UNREACHABLE = re.compile(
    r"no-?reply|do-?not-?reply|@localhost$|\.(local|invalid|internal|example)$|\(none\)$"
)
_NOT_FOR_REPORTS = {"stable@vger.kernel.org", "stable@kernel.org", "linux-stable@vger.kernel.org"}
"""Addresses in a Cc that ask for a backport; reports do not go there."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """One address: ``field`` is ``to`` or ``cc``; ``reasons`` say why, the strongest first."""

    name: str
    address: str
    field: str
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the recipient as an object for JSON."""
        return {
            "name": self.name,
            "address": self.address,
            "field": self.field,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An address that was not taken, and why not."""

    address: str
    reason: str


class Recipients:
    """Collects people: each once, in To if any reason puts them there, in the order in which they came.

    Two addresses under one name are one person, who gets mail at the first (get_maintainer.pl's rule).
    Addresses in ``ignore`` get none. Those in ``unless_listed`` asked to be left out where they are found by
    a commit or in a file, as a tree's .get_maintainer.ignore has it: what they stand for in MAINTAINERS they
    want to hear of (get_maintainer.pl of Linux 6.1 looks at it in vcs_assign() only).
    """

    def __init__(self, ignore: Iterable[str] = (), unless_listed: Iterable[str] = ()) -> None:
        self._ignored = {address.lower() for address in ignore}
        self._unless_listed = {address.lower() for address in unless_listed}
        self._found: dict[str, Recipient] = {}
        self._named: dict[str, str] = {}
        self.left_out: list[LeftOut] = []

    def add(self, name: str, address: str, field: str, reason: str, *, listed: bool = False) -> None:
        """Add an address with a reason, unless it is one that mail can't or shouldn't go to.

        ``listed`` says that it stands in MAINTAINERS for what is written about.
        """
        key = address.lower()
        refusal = self._refusal(key, listed=listed)
        if refusal:
            if all(left.address != address for left in self.left_out):
                self.left_out.append(LeftOut(address, refusal))
            return
        self.left_out = [left for left in self.left_out if left.address.lower() != key]
        if name:
            key = self._named.setdefault(name.lower(), key)
        old = self._found.get(key)
        if old is None:
            self._found[key] = Recipient(name, address, field, (reason,))
            return
        reasons = old.reasons if reason in old.reasons else (*old.reasons, reason)
        self._found[key] = Recipient(
            old.name or name, old.address, TO if TO in (old.field, field) else CC, reasons
        )

    def _refusal(self, key: str, *, listed: bool) -> str | None:
        if key in self._ignored or (key in self._unless_listed and not listed):
            return "asked to be left out"
        if key in _NOT_FOR_REPORTS:
            return "asks for a backport, is no address for reports"
        return "no mail gets there" if _UNREACHABLE.search(key) else None

    def all(self) -> list[Recipient]:
        """Return all recipients, those in To first, otherwise in the order in which they came."""
        return sorted(self._found.values(), key=lambda recipient: recipient.field != TO)


def commit_recipients(author: tuple[str, str], message: str, *, into: Recipients | None = None) -> Recipients:
    """Collect who should hear of a crash that a commit brought, from its author and its trailers.

    ``author`` is (name, address). The author, co-authors and those who signed it off (and so passed it
    on) go to To; who reviewed, acked, tested, reported or was copied goes to Cc.
    """
    found = into or Recipients()
    found.add(*author, TO, "wrote the commit")
    for trailer in parse_trailers(message):
        _add_trailer(found, trailer)
    return found


def _add_trailer(found: Recipients, trailer: Trailer) -> None:
    key = trailer.key.lower()
    # Compounds such as Reported-and-tested-by stand for each of their parts.
    parts = [f"{part}-by" for part in key.removesuffix("-by").split("-and-")] if "-and-" in key else [key]
    address = trailer.address()
    for part in parts:
        reason = REASONS.get(part)
        if reason and address:
            field = TO if part in ("signed-off-by", "co-developed-by") else CC
            found.add(*address, field, reason)
