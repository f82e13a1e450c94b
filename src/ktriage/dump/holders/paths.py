"""Names of files and mounts, as d_path() makes them, with an end on every way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.holders.layout import member_offset

if TYPE_CHECKING:
    import drgn

    from ktriage.dump.holders.walk import Walk

DEEPEST = 512
"""Directories and mounts that are followed; PATH_MAX leaves room for 2048 of one letter."""
MOST_NAME = 255
"""NAME_MAX (include/uapi/linux/limits.h)."""


def path_name(walk: Walk, mount: int, dentry: int) -> str:
    """Return the name of the ``struct vfsmount`` and ``struct dentry`` of a path. Raises drgn.FaultError.

    What has no name in a tree (a socket, a pipe) is its file system's type in brackets.
    """
    at = member_offset(walk.program.type("struct mount"), "mnt")
    of_mount = walk.layout("struct mount", "mnt.mnt_root", "mnt_parent", "mnt_mountpoint")
    of_dentry = walk.layout("struct dentry", "d_parent", "d_name.name", "d_op", "d_sb")
    names: list[str] = []
    operations, block = of_dentry.read(dentry)[2:]
    if operations and walk.layout("struct dentry_operations", "d_dname").read(operations)[0]:
        kind = walk.object("struct super_block", block).s_type.name
        return f"[{_name(walk, int(kind))}]"
    place = mount - at
    for _ in range(DEEPEST):
        root, parent, point = of_mount.read(place)
        if dentry == root:
            if parent == place:
                break
            place, dentry = parent, point
            continue
        above, name = of_dentry.read(dentry)[:2]
        if above == dentry:
            break
        names.append(_name(walk, name))
        dentry = above
    return "/" + "/".join(reversed(names))


def dentry_name(walk: Walk, dentry: int) -> str:
    """Return the name of a dentry from its file system's root on. Raises drgn.FaultError."""
    of_dentry = walk.layout("struct dentry", "d_parent", "d_name.name")
    names: list[str] = []
    for _ in range(DEEPEST):
        above, name = of_dentry.read(dentry)
        if above == dentry:
            break
        names.append(_name(walk, name))
        dentry = above
    return "/".join(reversed(names))


def mount_point(walk: Walk, mount: drgn.Object) -> str:
    """Return where a ``struct mount *`` is mounted. Raises drgn.FaultError."""
    return path_name(walk, int(mount.mnt.address_of_()), int(mount.mnt.mnt_root))


def _name(walk: Walk, address: int) -> str:
    return str(walk.program.read_c_string(address, max_size=MOST_NAME), errors="replace")
