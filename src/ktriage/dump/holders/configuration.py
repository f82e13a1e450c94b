"""configfs: what was made there by mkdir(2) has references to the subsystem's module and its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.walk import KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGFS_DIR, CONFIGFS_USET_DEFAULT = 0x0002, 0x0080
"""fs/configfs/configfs_internal.h."""
DEEPEST = 16


def items(walk: Walk) -> Iterator[Holder]:
    """Yield the two references of each item that was made (``configfs_mkdir()``)."""
    if not walk.has_type("struct configfs_dirent", "configfs", "items that were made"):
        return
    root = walk.variable("configfs_root")
    if root is None:
        return
    for subsystem in _children(walk, root.address_of_()):
        with walk.guard("configfs"):
            item = drgn.cast("struct config_item *", subsystem.s_element)
            name = text(item.ci_name)
            yield from _below(walk, subsystem, name, walk.owner(item.ci_type.ct_owner), 0)


def _children(walk: Walk, entry: drgn.Object) -> Iterator[drgn.Object]:
    found = list_for_each_entry("struct configfs_dirent", entry.s_children.address_of_(), "s_sibling")
    for child in walk.each("configfs", found):
        if int(child.s_type) & CONFIGFS_DIR and child.s_element:
            yield child


def _below(walk: Walk, entry: drgn.Object, path: str, subsystem: str | None, depth: int) -> Iterator[Holder]:
    if depth > DEEPEST:
        raise ValueError("configfs: deeper than it can be")
    for child in _children(walk, entry):
        item = drgn.cast("struct config_item *", child.s_element)
        name = f"{path}/{text(item.ci_name)}"
        if not int(child.s_type) & CONFIGFS_USET_DEFAULT:
            own = walk.owner(item.ci_type.ct_owner) if item.ci_type else None
            for owner, whose in ((subsystem, "its subsystem"), (own, "its type")):
                if owner:
                    what = f"configfs {name} → {whose}"
                    yield Holder(owner, "configfs item", item.value_(), "struct config_item", what)
        yield from _below(walk, child, name, subsystem, depth + 1)


def attributes(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each open file of configfs to its attribute's module.

    ``__configfs_open_file()`` takes it (fs/configfs/file.c).
    """
    files = open_files(walk)
    wanted = {
        one.address_
        for one in map(walk.variable, ("configfs_file_operations", "configfs_bin_file_operations"))
        if one is not None
    }
    for file in files.by_address.values():
        if file.operations in wanted and file.private >= KERNEL_HALF:
            with walk.guard(f"configfs file {file.address:#x}"):
                buffer = walk.object("struct configfs_buffer", file.private)
                owner = walk.owner(buffer.owner)
                if owner:
                    yield Holder(
                        owner,
                        "configfs file",
                        file.address,
                        "struct file",
                        f"{files.holder(file)} → attribute",
                    )
