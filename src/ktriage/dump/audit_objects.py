"""What audits of objects other than modules have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktriage.dump.holders import Holder


@dataclass(frozen=True, slots=True)
class Tracked:
    """``count`` references that a tracker recorded: the stack that took them, innermost function first.

    ``objects`` are those that have a pointer to the record, which is who holds the reference.
    """

    stack: tuple[str, ...]
    count: int
    objects: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands in the reports' ``tracked``."""
        return {"stack": list(self.stack), "count": self.count, "objects": list(self.objects)}


@dataclass(frozen=True, slots=True)
class ObjectAudit:
    """One counted object whose references do not come out even.

    ``kind`` is what it is (``file``, ``net_device``, ``sock``, ``mount``, ``super_block``, ``dentry``,
    ``kobject``), ``count`` what it stores, ``holders`` who was found. ``verdict`` is ``leaked`` (nothing that
    is left leads to it, or it is past its removal), ``unaccounted`` (used, with references that nobody was
    found for), ``uncountable`` (the same, where this dump can't tell all), ``missing`` (more holders than
    references) or ``busy`` (accounted for, and in the way of something). ``note`` says why.
    ``mentions`` are places in objects of slab caches that have its address: where nobody was found, that is
    what is left to look at. ``tracked`` are references without a holder, recorded when they were taken.
    """

    kind: str
    address: int
    name: str
    count: int
    verdict: str
    note: str = ""
    holders: tuple[Holder, ...] = ()
    mentions: tuple[str, ...] = ()
    tracked: tuple[Tracked, ...] = ()

    @property
    def accounted(self) -> int:
        """How many references the holders have."""
        return sum(holder.count for holder in self.holders)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... audit`` prints for this one."""
        return {
            "kind": "object-audit",
            "object": self.kind,
            "address": self.address,
            "name": self.name,
            "count": self.count,
            "accounted": self.accounted,
            "unaccounted": self.count - self.accounted,
            "verdict": self.verdict,
            "note": self.note,
            "mentions": list(self.mentions),
            "tracked": [tracked.to_json() for tracked in self.tracked],
            "holders": [holder.to_json() for holder in self.holders],
        }


@dataclass(frozen=True, slots=True)
class Census:
    """How many objects of a kind there are, and those that do not come out even."""

    kind: str
    total: int
    found: tuple[ObjectAudit, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands before those of its kind."""
        return {
            "kind": "object-census",
            "object": self.kind,
            "total": self.total,
            "uneven": len(self.found),
            "notes": list(self.notes),
        }
