"""What all walks share: the dumped kernel, its modules by address, and what could not be read."""

from __future__ import annotations

import bisect
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import drgn
from drgn.helpers.linux.mm import find_vmap_area
from drgn.helpers.linux.slab import for_each_slab_cache

from ktriage.dump import core
from ktriage.dump.holders.layout import Layout
from ktriage.dump.holders.lists import once
from ktriage.dump.holders.slabs import Slabs
from ktriage.dump.places import Places
from ktriage.dump.works import last_unloaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ktriage.dump.types import ModuleState

Item = TypeVar("Item")

BROKEN = (*core.BROKEN, AttributeError, TypeError, RecursionError)
"""What drgn raises where memory holds nonsense, or a struct is not the one that we know."""
MOST_STRING = 256
KERNEL_HALF = 1 << 63
"""The first address that may be the kernel's own, on every 64-bit machine."""


@dataclass(frozen=True, slots=True)
class Holder:
    """``count`` references to a module (or another counted object), and the object that has them.

    ``kind`` names the class of holders (``file``, ``mount``, ``socket``, ...), ``address`` and ``type`` the
    object, ``path`` how one gets to it, from the outside in.
    """

    module: str
    kind: str
    address: int
    type: str
    path: str
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands in the reports' ``holders``."""
        return asdict(self)


