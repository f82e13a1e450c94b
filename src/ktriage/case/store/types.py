"""What comes out of a case store, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class BugState(StrEnum):
    """What is known to have become of a bug."""

    OPEN = "open"
    FIXED = "fixed"
    INVALID = "invalid"
    DUPLICATE = "duplicate"


class FindingKind(StrEnum):
    """What else than crashes is kept about a bug."""

    TRIALS = "trials"
    BISECTION = "bisection"
    LEDGER = "ledger"
    DUMP = "dump"
    MAIL = "mail"
    REPRODUCER = "reproducer"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug as lists show it. Times are seconds since the epoch."""

    id: int
    title: str
    type: str | None
    state: BugState
    crashes: int
    kept: int
    first_seen: float
    last_seen: float
    frame: str | None = None
    guilty_file: str | None = None
    stack: tuple[str, ...] = ()
    culprit: str | None = None
    fixed_by: str | None = None
    duplicate_of: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that the REST interface gives for it."""
        return {"kind": "bug", **asdict(self), "state": str(self.state)}


@dataclass(frozen=True, slots=True)
class CrashEntry:
    """A crash of a bug. ``report`` is the digest of its JSON and ``log`` of its log, None where not kept."""

    id: int
    bug: int
    title: str
    when: float
    line: int
    start: int
    kernel: str | None
    corrupted: str | None
    rank: float
    source: str | None = None
    report: str | None = None
    log: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that the REST interface gives for it."""
        return {"kind": "crash-entry", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Finding:
    """What else was found: ``data`` what lists and pages need, ``blob`` the digest of all of it."""

    id: int
    bug: int | None
    kind: FindingKind
    when: float
    summary: str
    data: dict[str, Any] = field(default_factory=dict)
    blob: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that the REST interface gives for it."""
        return {**asdict(self), "kind": str(self.kind)}


@dataclass(frozen=True, slots=True)
class Added:
    """What a log brought: its crashes' bugs, those of them that are new, or that it was there already."""

    log: int | None
    bugs: tuple[int, ...] = ()
    new: tuple[int, ...] = ()
    known: bool = False


@dataclass(frozen=True, slots=True)
class Pruned:
    """What pruning took away: logs and reports no longer kept, and bytes given back."""

    crashes: int
    blobs: int
    bytes: int
