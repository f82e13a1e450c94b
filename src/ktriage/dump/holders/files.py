"""Open files: each has a reference to the module of its operations, and of its character device.

``do_dentry_open()`` takes the one (``fops_get``), ``chrdev_open()`` the other (``cdev_get``), and
``__fput()`` puts both, whoever made the file (fs/open.c, fs/char_dev.c, fs/file_table.c, Linux 6.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.openfiles import S_IFCHR, OpenFile, open_files
from ktriage.dump.holders.walk import BROKEN, Holder, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBUGFS_REAL = 1
"""DEBUGFS_FSDATA_IS_REAL_FOPS_BIT in fs/debugfs/internal.h."""


def file_operations(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each open file has to the owner of its operations."""
    files = open_files(walk)
    owner_of = walk.layout("struct file_operations", "owner")
    owners: dict[int, str | None] = {}
    for file in files.by_address.values():
        if file.operations not in owners:
            try:
                owners[file.operations] = walk.owner(owner_of.read(file.operations)[0])
            except drgn.FaultError as error:
                walk.note(f"the operations of file {file.address:#x}", error)
                owners[file.operations] = None
        owner = owners[file.operations]
        if owner:
            path = f"{files.holder(file)} → f_op {walk.name(file.operations)}"
            yield Holder(owner, "file", file.address, "struct file", path)


def character_devices(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each open character device has to the owner of its ``struct cdev``."""
    files = open_files(walk)
    of_inode = walk.layout("struct inode", "i_cdev")
    of_cdev = walk.layout("struct cdev", "owner")
    for file in files.by_address.values():
        if file.kind != S_IFCHR or _path_only(walk, file):
            continue
        try:
            cdev = of_inode.read(file.inode)[0]
            owner = walk.owner(of_cdev.read(cdev)[0]) if cdev else None
        except drgn.FaultError as error:
            walk.note(f"the device of file {file.address:#x}", error)
            continue
        if owner:
            yield Holder(owner, "cdev", file.address, "struct file", f"{files.holder(file)} → cdev {cdev:#x}")


def _path_only(walk: Walk, file: OpenFile) -> bool:
    """Return whether a file was opened with O_PATH: then it has no reference to its device."""
    return walk.name(file.operations).startswith("empty_fops")


def debugfs_files(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that a file of debugfs has to the module behind it.

    Its own operations are a proxy without an owner; ``full_proxy_open()`` takes a reference to the real
    ones for as long as it is open (fs/debugfs/file.c, since Linux 4.7, commit 49d200deaa68).
    """
    files = open_files(walk)
    release = walk.variable("full_proxy_release")
    if release is None:
        return
    known: dict[int, bool] = {}
    layout = walk.layout("struct file_operations", "release")
    for file in files.by_address.values():
        if file.operations not in known:
            try:
                known[file.operations] = layout.read(file.operations)[0] == release.address_
            except drgn.FaultError:
                known[file.operations] = False
        if not known[file.operations]:
            continue
        try:
            real = _real_operations(walk, file)
            owner = walk.owner(real.owner) if real else None
        except BROKEN as error:
            walk.note(f"the debugfs file {file.address:#x}", error)
            continue
        if owner:
            path = f"{files.holder(file)} → real_fops {walk.name(int(real))}"
            yield Holder(owner, "debugfs file", file.address, "struct file", path)


def _real_operations(walk: Walk, file: OpenFile) -> drgn.Object:
    """Return the ``struct file_operations *`` behind a file of debugfs."""
    data = int(walk.object("struct file", file.address).f_path.dentry.d_fsdata)
    if data & DEBUGFS_REAL:
        return walk.object("struct file_operations", data & ~DEBUGFS_REAL)
    return walk.object("struct debugfs_fsdata", data).real_fops
