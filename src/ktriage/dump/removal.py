"""Removals under way: which task tears what down, in which function of which module, and how far it got."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ktriage.dump.core import BROKEN
from ktriage.dump.waits_stack import stack_of, variable
from ktriage.dump.workqueues import PF_WQ_WORKER

if TYPE_CHECKING:
    from collections.abc import Iterator

    import drgn

    from ktriage.dump.places import Places, TaskRef
    from ktriage.dump.waits_stack import Call

DELETE = "__do_sys_delete_module"
REMOVERS = frozenset(
    {
        "__do_sys_delete_module",
        "__se_sys_delete_module",
        "__x64_sys_delete_module",
        "driver_detach",
        "device_driver_detach",
        "device_release_driver_internal",
        "__device_release_driver",
        "device_remove",
        "device_del",
        "device_unregister",
        "pci_stop_bus_device",
        "pci_stop_and_remove_bus_device",
        "pci_device_remove",
        "platform_remove",
        "usb_disconnect",
        "usb_unbind_interface",
        "unbind_store",
        "unregister_netdev",
        "unregister_netdevice_many",
        "unregister_netdevice_queue",
    }
)
"""Functions of the kernel that call what a driver or module removes its things with."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A removal under way, or a module that is going without a task that still takes it down.

    ``function`` of ``module`` is what the kernel called (``resetnic_remove``), entered at ``start``;
    ``pc`` is where it goes on. ``inside`` are the functions that it has called since, outermost first.
    ``device`` is what the driver keeps with the device that is removed (its drvdata), where that was found.
    """

    module: str
    task: TaskRef | None = None
    function: str | None = None
    start: int = 0
    pc: int = 0
    inside: tuple[str, ...] = ()
    device: int | None = None

    def says(self) -> str:
        """Say who removes, and where that stands."""
        if self.task is None:
            return f"module {self.module} is being removed, by no task that is left"
        if self.function is None:
            return f"{self.task} removes module {self.module}, which has made its last call"
        where = f"{self.task} removes it, in {self.function}()+{self.pc - self.start:#x}"
        return f"{where}, which has called {' -> '.join(self.inside[:4])}" if self.inside else where


def find_removals(places: Places) -> list[Removal]:
    """Return the removals under way."""
    found = []
    for task in places.tasks():
        try:
            calls = stack_of(places, task)
            removal = _removal(places, task.value_(), calls)
        except BROKEN as error:
            places.notes.append(f"task at {task.value_():#x}: {str(error) or type(error).__name__}")
            continue
        if removal is not None:
            found.append(removal)
    removed = {removal.module for removal in found}
    found += [Removal(m.name) for m in places.modules if m.state == "going" and m.name not in removed]
    return found


def _removal(places: Places, task: int, calls: list[Call]) -> Removal | None:
    """Take the call of a module's function that is nearest to the remover that called it."""
    ours: int | None = None
    if any(call.name == DELETE for call in calls) and not any(places.module_at(c.pc) for c in calls):
        return _by_last_call(places, task, calls)
    for index, call in enumerate(calls):
        if call.inline:
            continue
        if call.name in REMOVERS and ours is not None:
            return _made(places, task, calls, ours)
        if places.module_at(call.pc) is not None:
            ours = index
    return None


def _by_last_call(places: Places, task: int, calls: list[Call]) -> Removal | None:
    """Return the removal where a module's exit function ended in a jump to what it called last."""
    name = variable(calls, DELETE, "name")
    try:
        module = places.module(name.string_().decode(errors="replace")) if name is not None else None
    except (*BROKEN, AttributeError):
        return None
    if module is None:
        return None
    at = next(index for index, call in enumerate(calls) if call.name == DELETE)
    inside = [call.name for call in calls[:at] if not call.inline and not _waits(call.name)]
    return Removal(module.name, places.task(task), inside=tuple(reversed(inside)))


def _made(places: Places, task: int, calls: list[Call], at: int) -> Removal:
    call = calls[at]
    # The call, not where it returns to: a call that does not return may be a function's last.
    code = places.code(call.pc - 1)
    names = [places.code(i.pc - 1).name if i.name.startswith("0x") else i.name for i in calls[:at]]
    inside = [name for name, c in zip(names, calls[:at], strict=True) if not c.inline and not _waits(name)]
    return Removal(
        module=code.module or "?",
        task=places.task(task),
        function=code.name,
        start=code.address - code.offset,
        pc=call.pc,
        inside=tuple(reversed(inside)),
        device=_device(calls[at:]),
    )


def _waits(name: str) -> bool:
    return "schedule" in name or name.startswith(("__wait_for_common", "__mutex_lock", "wait_for_completion"))


def _device(calls: list[Call]) -> int | None:
    """Return the drvdata of the device that the driver core's frames are about."""
    for function in (
        "device_release_driver_internal",
        "__device_release_driver",
        "driver_detach",
        "device_del",
    ):
        device = variable(calls, function, "dev")
        try:
            if device is not None and device.value_():
                return int(device.driver_data.value_()) or None
        except (*BROKEN, AttributeError):
            continue
    return None


def still_running(places: Places, removal: Removal) -> Iterator[tuple[drgn.Object, str, int]]:
    """Yield tasks that are in the module's code while it is removed.

    Each comes with the outermost function there and its address. Workers are left out, whose works tell more,
    and so is who removes.
    """
    for task in places.tasks():
        address = task.value_()
        if removal.task is not None and address == removal.task.address:
            continue
        if int(task.flags) & PF_WQ_WORKER:
            continue
        module = places.module(removal.module)
        calls = [call for call in stack_of(places, task) if not call.inline]
        inside = [call.pc - 1 for call in calls if module and places.module_at(call.pc - 1) is module]
        if inside:
            code = places.code(inside[-1])
            yield task, code.name, code.address - code.offset
