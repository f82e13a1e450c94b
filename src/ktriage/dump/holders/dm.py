"""Device-mapper: each mapped device has a reference to dm_mod, each target of its tables to its type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.disks import disks
from ktriage.dump.holders.lists import list_for_each_entry, rbtree_inorder_for_each_entry
from ktriage.dump.holders.walk import BROKEN, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_TARGETS = 1 << 16


def _devices(walk: Walk) -> Iterator[tuple[str, drgn.Object]]:
    """Yield name and ``struct mapped_device *`` of each disk of device-mapper's."""
    if not walk.loaded("dm_mod") or not walk.has_type(
        "struct mapped_device", "dm_mod", "mapped devices and tables"
    ):
        return
    for disk in disks(walk):
        try:
            if walk.owner(disk.fops.owner) == "dm_mod" and disk.private_data:
                yield text(disk.disk_name), drgn.cast("struct mapped_device *", disk.private_data)
        except BROKEN as error:
            walk.note(f"disk {disk.value_():#x}", error)


def mapped_devices(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each mapped device (``alloc_dev()`` in drivers/md/dm.c)."""
    seen = set()
    for name, device in _devices(walk):
        seen.add(device.value_())
        yield Holder("dm_mod", "mapped device", device.value_(), "struct mapped_device", name)
    for cell in _cells(walk):
        device = cell.md
        if device and device.value_() not in seen:
            yield Holder(
                "dm_mod",
                "mapped device",
                device.value_(),
                "struct mapped_device",
                f"{text(cell.name)}, no disk",
            )


def targets(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each target in a table (``dm_get_target_type()``), active or loaded only."""
    for name, device in _devices(walk):
        yield from _table(walk, name, device.map)
    for cell in _cells(walk):
        if cell.new_map:
            yield from _table(walk, f"{text(cell.name)} (inactive table)", cell.new_map)


def _cells(walk: Walk) -> list[drgn.Object]:
    """Return the named devices: in a tree since Linux 5.13 (commit b82096afc8af), in a hash before."""
    root = walk.variable("name_rb_tree", "dm-ioctl.c")
    if root is None or not walk.loaded("dm_mod"):
        return []
    try:
        found = rbtree_inorder_for_each_entry("struct hash_cell", root.address_of_(), "name_node")
    except LookupError:
        return []
    return list(walk.each("device-mapper's names", found))


def _table(walk: Walk, name: str, pointer: drgn.Object) -> Iterator[Holder]:
    if not pointer:
        return
    try:
        table = drgn.cast("struct dm_table *", pointer)
        for number in range(min(int(table.num_targets), MOST_TARGETS)):
            target = table.targets[number]
            owner = walk.owner(target.type.module)
            if owner:
                path = f"{name} → table {table.value_():#x} → target {number} {text(target.type.name)}"
                yield Holder(owner, "dm target", int(target.address_of_()), "struct dm_target", path)
    except BROKEN as error:
        walk.note(f"the table of {name}", error)


def table_devices(walk: Walk) -> Iterator[tuple[int, str]]:
    """Yield the block devices that tables have open, and by which mapped device."""
    for device, user in tables_of_devices(walk):
        yield int(device.bdev), user


def tables_of_devices(walk: Walk) -> Iterator[tuple[drgn.Object, str]]:
    """Yield each ``struct dm_dev`` of mapped devices, and whose it is."""
    for name, device in _devices(walk):
        with walk.guard(f"the devices of {name}"):
            head = device.table_devices.address_of_()
            for one in list_for_each_entry("struct table_device", head, "list"):
                yield one.dm_dev, f"device-mapper's {name}"
