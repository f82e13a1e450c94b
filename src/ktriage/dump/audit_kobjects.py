"""Kobjects that were taken out of sysfs and still have references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.audit_objects import Census, ObjectAudit
from ktriage.dump.holders.walk import KERNEL_HALF, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNFS_DIR = 1
"""include/linux/kernfs.h."""
SANE_COUNT = 1 << 16
MOST_TOLD = 256


def audit_kobjects(walk: Walk) -> Census:
    """Return the kobjects that were in sysfs, are not any more, and still have references.

    There is no list of kobjects. Those in objects of slab caches are found by their type, which is one of
    the types that are in sysfs. ``kobject_del()`` leaves such a one to its last user: an open file, a child,
    or nobody. Kobjects in static memory and in large allocations are not seen.
    """
    if walk.variable("kernfs_node_cache") is None:
        return Census("kobject", 0, (), ("sysfs is not known",))
    kinds = _types(walk)
    total = 0
    found: list[ObjectAudit] = []
    for address in walk.each("kobjects", _kobjects(walk, kinds)):
        with walk.guard(f"kobject {address:#x}"):
            sane, audit = _look(walk, address)
            total += sane
            if audit is not None and len(found) < MOST_TOLD:
                found.append(audit)
    return Census("kobject", total, tuple(found))


def _types(walk: Walk) -> list[int]:
    """Return the types of the kobjects that are in sysfs: the nodes of its directories lead to them."""
    nodes = walk.layout("struct kernfs_node", "priv", "flags")
    kobjects = walk.layout("struct kobject", "ktype", "sd")
    found: set[int] = set()
    for address, (private, flags) in walk.slabs.objects(walk.program["kernfs_node_cache"], nodes):
        if flags & KERNFS_DIR and private >= KERNEL_HALF:
            with walk.guard("the nodes of sysfs"):
                kind, node = kobjects.read(private)
                # cgroups have such nodes, too, and no kobjects.
                if node == address and kind >= KERNEL_HALF:
                    found.add(kind)
    return sorted(found)


def _kobjects(walk: Walk, kinds: list[int]) -> Iterator[int]:
    """Yield the addresses of what may be a kobject in an allocated object."""
    at = walk.layout("struct kobject", "ktype").offset()
    for _, _, address, offset in walk.slabs.pointers(kinds):
        yield address + offset - at


def _look(walk: Walk, address: int) -> tuple[bool, ObjectAudit | None]:
    """Return whether there is a kobject, and its audit where it lingers."""
    one = walk.object("struct kobject", address)
    count = int(one.kref.refcount.refs.counter)
    if not 0 < count < SANE_COUNT or not one.state_initialized or int(one.name) < KERNEL_HALF:
        return False, None
    if one.state_in_sysfs or int(one.sd):
        return True, None
    announced = one.state_add_uevent_sent or one.state_remove_uevent_sent
    note = f"type {walk.name(int(one.ktype))}, not in sysfs" + (" any more" if announced else "")
    return True, ObjectAudit("kobject", address, text(one.name), count, "leaked", note)
