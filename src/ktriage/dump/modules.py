"""The modules of a dumped kernel: state, reference count, users."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.module import (
    find_module,
    for_each_module,
    module_address_regions,
    module_percpu_region,
    module_taints,
)

from ktriage.dump.core import BROKEN
from ktriage.dump.types import ModuleState
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ktriage.dump.core import Vmcore

MODULE_REF_BASE = 1
"""What a loaded module's counter starts at (kernel/module/main.c; commit e513cc1c07e2, Linux 3.19)."""
MOST_MODULES = 4096
"""Bound of every walk along a list that a broken kernel may have made endless."""
MOST_STRING = 256

_STATES = {"LIVE": "live", "COMING": "coming", "GOING": "going", "UNFORMED": "unformed"}
_REGIONS = ("core", "init")
"""Regions up to Linux 6.3; since commit ac3b43283923 they are by mod_mem_type and named by its constants."""


def module_state(core: Vmcore, name: str) -> ModuleState:
    """Return the state of the module ``name`` (``-`` is read as ``_``).

    Raises UserError where no module of that name was loaded, drgn.FaultError where its struct lies in
    memory that the dump lacks.
    """
    module = find_module(core.program, name.replace("-", "_"))
    if not module:
        raise UserError(
            f"{core.path}: no module {name!r} was loaded", hint="`modules` lists those that were loaded"
        )
    return read_module(module)


def module_states(core: Vmcore) -> list[ModuleState]:
    """Return the states of all loaded modules, newest first; ``core.notes`` says what could not be read."""
    states, notes = all_modules(core.program)
    core.notes += notes
    return states


def all_modules(program: drgn.Program) -> tuple[list[ModuleState], list[str]]:
    """Return the states of all loaded modules, newest first, and what could not be read."""
    states: list[ModuleState] = []
    notes: list[str] = []
    try:
        for module in islice(for_each_module(program), MOST_MODULES):
            try:
                states.append(read_module(module))
            except BROKEN as error:
                notes.append(f"struct module at {module.value_():#x}: {str(error) or type(error).__name__}")
    except BROKEN as error:
        notes.append(
            f"the list of modules breaks off after {len(states)}: {str(error) or type(error).__name__}"
        )
    return states, notes


def read_module(module: drgn.Object) -> ModuleState:
    """Return the state of the ``struct module *`` ``module``. Raises drgn.FaultError."""
    raw = _refcnt(module)
    return ModuleState(
        name=module.name.string_().decode(errors="replace"),
        address=module.value_(),
        state=_state(module),
        refcnt_raw=raw,
        refcnt=None if raw is None else raw - MODULE_REF_BASE,
        users=tuple(_users(module)),
        ranges=tuple(_ranges(module)),
        taints=module_taints(module).strip(),
        init=_function(module, "init"),
        exit=_function(module, "exit"),
        version=_string(module, "version"),
        srcversion=_string(module, "srcversion"),
        build_id=_build_id(module),
    )


def _state(module: drgn.Object) -> str:
    name = str(module.state.format_(type_name=False)).removeprefix("MODULE_STATE_")
    return _STATES.get(name, name.lower())


def _refcnt(module: drgn.Object) -> int | None:
    """Return the stored count; None for a kernel without CONFIG_MODULE_UNLOAD, which keeps none."""
    try:
        return int(module.refcnt.counter)
    except AttributeError:
        return None


def _users(module: drgn.Object) -> Iterable[str]:
    """Yield the modules that are linked against this one, as /proc/modules lists them."""
    try:
        head = module.source_list.address_of_()
    except AttributeError:
        return
    uses = list_for_each_entry("struct module_use", head, "source_list")
    for use in islice(uses, MOST_MODULES):
        yield use.source.name.string_().decode(errors="replace")


def _ranges(module: drgn.Object) -> Iterable[tuple[str, int, int]]:
    regions = module_address_regions(module)
    names = _REGIONS if len(regions) <= len(_REGIONS) else _memory_types(module, len(regions))
    for name, (start, size) in zip(names, regions, strict=False):
        if start and size:
            yield name, start, start + size
    start, size = module_percpu_region(module)
    if start and size:
        yield "percpu", start, start + size


def _memory_types(module: drgn.Object, count: int) -> list[str]:
    names = [f"region {number}" for number in range(count)]
    try:
        enumerators = module.prog_.type("enum mod_mem_type").enumerators or ()
    except LookupError:
        return names
    for enumerator in enumerators:
        if 0 <= enumerator.value < count and enumerator.name.startswith("MOD_"):
            names[enumerator.value] = enumerator.name.removeprefix("MOD_").lower().replace("_", " ")
    return names


def _function(module: drgn.Object, member: str) -> int | None:
    """Return the address of the module's init or exit function; None where there is none.

    init is not cleared when its memory is freed after loading: the address is where it was.
    """
    try:
        value = module.member_(member).value_()
    except LookupError:
        return None
    return int(value) or None


def _string(module: drgn.Object, member: str) -> str | None:
    try:
        pointer = module.member_(member)
        if not pointer:
            return None
        size = drgn.cast("char *", pointer)
        return (
            module.prog_.read_c_string(size.value_(), max_size=MOST_STRING).decode(errors="replace") or None
        )
    except (LookupError, drgn.FaultError):
        return None


def _build_id(module: drgn.Object) -> str | None:
    """Return the build id that drgn read from the module's notes in memory, or None."""
    for found in module.prog_.modules():
        if isinstance(found, drgn.RelocatableModule) and found.object.value_() == module.value_():
            return found.build_id.hex() if found.build_id else None
    return None
