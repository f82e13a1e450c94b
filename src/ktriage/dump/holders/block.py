"""Block devices: each open has a reference to the driver; and what loop, SCSI and schedulers keep."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.disks import disks, loop_devices, partitions
from ktriage.dump.holders.dm import table_devices
from ktriage.dump.holders.mounts import describe, super_blocks
from ktriage.dump.holders.openfiles import S_IFBLK, open_files
from ktriage.dump.holders.walk import BROKEN, KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator


def openers(bdev: drgn.Object) -> int:
    """Return how often a block device is open: atomic since Linux 6.0 (commit 9acf381f3e8f)."""
    count = bdev.bd_openers
    return int(count.counter) if count.type_.kind != drgn.TypeKind.INT else int(count)


def block_devices(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each open of a block device has to its driver (``blkdev_get_by_dev()``).

    The first open of a partition opens the whole device, too, with no reference of its own.
    """
    users = _users(walk)
    for disk in disks(walk):
        try:
            owner = walk.owner(disk.fops.owner)
            name = text(disk.disk_name)
            if not owner:
                continue
            parts = partitions(walk, disk)
            counts = [openers(part) for part in parts]
        except BROKEN as error:
            walk.note(f"disk {disk.value_():#x}", error)
            continue
        counts[0] -= sum(1 for count in counts[1:] if count)
        for part, count in zip(parts, counts, strict=True):
            yield from _opens(walk, owner, name, part, count, users.get(part.value_(), []))


def _opens(
    walk: Walk, owner: str, name: str, bdev: drgn.Object, count: int, users: list[str]
) -> Iterator[Holder]:
    if count < 0:
        walk.notes.append(f"{name}: open by partitions more often than at all")
        return
    for user in users[:count]:
        yield Holder(owner, "block device", bdev.value_(), "struct block_device", f"{user} → {name}")
    rest = count - len(users)
    if rest > 0:
        claimed = int(bdev.bd_holder)
        path = f"{name}, open" + (
            f", claimed by {walk.name(claimed)}" if claimed else " (by whom is not known)"
        )
        yield Holder(owner, "block device", bdev.value_(), "struct block_device", path, rest)


def _users(walk: Walk) -> dict[int, list[str]]:
    """Return who has a block device open, by its address: mounts, files, device-mapper tables, swap."""
    found: dict[int, list[str]] = defaultdict(list)
    for block in super_blocks(walk):
        bdev = int(block.s_bdev)
        if bdev:
            found[bdev].append(f"mount of {describe(walk, block)}")
    files = open_files(walk)
    for file in files.by_address.values():
        if file.kind == S_IFBLK:
            try:
                found[_bdev_of(walk, file.address)].append(files.holder(file))
            except BROKEN:
                continue
    for bdev, user in table_devices(walk):
        found[bdev].append(user)
    return found


def _bdev_of(walk: Walk, file: int) -> int:
    host = walk.object("struct file", file).f_mapping.host
    return int(drgn.container_of(host, "struct bdev_inode", "vfs_inode").bdev.address_of_())


def bound_loops(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that a bound loop device has to its own driver (``loop_configure()``)."""
    files = open_files(walk)
    for address, name, backing, bound in loop_devices(walk):
        if bound:
            file = files.by_address.get(backing)
            path = f"{name} → backing file {backing:#x}" if backing else f"{name}, bound"
            if file is not None and (shown := files.path(file)):
                path += f" ({shown})"
            yield Holder("loop", "loop device", address, "struct loop_device", path)


def schedulers(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each request queue to its I/O scheduler (``elevator_find_get()``)."""
    for disk in disks(walk):
        try:
            elevator = disk.queue.elevator
            if not elevator:
                continue
            kind = elevator.type
            owner = walk.owner(kind.elevator_owner)
            if owner:
                path = f"{text(disk.disk_name)} → queue → elevator {text(kind.elevator_name)}"
                yield Holder(owner, "I/O scheduler", elevator.value_(), "struct elevator_queue", path)
        except BROKEN as error:
            walk.note(f"the scheduler of disk {disk.value_():#x}", error)


def scsi_hosts(walk: Walk) -> Iterator[Holder]:
    """Yield the references of open SCSI disks to the driver of their host (``scsi_device_get()``).

    sd and sr take one for each time that the whole device is opened.
    """
    if not walk.has_type("struct scsi_device", "scsi_mod", "which hosts' disks are open"):
        return
    kind = walk.variable("scsi_dev_type")
    if kind is None:
        return
    for disk in disks(walk):
        try:
            parent = disk.part0.bd_device.parent
            if not parent or int(parent.type) != kind.address_:
                continue
            device = drgn.container_of(parent, "struct scsi_device", "sdev_gendev")
            owner = walk.owner(device.host.hostt.module)
            count = openers(disk.part0)
            if owner and count:
                path = f"{text(disk.disk_name)}, open → SCSI host {int(device.host.host_no)}"
                yield Holder(owner, "SCSI device", device.value_(), "struct scsi_device", path, count)
        except BROKEN as error:
            walk.note(f"disk {disk.value_():#x}", error)


def raid(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each running MD array to its personality (``md_run()``)."""
    if not walk.loaded("md_mod") or not walk.has_type("struct mddev", "md_mod", "which arrays run"):
        return
    head = walk.variable("all_mddevs")
    if head is None:
        return
    from drgn.helpers.linux.list import list_for_each_entry

    for array in walk.each(
        "the MD arrays", list_for_each_entry("struct mddev", head.address_of_(), "all_mddevs")
    ):
        try:
            owner = _personality(walk, array)
        except BROKEN as error:
            walk.note(f"MD array {array.value_():#x}", error)
            continue
        if owner:
            name = (
                text(array.gendisk.disk_name) if int(array.gendisk) >= KERNEL_HALF else f"{array.value_():#x}"
            )
            yield Holder(owner, "MD array", array.value_(), "struct mddev", f"{name} → pers")


def _personality(walk: Walk, array: drgn.Object) -> str | None:
    """Return the module of an array's personality: ``head.owner`` since Linux 6.15 (commit 3d44e1d1575a)."""
    personality = array.pers
    if not personality:
        return None
    try:
        return walk.owner(personality.owner)
    except AttributeError:
        return walk.owner(personality.head.owner)
