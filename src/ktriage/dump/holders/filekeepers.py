"""Parts of the kernel that keep a file for themselves: autofs, overlays, io_uring, KCM, zram, MD, NBD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.dm import tables_of_devices
from ktriage.dump.holders.lists import for_each_disk, list_for_each_entry
from ktriage.dump.holders.walk import KERNEL_HALF, Walk, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_FIXED = 1 << 16
FILE_BITS = 7
"""Bits of a registered file's pointer that are flags (FFS_MASK in io_uring/filetable.h)."""


def _automounts(walk: Walk) -> Iterator[tuple[int, str]]:
    head = walk.variable("super_blocks")
    if head is None or not walk.loaded("autofs4"):
        return
    for block in list_for_each_entry("struct super_block", head.address_of_(), "s_list"):
        if text(block.s_type.name) == "autofs" and block.s_fs_info:
            pipe = int(drgn.cast("struct autofs_sb_info *", block.s_fs_info).pipe)
            if pipe >= KERNEL_HALF:
                yield pipe, f"autofs super block {block.value_():#x} → pipe"


def _disks(walk: Walk) -> Iterator[tuple[int, str]]:
    """Yield the files behind zram devices, and the sockets of NBDs."""
    for disk in for_each_disk(walk.program):
        owner = walk.owner(disk.fops.owner)
        if owner == "zram" and walk.has_type("struct zram", "zram", "files behind devices"):
            file = _member(disk, "struct zram", "backing_dev")
            if file:
                yield file, f"{text(disk.disk_name)} → backing_dev"
        elif owner == "nbd" and walk.has_type("struct nbd_device", "nbd", "its sockets"):
            config = drgn.cast("struct nbd_device *", disk.private_data).config
            for number in range(int(config.num_connections) if config else 0):
                file = int(config.socks[number].sock.file)
                if file:
                    yield file, f"{text(disk.disk_name)} → socket {number}"


def _member(disk: drgn.Object, type_name: str, member: str) -> int:
    if not disk.private_data:
        return 0
    return int(drgn.cast(f"{type_name} *", disk.private_data).member_(member))


def _devices(walk: Walk) -> Iterator[tuple[int, str]]:
    """Yield the files by which the kernel has block devices open, since Linux 6.9 (commit f3a608827d1f)."""
    head = walk.variable("super_blocks", "fs/super.c")
    if head is None or not walk.program.type("struct super_block").has_member("s_bdev_file"):
        return
    for block in list_for_each_entry("struct super_block", head.address_of_(), "s_list"):
        if block.s_bdev_file:
            yield (
                int(block.s_bdev_file),
                f"super block {block.value_():#x} ({text(block.s_id)}) → s_bdev_file",
            )
    for device, user in tables_of_devices(walk):
        if hasattr(device, "bdev_file") and device.bdev_file:
            yield int(device.bdev_file), f"{user} → bdev_file"


def _arrays(walk: Walk) -> Iterator[tuple[int, str]]:
    head = walk.variable("all_mddevs")
    if head is None:
        return
    for array in list_for_each_entry("struct mddev", head.address_of_(), "all_mddevs"):
        for member in list_for_each_entry("struct md_rdev", array.disks.address_of_(), "same_set"):
            if hasattr(member, "bdev_file") and member.bdev_file:
                yield int(member.bdev_file), f"MD array {array.value_():#x} → member {int(member.desc_nr)}"
        file = int(array.bitmap_info.file)
        if file:
            yield file, f"MD array {array.value_():#x} → bitmap"


SOURCES: tuple[Callable[[Walk], Iterator[tuple[int, str]]], ...] = (
    _automounts,
    _disks,
    _devices,
    _arrays,
)
"""Each yields addresses of ``struct file`` and who keeps it."""


def behind_files(walk: Walk, files: list[tuple[int, int, int]]) -> Iterator[tuple[int, str]]:
    """Yield files that other files keep; ``files`` are address, operations and private data of each."""
    kinds = {"ovl_file_operations": _overlaid, "io_uring_fops": _registered}
    known: dict[int, Callable[[Walk, int, int], Iterator[tuple[int, str]]] | None] = {}
    for address, operations, private in files:
        if operations not in known:
            known[operations] = kinds.get(walk.name(operations).split()[0])
        kind = known[operations]
        if kind is not None and private >= KERNEL_HALF:
            yield from walk.each(f"what file {address:#x} keeps", kind(walk, address, private))


def _overlaid(walk: Walk, address: int, private: int) -> Iterator[tuple[int, str]]:
    """Yield the file below one of an overlay: in a struct since Linux 6.14 (commit 18e48d0e2c7b)."""
    try:
        walk.program.type("struct ovl_file")
    except LookupError:
        yield private, f"overlay's file {address:#x}"
        return
    file = walk.object("struct ovl_file", private)
    for member in ("realfile", "upperfile"):
        if file.member_(member):
            yield int(file.member_(member)), f"overlay's file {address:#x} → {member}"


def _registered(walk: Walk, address: int, private: int) -> Iterator[tuple[int, str]]:
    """Yield the files that are registered with an io_uring: in one table since Linux 5.15."""
    context = walk.object("struct io_ring_ctx", private)
    for number in range(min(int(context.nr_user_files), MOST_FIXED)):
        file = int(context.file_table.files[number].file_ptr) & ~FILE_BITS
        if file >= KERNEL_HALF:
            yield file, f"io_uring {address:#x} → registered file {number}"
