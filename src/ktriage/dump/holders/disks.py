"""Disks, their block devices, and the files behind loop devices: what several kinds of holders begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.xarray import xa_for_each

from ktriage.dump.holders.lists import for_each_disk
from ktriage.dump.holders.walk import BROKEN, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

LO_BOUND = 1
"""``enum loop_state`` in drivers/block/loop.c."""


def disks(walk: Walk) -> list[drgn.Object]:
    """Return all disks, as ``struct gendisk *``."""
    found: list[drgn.Object] = walk.keep(
        "disks", lambda _: list(walk.each("the disks", for_each_disk(walk.program)))
    )
    return found


def partitions(walk: Walk, disk: drgn.Object) -> list[drgn.Object]:
    """Return a disk's block devices, as ``struct block_device *``, the whole one first.

    They are in an xarray since Linux 5.12 (commit a33df75c6328), and that of the whole disk is ``part0``.
    """
    whole = disk.part0
    try:
        found = [
            drgn.cast("struct block_device *", part) for _, part in xa_for_each(disk.part_tbl.address_of_())
        ]
    except AttributeError:
        return [whole]
    return [whole, *(part for part in walk.each("partitions", found) if part.value_() != whole.value_())]


def loop_devices(walk: Walk) -> Iterator[tuple[int, str, int, bool]]:
    """Yield loop devices: address, name, ``struct file`` behind it (0: not known), whether it is bound.

    Without the module's debug information a device with a size is taken as bound.
    """
    if not walk.loaded("loop") and walk.variable("lo_fops") is None:
        return
    try:
        walk.program.type("struct loop_device")
        known = True
    except LookupError:
        known = False
        walk.lack(
            "loop", "loop devices are counted by their size, what is behind them is not known (--modules)"
        )
    for disk in disks(walk):
        try:
            name = text(disk.disk_name)
            if not name.startswith("loop") or not disk.private_data:
                continue
            if not known:
                yield int(disk.private_data), name, 0, bool(disk.part0.bd_nr_sectors)
                continue
            lo = drgn.cast("struct loop_device *", disk.private_data)
            yield lo.value_(), name, int(lo.lo_backing_file), int(lo.lo_state) == LO_BOUND
        except BROKEN as error:
            walk.note(f"disk {disk.value_():#x}", error)
