"""Who took the references that a tracker recorded and that nobody was found for.

With CONFIG_NET_DEV_REFCNT_TRACKER (since Linux 5.17, commit 4d92b95ff2f9) whoever takes a reference to a
network device keeps a pointer to a record of it, which has the stack of the taking. So each record leads both
ways: to the code, and, by the object that points at it, to the holder.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.stackdepot import stack_depot_fetch

from ktriage.dump.audit_objects import Tracked
from ktriage.dump.holders.layout import member_offset
from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.walk import Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_TRACKERS = 1 << 12
MOST_FRAMES = 12
POINTER = 8
"""Bytes: of the kernels that are read."""
PLUMBING = (
    *("ref_tracker_alloc", "netdev_tracker_alloc", "__netdev_tracker_alloc", "netdev_hold"),
    *("dev_hold_track", "dev_get_by_index_rcu", "netdev_get_by_index", "netdev_get_by_name"),
)
"""What every stack begins with: inlined or not, it says nothing of who took the reference."""

ENTRIES = ("do_syscall_", "entry_SYSCALL_", "x64_sys_call")
"""What every stack of a system call ends with."""

Place = tuple[int, int, str]
"""Where an object begins and ends that points at a record, and the name of its cache."""


class Trackers:
    """The records of some devices (``struct net_device *``), and what points at them: found when asked."""

    def __init__(self, walk: Walk, devices: Iterable[drgn.Object]) -> None:
        self.walk = walk
        self.devices = tuple(devices)

    @cached_property
    def _places(self) -> dict[int, list[Place]]:
        """The objects that point at a record, by its address.

        The records are in a list: neither do its links count, nor its head in the device.
        """
        records: set[int] = set()
        heads: set[int] = set()
        for device in self.devices:
            directory = _directory(device)
            if directory is None:
                continue
            with self.walk.guard(f"the trackers of net device {device.value_():#x}"):
                head = int(directory.list.address_of_())
                heads.update((head, head + POINTER))
                records.update(entry.value_() for entry in _alive(directory))
        found: dict[int, list[Place]] = defaultdict(list)
        if records:
            at = member_offset(self.walk.program.type("struct ref_tracker"), "head")
            for value, cache, start, offset in self.walk.slabs.pointers([one + at for one in records]):
                if start not in records and start + offset not in heads:
                    found[value - at].append((start, start + int(cache.size), text(cache.name)))
        return found

    def unfound(self, device: drgn.Object, holders: Iterable[Holder]) -> tuple[Tracked, ...]:
        """Return the references to one of the devices that were recorded, and are none of the ``holders``'.

        It is empty where the kernel has no trackers. Those that were taken in the same place are one, most
        first. What can't be read is noted.
        """
        directory = _directory(device)
        if directory is None:
            return ()
        known = [holder.address for holder in holders]
        taken: dict[tuple[str, ...], list[str]] = defaultdict(list)
        with self.walk.guard(f"the trackers of net device {device.value_():#x}"):
            for entry in _alive(directory):
                found = self._places.get(entry.value_(), [])
                if not any(start <= address < end for start, end, _ in found for address in known):
                    taken[_stack(self.walk, entry.alloc_stack_handle)].append(_object(found))
        stacks = (Tracked(stack, len(at), tuple(filter(None, at))) for stack, at in taken.items())
        return tuple(sorted(stacks, key=lambda one: -one.count))


def untracked(device: drgn.Object) -> list[str]:
    """Return how many references to a device have no record, in words; nothing where that is none."""
    directory = _directory(device)
    if directory is None:
        return []
    said = []
    # Both begin at 1, so that refcount_t does not complain. no_tracker: since 5.18, commit 8fd5522f44dc.
    for member, why in (("no_tracker", "taken without one"), ("untracked", "for want of memory")):
        if hasattr(directory, member) and (count := int(directory.member_(member).refs.counter) - 1) > 0:
            said.append(f"{count} without a tracker, {why}")
    return said


def _directory(device: drgn.Object) -> drgn.Object | None:
    """Return a device's ``struct ref_tracker_dir``; without the option it has no members."""
    if not hasattr(device, "refcnt_tracker") or not hasattr(device.refcnt_tracker, "list"):
        return None
    return device.refcnt_tracker


def _alive(directory: drgn.Object) -> Iterator[drgn.Object]:
    entries = list_for_each_entry("struct ref_tracker", directory.list.address_of_(), "head")
    return (entry for entry in islice(entries, MOST_TRACKERS) if not entry.dead)


def _object(found: list[Place]) -> str:
    return ", ".join(f"{name} object at {start:#x}" for start, _, name in found)


def _stack(walk: Walk, handle: drgn.Object) -> tuple[str, ...]:
    """Return the functions of a recorded stack, from who took the reference to the call of the system."""
    trace = stack_depot_fetch(handle)
    if trace is None:
        return ()
    # One past the call: at the end of a function that is the next one's.
    named = [(frame.name or walk.name(frame.pc - 1), walk.module_at(frame.pc)) for frame in trace]
    first = next((at for at, (name, _) in enumerate(named) if name not in PLUMBING), 0)
    told = [f"{name} [{module}]" if module and f"[{module}]" not in name else name for name, module in named]
    return tuple(islice(takewhile(lambda one: not one.startswith(ENTRIES), told[first:]), MOST_FRAMES))
