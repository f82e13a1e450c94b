"""Callbacks that outlive the removal of what they work on: who removes it, and who queues them again.

The race is old and common: remove() cancels a work, and what queues it, an interrupt or a timer, is still
able to come. ``cancel_work_sync()`` says nothing of the time after it returns. The dump shows one half (the
work runs or waits while its object is torn down), the module's code the other: which function cancels it,
which queues it, and in which order removal takes them down.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import drgn

from ktriage.dump.core import BROKEN
from ktriage.dump.module_code import (
    CANCELS,
    FINAL,
    ModuleCode,
    Site,
    Value,
    always_calls,
    order_of,
    read_code,
)
from ktriage.dump.places import Code, Module, Places, places_of
from ktriage.dump.removal import Removal, find_removals, still_running
from ktriage.dump.teardown_types import Cancel, Teardown, Way
from ktriage.dump.teardown_words import TIMERS, in_words, overwritten
from ktriage.dump.waits_stack import stack_of
from ktriage.dump.works import Callback, Works, find_works

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.core import Vmcore

MOST_PATHS = 8
DEEPEST = 12
NETDEV_ALIGN = 32
"""netdev_priv() is the struct net_device's size rounded up to this (include/linux/netdevice.h)."""


def find_teardowns(core: Vmcore, works: Works | None = None, crashed: int | None = None) -> list[Teardown]:
    """Return the callbacks that ran or may yet run on what is being removed or is freed.

    ``crashed`` is the address of the task that crashed, if one did: a work that it ran comes first.
    """
    places = places_of(core.program)
    works = works or find_works(core)
    removals = find_removals(places)
    found = []
    for callback in works.callbacks:
        freed = callback.object is not None and bool(callback.object.free)
        removal = next((r for r in removals if r.module == callback.function.module), None)
        if removal is None and freed and overwritten(callback):
            # What is freed while a module goes is the module's more often than not.
            removal = next(iter(removals), None)
        if removal is None and not freed and not callback.function.gone:
            continue
        found.append(
            _Case(places, works, callback, removal, _ran_into_it(places, callback, crashed)).teardown()
        )
    found = [teardown for teardown in found if not _still_to_come(teardown)]
    for removal in removals:
        found += _threads(places, works, removal, crashed)
    core.notes += [note for note in places.notes if note not in core.notes]
    return sorted(found, key=lambda t: (not t.crashed, not t.certain, t.callback.state != "running"))


def _still_to_come(teardown: Teardown) -> bool:
    """Tell whether the removal has yet to reach what cancels a callback: then all is in order."""
    cancels = teardown.cancels
    waits = teardown.callback.state != "running" and not teardown.freed
    return waits and any(c.ran is False for c in cancels) and not any(c.ran for c in cancels)


def _ran_into_it(places: Places, callback: Callback, crashed: int | None) -> bool:
    """Tell whether the task that crashed was in this callback: a timer's is whatever it interrupted."""
    if crashed is None or callback.state != "running":
        return False
    if callback.task is not None:
        return callback.task.address == crashed
    if callback.kind in TIMERS and callback.cpu == _panic_cpu(places):
        return True
    task = drgn.Object(places.program, "struct task_struct *", crashed)
    calls = stack_of(places, task)
    return any(places.code(call.pc - 1).name == callback.function.name for call in calls)


def _panic_cpu(places: Places) -> int | None:
    try:
        return int(places.program["panic_cpu"].counter)
    except (*BROKEN, AttributeError):
        return None


def _threads(places: Places, works: Works, removal: Removal, crashed: int | None) -> Iterator[Teardown]:
    """Yield the module's own threads, interrupt threads and callers from user space that are still in it."""
    for task, function, start in still_running(places, removal):
        ref = places.task(task.value_())
        if ref is None:
            continue
        kind = "interrupt thread" if ref.comm.startswith("irq/") else "thread"
        callback = Callback(kind, "running", start, Code(start, function, 0, removal.module), task=ref)
        yield _Case(places, works, callback, removal, ref.address == crashed).teardown()