@dataclass(slots=True)
class Walk:
    """One audit's view of a dump.

    ``lacks`` says by module what can't be counted there, and why: mostly that debug information of a
    module is needed. ``notes`` says what could not be read.
    """

    program: drgn.Program
    modules: list[ModuleState]
    notes: list[str] = field(default_factory=list)
    lacks: dict[str, list[str]] = field(default_factory=dict)
    _layouts: dict[tuple[str, ...], Layout] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    def keep(self, name: str, make: Any) -> Any:  # noqa: ANN401 (whatever it makes)
        """Return what ``make(self)`` made when first asked for ``name``."""
        if name not in self._kept:
            self._kept[name] = make(self)
        return self._kept[name]

    @property
    def slabs(self) -> Slabs:
        """The slabs of all caches, found when first asked for."""
        found: Slabs = self.keep("slabs", lambda walk: Slabs(walk.program))
        return found

    @property
    def places(self) -> Places:
        """What stands at an address, for the readers of other reports."""
        found: Places = self.keep("places", lambda walk: Places(walk.program))
        return found

    @property
    def last_unloaded(self) -> str | None:
        """The module that was unloaded last, or None."""
        found: str | None = self.keep("last unloaded", lambda walk: last_unloaded(walk.places))
        return found

    def is_gone(self, address: int) -> bool:
        """Return whether a module was at ``address`` once, and nothing is now."""
        known: dict[int, bool] = self.keep("gone", lambda _: {})
        page = address >> 12
        if page not in known:
            known[page] = self._is_gone(address)
        return known[page]

    def _is_gone(self, address: int) -> bool:
        if not self.places.code(address).gone:
            return False
        try:
            # BPF's programs, and copies that kprobes and ftrace make, are there and in no module.
            return not find_vmap_area(self.program, address)
        except BROKEN:
            return True

    @property
    def _owners(self) -> dict[int, str]:
        found: dict[int, str] = self.keep("owners", lambda _: {m.address: m.name for m in self.modules})
        return found

    @property
    def _ranges(self) -> tuple[list[int], list[tuple[int, int, str]]]:
        def make(_: Walk) -> tuple[list[int], list[tuple[int, int, str]]]:
            ranges = sorted((start, end, m.name) for m in self.modules for _, start, end in m.ranges)
            return [start for start, _, _ in ranges], ranges

        found: tuple[list[int], list[tuple[int, int, str]]] = self.keep("ranges", make)
        return found

    def loaded(self, name: str) -> bool:
        """Return whether a module is loaded."""
        return name in self._owners.values()

    def owner(self, module: int | drgn.Object) -> str | None:
        """Return the name of the module whose ``struct module *`` this is; None for the kernel itself."""
        return self._owners.get(int(module))

    def module_at(self, address: int) -> str | None:
        """Return the name of the module that code or data at ``address`` is of, or None."""
        starts, ranges = self._ranges
        number = bisect.bisect_right(starts, address) - 1
        if number >= 0 and ranges[number][0] <= address < ranges[number][1]:
            return ranges[number][2]
        return None

    def layout(self, type_name: str, *members: str) -> Layout:
        """Return where members of a type are; made once. Raises LookupError where there is no such type."""
        key = (type_name, *members)
        if key not in self._layouts:
            self._layouts[key] = Layout(self.program, type_name, *members)
        return self._layouts[key]

    def object(self, type_name: str, address: int) -> drgn.Object:
        """Return the object at ``address`` as a pointer to ``type_name``. Raises LookupError."""
        return drgn.Object(self.program, f"{type_name} *", value=address)

    def name(self, address: int) -> str:
        """Return the name of the variable or function at ``address``, or its address and module."""
        if address not in self._names:
            try:
                self._names[address] = self.program.symbol(address).name
            except LookupError:
                # The kernel's own table has the names of modules' symbols without debug information.
                module = self.module_at(address)
                self._names[address] = str(self.places.code(address)) if module else f"{address:#x}"
        return self._names[address]

    def all_notes(self) -> list[str]:
        """Return what the readers that were used could not read."""
        notes: list[str] = []
        for name in ("slabs", "places"):
            if name in self._kept:
                notes += self._kept[name].notes
        return notes

    def each(self, what: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items of a walk, no more than is sensible; where it breaks off is noted."""
        try:
            yield from once(items)
        except BROKEN as error:
            self.note(what, error)

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Note what can't be read of ``what``, and go on after the block."""
        try:
            yield
        except BROKEN as error:
            self.note(what, error)

    def note(self, what: str, error: Exception) -> None:
        """Keep what could not be read, once."""
        text = f"{what}: {str(error) or type(error).__name__}"
        if text not in self.notes:
            self.notes.append(text)

    def lack(self, module: str, what: str) -> None:
        """Keep that some references to ``module`` can't be counted."""
        if self.loaded(module) and what not in self.lacks.setdefault(module, []):
            self.lacks[module].append(what)

    def has_type(self, type_name: str, module: str, what: str) -> bool:
        """Return whether a type of ``module``'s is known; where it is loaded and not, say what that hides.

        It hides references to the module itself and to those that are linked against it: they register with
        it what it then has references to.
        """
        try:
            self.program.type(type_name)
        except LookupError:
            for state in self.modules:
                if state.name == module:
                    for name in (module, *state.users):
                        self.lack(name, f"{what}: {module}'s debug information is needed (--modules)")
            return False
        return True

    def variable(self, name: str, file: str | None = None) -> drgn.Object | None:
        """Return a variable of the kernel's or of a module's, or None where there is none.

        ``file`` is the end of the path of the file that defines it: names that are common need it, for the
        static variables of all modules are known, too.
        """
        try:
            return self.program.variable(name, file)
        except LookupError:
            return None


def kmalloc_caches(walk: Walk, smallest: int, largest: int = 1 << 22) -> list[drgn.Object]:
    """Return kmalloc()'s caches with objects of such sizes, in bytes, as ``struct kmem_cache *``."""

    def make(_: Walk) -> list[tuple[int, drgn.Object]]:
        caches = walk.each("the slab caches", for_each_slab_cache(walk.program))
        return [(int(one.object_size), one) for one in caches if text(one.name).startswith("kmalloc")]

    found: list[tuple[int, drgn.Object]] = walk.keep("kmalloc", make)
    return [cache for size, cache in found if smallest <= size <= largest]


def text(value: drgn.Object) -> str:
    """Return a string of the kernel's, at most ``MOST_STRING`` long. Raises drgn.FaultError."""
    if value.type_.kind == drgn.TypeKind.ARRAY:
        return bytes(value.string_()).decode(errors="replace")
    try:
        data = value.prog_.read_c_string(int(value), max_size=MOST_STRING)
    except drgn.FaultError:
        return "?"
    return str(data, errors="replace")


__all__ = ["BROKEN", "KERNEL_HALF", "Holder", "Walk", "kmalloc_caches", "text"]
