"""A bug with all that a format needs of it, read out of a store once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ktriage.case.store.types import FindingKind

if TYPE_CHECKING:
    from ktriage.case.store import Store
    from ktriage.case.store.types import Bug, CrashEntry, Finding

MOST_CRASHES = 40


@dataclass(frozen=True, slots=True)
class BugBundle:
    """A bug, its titles, its best crashes with their reports as JSON objects, and its findings."""

    bug: Bug
    titles: tuple[tuple[str, int], ...]
    crashes: tuple[tuple[CrashEntry, dict[str, Any]], ...]
    findings: tuple[Finding, ...] = field(default=())

    @property
    def bisection(self) -> Finding | None:
        """The newest bisection that named a culprit."""
        found = (f for f in self.findings if f.kind is FindingKind.BISECTION and f.data.get("culprit"))
        return next(found, None)

    @property
    def best(self) -> dict[str, Any] | None:
        """The report of the crash that tells most."""
        return next((report for _, report in self.crashes), None)


def bundle(store: Store, number: int, *, crashes: int = MOST_CRASHES) -> BugBundle:
    """Read a bug out of a store; raises UserError where there is none of that number."""
    with store.snapshot():
        bug = store.bug(number)
        entries = [entry for entry in store.crashes(number, limit=crashes) if entry.report]
        reports = []
        for entry in entries:
            data = store.blob(entry.report or "")
            reports.append((entry, json.loads(data) if data else {}))
        return BugBundle(bug, tuple(store.titles(number)), tuple(reports), tuple(store.findings(number)))


def iso(when: float) -> str:
    """Return a time as RFC 3339 writes it, in UTC."""
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
