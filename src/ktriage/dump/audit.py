"""An audit of reference counts: what is stored against the holders that are found.

``audit_modules`` goes through all modules. A module's count that is higher than its holders has references
that nobody was found for, one that is lower has lost references that somebody will put.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import drgn

from ktriage.dump.audit_code import CodeUse, audit_code
from ktriage.dump.audit_files import audit_files
from ktriage.dump.audit_kobjects import audit_kobjects
from ktriage.dump.audit_mounts import audit_mounts
from ktriage.dump.audit_netdevs import audit_netdevs
from ktriage.dump.audit_socks import audit_socks
from ktriage.dump.audit_symbols import load_needed
from ktriage.dump.holders import SOURCES, Holder, Walk
from ktriage.dump.holders.walk import BROKEN, text
from ktriage.dump.modules import module_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ktriage.dump.audit_ledger import LedgerEntry
    from ktriage.dump.audit_objects import Census, ObjectAudit
    from ktriage.dump.core import Vmcore
    from ktriage.dump.types import ModuleState

UNEVEN = ("leaked", "unaccounted")
MOST_MENTIONS = 8
MOST_NOTES = 32


@dataclass(frozen=True, slots=True)
class ModuleAudit:
    """One module's count and who has the references.

    ``count`` is lsmod's (one more of a module that is going), None where the kernel keeps none. ``linked`` of
    the references found are by modules that are linked against this one, the others are dynamic. ``lacks``
    says which references can't be counted in this dump. ``ledger`` is what a trace's ledger says of the
    module, where there is one. ``mentions`` are places in slab objects that have the address of the
    ``struct module``, where references are unaccounted for.
    """

    module: str
    address: int
    state: str
    count: int | None
    holders: tuple[Holder, ...]
    lacks: tuple[str, ...] = ()
    ledger: LedgerEntry | None = None
    mentions: tuple[str, ...] = ()

    @property
    def accounted(self) -> int:
        """How many references the holders have."""
        return sum(holder.count for holder in self.holders)

    @property
    def linked(self) -> int:
        """How many of them are by linking."""
        return sum(holder.count for holder in self.holders if holder.kind == "linked")

    @property
    def unaccounted(self) -> int:
        """Stored less found: above 0 nobody was found for some, below 0 holders have no reference."""
        return 0 if self.count is None else self.count - self.accounted

    @property
    def verdict(self) -> str:
        """One of ``exact``, ``unaccounted``, ``missing``, ``uncountable`` (what is unaccounted may be what
        this dump can't tell) and ``none`` (the kernel keeps no counts).
        """  # noqa: D205 (a list does not fit a line)
        if self.count is None:
            return "none"
        if self.unaccounted == 0:
            return "exact"
        if self.unaccounted < 0:
            return "missing"
        return "uncountable" if self.lacks else "unaccounted"

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... audit`` prints for this module."""
        return {
            "kind": "module-audit",
            "module": self.module,
            "address": self.address,
            "state": self.state,
            "count": self.count,
            "linked": self.linked,
            "dynamic": None if self.count is None else self.count - self.linked,
            "accounted": self.accounted,
            "unaccounted": self.unaccounted,
            "verdict": self.verdict,
            "holders": [holder.to_json() for holder in self.holders],
            "lacks": list(self.lacks),
            "mentions": list(self.mentions),
            "ledger": None if self.ledger is None else self.ledger.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """All of it: the modules, the other counted objects by kind, and the pointers into modules."""

    modules: tuple[ModuleAudit, ...]
    objects: tuple[Census, ...]
    code: CodeUse

    def to_json(self) -> Iterator[dict[str, Any]]:
        """Yield the objects that ``ktriage dump show --json ... audit`` prints."""
        for module in self.modules:
            yield {**module.to_json(), "pointers": dict(self.code.uses.get(module.module, {}))}
        for dangling in self.code.dangling:
            yield dangling.to_json()
        for census in self.objects:
            yield census.to_json()
            for one in census.found:
                yield one.to_json()


OBJECTS: tuple[Callable[[Walk], list[Census]], ...] = (
    lambda walk: [audit_files(walk)],
    lambda walk: [audit_netdevs(walk)],
    lambda walk: [audit_socks(walk)],
    audit_mounts,
    lambda walk: [audit_kobjects(walk)],
)


def audit(core: Vmcore, ledger: Mapping[str, LedgerEntry] | None = None) -> Audit:
    """Return the audit of a dump; ``core.notes`` says what could not be read."""
    walk = new_walk(core)
    modules = audit_modules(walk, ledger)
    objects: list[Census] = []
    for one in OBJECTS:
        with walk.guard("an audit of objects"):
            objects += one(walk)
    code = audit_code(walk)
    modules, objects = _with_mentions(walk, modules, _without_parts(walk, objects))
    core.notes += _some([note for note in (*walk.notes, *walk.all_notes()) if note not in core.notes])
    return Audit(tuple(modules), tuple(objects), code)


def _some(notes: list[str]) -> list[str]:
    """Return the first notes, and how many more there are: of a dump full of nonsense there are thousands."""
    more = len(notes) - MOST_NOTES
    return [*notes[:MOST_NOTES], f"{more:,} more could not be read"] if more > 0 else notes


def _without_parts(walk: Walk, objects: list[Census]) -> list[Census]:
    """Leave out kobjects that are part of a network device which is told of."""
    told = [one.address for census in objects if census.kind == "net_device" for one in census.found]
    size = drgn.sizeof(walk.program.type("struct net_device"))

    def part(one: ObjectAudit) -> bool:
        return one.kind == "kobject" and any(start <= one.address < start + size for start in told)

    return [replace(census, found=tuple(one for one in census.found if not part(one))) for census in objects]


def _with_mentions(
    walk: Walk, modules: list[ModuleAudit], objects: list[Census]
) -> tuple[list[ModuleAudit], list[Census]]:
    """Add to what is unaccounted for where its address stands."""
    wanted = [one.address for census in objects for one in census.found if one.verdict in UNEVEN]
    wanted += [module.address for module in modules if module.verdict in UNEVEN]
    mentions = _mentions(walk, wanted)

    def told(one: ObjectAudit) -> ObjectAudit:
        return replace(one, mentions=tuple(mentions.get(one.address, ())))

    return (
        [replace(module, mentions=tuple(mentions.get(module.address, ()))) for module in modules],
        [replace(census, found=tuple(map(told, census.found))) for census in objects],
    )


def _mentions(walk: Walk, wanted: list[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    if not wanted:
        return found
    for value, cache, address, offset in walk.each("what mentions it", walk.slabs.pointers(wanted)):
        if address <= value < address + int(cache.object_size):
            continue
        if len(found[value]) < MOST_MENTIONS:
            found[value].append(f"{text(cache.name)} object {address:#x}+{offset:#x}")
    return found


def new_walk(core: Vmcore) -> Walk:
    """Return a view of a dump for its audits; what they share is read once."""
    load_needed(core)
    return Walk(core.program, module_states(core))


def audit_modules(walk: Walk, ledger: Mapping[str, LedgerEntry] | None = None) -> list[ModuleAudit]:
    """Return the audit of each loaded module, newest first; ``walk.notes`` says what could not be read."""
    holders: dict[str, list[Holder]] = defaultdict(list)
    for source in SOURCES:
        for holder in _guarded(walk, source):
            holders[holder.module].append(holder)
    return [
        ModuleAudit(
            module=module.name,
            address=module.address,
            state=module.state,
            count=_count(module),
            holders=tuple(holders[module.name]),
            lacks=tuple(walk.lacks.get(module.name, ())),
            ledger=(ledger or {}).get(module.name),
        )
        for module in walk.modules
    ]


def _count(module: ModuleState) -> int | None:
    """Return how many references a module's count says there are.

    One that is being removed has given up the reference of being loaded (``try_release_module_ref()``), so
    what lsmod shows of it is one too low.
    """
    if module.refcnt is None:
        return None
    return module.refcnt + 1 if module.state == "going" else module.refcnt


def _guarded(walk: Walk, source: Callable[[Walk], Iterator[Holder]]) -> Iterator[Holder]:
    """Yield what a source finds; where it breaks off is noted."""
    try:
        yield from source(walk)
    except BROKEN as error:
        walk.note(source.__name__.replace("_", " "), error)
