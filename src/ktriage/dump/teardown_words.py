"""A callback that outlives a removal, in words: the diagnosis, what it stands on, what helps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ktriage.dump.works import last_unloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.places import Places
    from ktriage.dump.teardown_types import Teardown
    from ktriage.dump.works import Callback

TIMERS = ("timer", "hrtimer")


def in_words(places: Places, found: Teardown, *, same: bool | None) -> Teardown:
    """Return the teardown with its sentence, evidence and remedies.

    ``same`` tells whether the callback is part of the removed device's object, None where not known.
    """
    return replace(
        found,
        says=_says(places, found),
        evidence=tuple(_evidence(found, same)),
        remedies=tuple(_remedies(places, found)),
    )


def overwritten(callback: Callback) -> bool:
    """Tell whether a callback's function has been overwritten."""
    return callback.function.name.startswith("0x") and not callback.function.gone


def _says(places: Places, found: Teardown) -> str:
    callback, removal = found.callback, found.removal
    name = f"{callback.kind} {callback.function.name}()"
    if overwritten(callback) or callback.function.gone:
        name = f"{callback.kind} at {callback.address:#x}"
    if found.member:
        name += f" ({found.member})"
    says = f"{name} {_does(found)} {_when(places, found)}"
    ran = next((cancel for cancel in found.cancels if cancel.ran), None)
    if ran is not None and removal is not None:
        says += f", after {ran.callee}() on it had returned"
        if found.paths:
            says += f": {found.paths[0].functions[0]}() could still queue it"
    return says


def _does(found: Teardown) -> str:
    callback = found.callback
    if found.crashed:
        return "crashed"
    if callback.state == "running":
        return "died" if callback.task is None and callback.worker else "is running"
    return f"is {callback.state}"


def _when(places: Places, found: Teardown) -> str:
    """Say what has become of its object, its code or its module."""
    removal = found.removal
    last = last_unloaded(places)
    gone = "the module with its code is gone" + (f" (unloaded last: {last})" if last else "")
    if found.freed:
        when = "in an object that is freed" if found.crashed else "although its object is freed"
        if found.callback.function.gone:
            when += f", and {gone}"
        return f"{when}, while module {removal.module} is being removed" if removal else when
    if removal is not None and removal.function:
        return f"while {removal.function}() tears its object down"
    if found.callback.function.gone:
        return f"although {gone}"
    module = removal.module if removal else found.callback.function.module
    return f"while its module {module} is being removed"


def _evidence(found: Teardown, same: bool | None) -> Iterator[str]:
    callback, removal = found.callback, found.removal
    where = f"{callback.kind} at {callback.address:#x}"
    if callback.object is not None:
        state = {True: "freed", False: "allocated", None: "state unknown"}[callback.object.free]
        offset = callback.address - callback.object.address
        where += f", {offset:#x} into a {callback.object.cache} object"
        where += f" at {callback.object.address:#x} ({state})"
    yield where
    who = f" by {callback.task}" if callback.task else f" by {callback.worker}" if callback.worker else ""
    yield f"it is {callback.state}{who}" + (f" on {callback.workqueue}" if callback.workqueue else "")
    yield from callback.wrong
    if removal is None:
        return
    yield removal.says()
    if same is True:
        yield "the object is the one of the device that is removed (its drvdata leads to it)"
    elif overwritten(callback):
        yield "that it was this module's is likely, not shown: its content is another's by now"
    elif not found.certain:
        yield "that it is this device's is likely, not shown: the module is the same"


def _remedies(places: Places, found: Teardown) -> Iterator[str]:
    if any(cancel.final for cancel in found.cancels):
        return
    kind = found.callback.kind
    stops = [stop for way in found.paths for stop in way.stopped_by]
    last = next((c for c in found.cancels if c.ran), found.cancels[0] if found.cancels else None)
    if stops:
        function, callee = stops[0]
        after = f"{last.callee}() has to come after that" if last else "cancel it after that"
        yield f"stop what queues it first: {callee}() is called in {function}(); {after}"
    if kind == "hrtimer":
        yield "hrtimer_cancel() has to come after all that starts it: nothing else keeps it from that"
    elif kind == "timer":
        yield _offer(places, "timer_shutdown_sync", "commit f571faf6e443, Linux 6.2", "armed")
    elif found.cancels or found.paths:
        name = "disable_delayed_work_sync" if kind == "delayed work" else "disable_work_sync"
        yield _offer(places, name, "commit 86898fa6b8cd, Linux 6.10", "queued")
    known = found.callback.function.module is not None or found.removal is not None
    if not found.cancels and known and "thread" not in kind:
        yield "nothing in the module cancels it"


def _offer(places: Places, function: str, since: str, verb: str) -> str:
    has = places.symbol_address(function) is not None
    kernel = "this kernel has it" if has else "this kernel does not have it"
    return f"{function}() cancels it for good, it can't be {verb} again ({since}; {kernel})"