class _Case:
    """One callback, and all that can be said of it."""

    def __init__(
        self, places: Places, works: Works, callback: Callback, removal: Removal | None, crashed: bool
    ) -> None:
        self.places = places
        self.works = works
        self.callback = callback
        self.removal = removal
        self.crashed = crashed
        name = callback.function.module or (removal.module if removal else None)
        self.module: Module | None = places.module(name) if name else None
        self.code = _module_code(places, self.module) if self.module else ModuleCode()
        self.offsets = self._offsets()
        self.member = self._member()
        if overwritten(callback) and self.member and self.member.endswith(".timer"):
            self._take_for_delayed_work()

    def _take_for_delayed_work(self) -> None:
        """Take an overwritten timer for the delayed work that it is part of, where its struct says so."""
        back = self.places.offset("struct delayed_work", "timer") or 0
        whole = replace(self.callback, kind="delayed work", address=self.callback.address - back)
        timer, self.callback = self.callback, whole
        self.offsets = frozenset(offset - back for offset in self.offsets)
        member = self._member()
        if member is None or f"{member}.timer" != self.member:
            self.callback, self.offsets = timer, frozenset(offset + back for offset in self.offsets)
        else:
            self.member = member

    def teardown(self) -> Teardown:
        same = self._same_object()
        found = Teardown(
            callback=self.callback,
            says="",
            member=self.member,
            removal=self.removal,
            cancels=tuple(self._cancels()),
            paths=tuple(self._paths()),
            certain=same is True or self.crashed or self.removal is None or self._freed() or self._own(),
            crashed=self.crashed,
            freed=self._freed(),
        )
        return in_words(self.places, found, same=same)

    def _freed(self) -> bool:
        return self.callback.object is not None and bool(self.callback.object.free)

    def _own(self) -> bool:
        """Tell whether it is one of the module's own variables."""
        at = self.places.module_at(self.callback.address)
        return at is not None and at is self.module and "thread" not in self.callback.kind

    # Where in its object ------------------------------------------------------------------------------

    def _offsets(self) -> frozenset[int]:
        """Return the offsets by which code may name the callback.

        They are from its object's start or from that of a netdev's private part.
        """
        found: set[int] = set()
        if self.callback.object is not None:
            found.add(self.callback.address - self.callback.object.address)
        member = self.places.offset("struct work_struct", "func") or 24
        for setup in self.code.setups:
            if setup.function == self.callback.function.address and setup.target is not None:
                back = member if setup.kind == "stored" and "timer" not in self.callback.kind else 0
                if setup.kind == "stored" and "timer" in self.callback.kind:
                    struct = "struct hrtimer" if self.callback.kind == "hrtimer" else "struct timer_list"
                    back = self.places.offset(struct, "function") or member
                found.add(setup.target.offset - back)
        private = self._private()
        found |= {offset - private for offset in found if offset >= private > 0}
        return frozenset(found)

    def _private(self) -> int:
        try:
            size = int(drgn.sizeof(self.places.program.type("struct net_device")))
        except (LookupError, TypeError):
            return 0
        return -(-size // NETDEV_ALIGN) * NETDEV_ALIGN

    def _is_it(self, site: Site) -> bool:
        """Tell whether a call's work or timer is this one: by its address, else by its offset."""
        timed = any(word in site.callee for word in ("timer", "hrtimer"))
        if timed != (self.callback.kind in TIMERS) or site.target is None:
            return False
        if not site.target.base:
            return site.target.offset == self.callback.address
        if self._shifted(site.caller, site.target) in self.offsets:
            return True
        # A callback's argument may be another work or timer of the object: one of those known by offset.
        if site.target.base != "arg0" or self.code.callers(site.caller):
            return False
        if not site.target.offset:
            return site.caller == self.callback.function.name
        return any(known + site.target.offset in self.offsets for known in self._members)

    @cached_property
    def _members(self) -> frozenset[int]:
        """The offsets of works and timers that code names from their object."""
        sites = (*self.code.cancels, *self.code.queues)
        return frozenset(
            site.target.offset
            for site in sites
            if site.target is not None and site.target.base and site.target.base != "arg0"
        )

    def _shifted(self, function: str, value: Value) -> int:
        """Return an offset from the object, where a callback's argument is the work or timer itself."""
        if value.base != "arg0":
            return value.offset
        for setup in self.code.setups:
            if setup.target is not None and self.places.code(setup.function).name == function:
                back = 0
                if setup.kind == "stored":
                    back = self.places.offset("struct work_struct", "func") or 24
                return setup.target.offset - back + value.offset
        return value.offset

    def _member(self) -> str | None:
        """Name the member by the struct that a frame of the module has a pointer to."""
        if self.module is None:
            return None
        for task in self.places.tasks():
            calls = stack_of(self.places, task)
            if not any(self.places.module_at(call.pc) is self.module for call in calls):
                continue
            for call in calls:
                name = _member_in(call.frame, self.callback.address)
                if name is not None:
                    return name
        return self._guessed_member()

    def _guessed_member(self) -> str | None:
        """Try the names that drivers give their private struct; what is there has to be a work or timer."""
        assert self.module is not None
        for ending in ("_priv", "_private", "_adapter", "_dev", "_device", "_data", "_info", "_hw", ""):
            try:
                type_ = self.places.program.type(f"struct {self.module.name}{ending}")
            except LookupError:
                continue
            for offset in sorted(self.offsets):
                path = _named(type_, offset)
                if path is not None:
                    return f"{type_.type_name()}{path}"
        return None

    def _same_object(self) -> bool | None:
        """Tell whether the callback is part of what the removal's device has; None where not known."""
        if self.removal is None or self.removal.device is None or self.callback.object is None:
            return None
        slab = self.places.slab(self.removal.device)
        if slab is None:
            return None
        if slab.address == self.callback.object.address:
            return True
        # The driver's data may hold a pointer to the object, or the object one to it.
        words = self.places.read(slab.address, min(slab.size, 4096)) or b""
        wanted = range(self.callback.object.address, self.callback.object.address + self.callback.object.size)
        pointers = (int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8))
        return True if any(pointer in wanted for pointer in pointers) else None

    # Who queues, who cancels --------------------------------------------------------------------------

    def _paths(self) -> Iterator[Way]:
        told: set[tuple[tuple[str, ...], str]] = set()
        for site in self.code.queues:
            if not self._is_it(site):
                continue
            for functions in _ways(self.code, site.caller):
                if len(told) >= MOST_PATHS:
                    return
                if (functions, site.callee) in told:
                    continue
                told.add((functions, site.callee))
                root, stops = self._root(functions[0])
                yield Way(functions, site.callee, site.offset, root, stops)

    def _root(self, function: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Say how a function comes to be called that nobody in the module calls, and what stops that."""
        for setup in self.code.setups:
            if self.places.code(setup.function).name != function:
                continue
            if setup.kind == "interrupt":
                stops = [s for sites in self.code.calls.values() for s in sites if "free_irq" in s.callee]
                return "interrupt", tuple((stop.caller, stop.callee) for stop in stops)
            if setup.kind in ("timer", "hrtimer", "tasklet") and setup.target is not None:
                offset = setup.target.offset
                stops = [
                    site
                    for site in self.code.cancels
                    if site.target is not None and self._equal(site, offset) and setup.kind in site.callee
                ]
                return setup.kind, tuple((stop.caller, stop.callee) for stop in stops)
            return "pointer", ()
        # One that is set up by what was freed after loading: what is armed now tells.
        armed = next((c for c in self.works.callbacks if c.function.name == function), None)
        return (armed.kind, ()) if armed is not None else ("unknown", ())

    def _equal(self, site: Site, offset: int) -> bool:
        assert site.target is not None
        private = self._private()
        here = self._shifted(site.caller, site.target)
        return here in (offset, offset - private, offset + private)

    def _cancels(self) -> Iterator[Cancel]:
        if "thread" in self.callback.kind:
            yield from self._stops()
            return
        for site in self.code.cancels:
            if not self._is_it(site) or CANCELS.get(site.callee) is None:
                continue
            yield Cancel(site.caller, site.offset, site.callee, self._ran(site), site.callee in FINAL)

    def _ran(self, site: Site) -> bool | None:
        """Tell by the code's ways whether the removal is beyond a call; None for other functions."""
        if self.removal is None or self.module is None:
            return None
        if site.caller != self.removal.function:
            return self._ran_within(site)
        if site.returns_to == self.removal.pc:
            return False
        return order_of(self.places, self.module, site.caller, site.address, self.removal.pc)

    def _ran_within(self, site: Site) -> bool | None:
        """Tell it of a call in a function that the removal's own has called."""
        assert self.module is not None
        assert self.removal is not None
        outer = [call for call in self.code.callers(site.caller) if call.caller == self.removal.function]
        ran = {self._ran(call) for call in outer}
        if ran == {False}:
            return False
        always = always_calls(self.places, self.module, site.caller, site.address)
        return True if True in ran and always else None

    def _stops(self) -> Iterator[Cancel]:
        """Yield the calls that end threads: these wait for them, and nothing starts one again."""
        wanted = "free_irq" if self.callback.kind == "interrupt thread" else "kthread_stop"
        for sites in self.code.calls.values():
            for site in sites:
                if wanted in site.callee:
                    yield Cancel(site.caller, site.offset, site.callee, self._ran(site), final=True)


def _module_code(places: Places, module: Module) -> ModuleCode:
    kept = places.program.cache.setdefault("ktriage.code", {})
    if module.name not in kept:
        kept[module.name] = read_code(places, module)
    code: ModuleCode = kept[module.name]
    return code


def _ways(code: ModuleCode, function: str) -> Iterator[tuple[str, ...]]:
    """Yield the ways to a function from those that nobody in the module calls, outermost first."""
    todo: list[tuple[str, ...]] = [(function,)]
    while todo:
        way = todo.pop()
        callers = {site.caller for site in code.callers(way[0])} - set(way)
        if not callers or len(way) >= DEEPEST:
            yield _folded(way)
        todo += [(caller, *way) for caller in sorted(callers)]


def _folded(way: tuple[str, ...]) -> tuple[str, ...]:
    """Return the functions by the names that they have in the source: gcc's parts and clones as one."""
    names = [name.partition(".")[0] for name in way]
    return tuple(name for index, name in enumerate(names) if index == 0 or name != names[index - 1])


def _member_in(frame: drgn.StackFrame, address: int) -> str | None:
    """Return ``struct x.y`` where a variable of the frame points to the struct that holds ``address``."""
    try:
        names = frame.locals()
    except BROKEN:
        return None
    for name in names:
        try:
            value = frame[name]
            if value.absent_ or value.type_.kind != drgn.TypeKind.POINTER or not value.value_():
                continue
            target = value.type_.type
            offset = address - value.value_()
            if target.kind == drgn.TypeKind.STRUCT and 0 <= offset < (target.size or 0):
                path = _named(target, offset)
                if path is not None:
                    return f"{target.type_name()}{path}"
        except (*BROKEN, TypeError, AttributeError):
            continue
    return None


_CALLBACKS = ("struct work_struct", "struct delayed_work", "struct timer_list", "struct hrtimer")


def _named(type_: drgn.Type, offset: int, depth: int = 8) -> str | None:
    """Return the path of the work or timer that is at ``offset`` of a struct; the outermost that fits."""
    if type_.kind != drgn.TypeKind.STRUCT or not depth or type_.members is None:
        return None
    for member in type_.members:
        start = member.bit_offset // 8
        kind = member.type
        if kind.kind != drgn.TypeKind.STRUCT or not start <= offset < start + (kind.size or 0):
            continue
        inner = "" if member.name is None else f".{member.name}"
        if start == offset and kind.type_name() in _CALLBACKS:
            return inner
        path = _named(kind, offset - start, depth - 1)
        return None if path is None else inner + path
    return None
