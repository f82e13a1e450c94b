"""Mounts, super blocks and dentries by their counts: who keeps a file system busy."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr

from ktriage.dump.audit_objects import Census, ObjectAudit
from ktriage.dump.holders.lists import list_for_each_entry, super_block_for_each_mount
from ktriage.dump.holders.mounts import describe, super_blocks
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.paths import dentry_name, mount_point
from ktriage.dump.holders.walk import BROKEN, KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

FS_REQUIRES_DEV = 1
"""``fs_flags`` of file systems that are on a block device (include/linux/fs.h)."""
INTERNAL = (1 << 64) - 22
"""MNT_NS_INTERNAL (fs/mount.h): the kernel's own mounts."""
MNT_UMOUNT = 0x8000000
"""Of mounts that were taken out of their namespace (include/linux/mount.h)."""
OTHERWISE_ACTIVE = ("devpts", "nfs", "nfs4", "cifs", "smb3")
"""File systems that count in ``s_active`` what they have open, too: terminals, files, connections."""
UNIX = ("unix_dgram_proto", "unix_stream_proto", "unix_proto")
MOST_LISTED = 64
"""Dentries that are told of one file system."""


@dataclass(slots=True)
class Paths:
    """Who has paths: holders by ``struct vfsmount`` and by ``struct dentry``."""

    mounts: dict[int, list[Holder]] = field(default_factory=lambda: defaultdict(list))
    dentries: dict[int, list[Holder]] = field(default_factory=lambda: defaultdict(list))

    def add(self, mount: int, dentry: int, holder: Holder) -> None:
        """Keep that ``holder`` has both parts of a path."""
        self.mounts[mount].append(holder)
        self.dentries[dentry].append(holder)


def audit_mounts(walk: Walk) -> list[Census]:
    """Return the mounts, super blocks and dentries that do not come out even, and those that are busy."""
    paths = _paths(walk)
    mounts: list[ObjectAudit] = []
    blocks: list[ObjectAudit] = []
    totals: Counter[str] = Counter()
    for block in super_blocks(walk):
        with walk.guard(f"super block {block.value_():#x}"):
            found = list(_mounts(walk, block))
            totals["mount"] += len(found)
            totals["super_block"] += 1
            mounts += (audit for one in found if (audit := _mount(walk, block, one, paths)))
            blocks += _block(walk, block, found)
    dentries, total = _dentries(walk, paths)
    return [
        Census("mount", totals["mount"], tuple(mounts)),
        Census("super_block", totals["super_block"], tuple(blocks)),
        Census("dentry", total, tuple(dentries)),
    ]


def _paths(walk: Walk) -> Paths:
    found = Paths()
    files = open_files(walk)
    of_file = walk.layout("struct file", "f_path.mnt", "f_path.dentry")
    for file in files.by_address.values():
        if file.count > 0:
            with walk.guard(f"file {file.address:#x}"):
                mount, dentry = of_file.read(file.address)
                found.add(mount, dentry, Holder("", "file", file.address, "struct file", files.holder(file)))
    for place, mount, dentry in walk.each("backing files", _backing_files(walk)):
        holder = Holder("", "backing file", place, "struct backing_file", f"backing file {place:#x}")
        found.add(mount, dentry, holder)
    of_task = walk.layout("struct task_struct", "fs")
    of_fs = walk.layout("struct fs_struct", "root.mnt", "root.dentry", "pwd.mnt", "pwd.dentry")
    seen: set[int] = set()
    for task, name in files.threads:
        with walk.guard(f"the directories of {name}"):
            fs = of_task.read(task)[0]
            if not fs or fs in seen:
                continue
            seen.add(fs)
            root_mount, root, pwd_mount, pwd = of_fs.read(fs)
            found.add(root_mount, root, Holder("", "root", fs, "struct fs_struct", f"{name} → root"))
            found.add(pwd_mount, pwd, Holder("", "cwd", fs, "struct fs_struct", f"{name} → cwd"))
    for place, mount, dentry in walk.each("Unix sockets", _unix(walk)):
        found.add(mount, dentry, Holder("", "socket", place, "struct unix_sock", f"Unix socket {place:#x}"))
    return found


def _backing_files(walk: Walk) -> Iterator[tuple[int, int, int]]:
    """Yield the paths that files behind those of an overlay have of it.

    Since Linux 6.7 (commit def3ae83da02) ``user_path`` is what was opened; before, it was what is behind.
    """
    try:
        layout = walk.layout("struct backing_file", "user_path.mnt", "user_path.dentry")
    except LookupError:
        return
    files = open_files(walk)
    for address in files.backing:
        if address in files.by_address:
            mount, dentry = layout.read(address)
            yield address, mount, dentry


def _unix(walk: Walk) -> Iterator[tuple[int, int, int]]:
    layout = walk.layout("struct unix_sock", "path.mnt", "path.dentry")
    caches = {
        int(proto.slab): proto.slab for proto in map(walk.variable, UNIX) if proto is not None and proto.slab
    }
    for cache in caches.values():
        for address, (mount, dentry) in walk.slabs.objects(cache, layout):
            if mount >= KERNEL_HALF:
                yield address, mount, dentry


def _mounts(walk: Walk, block: drgn.Object) -> Iterator[drgn.Object]:
    """Yield all mounts of a super block, those that are in no namespace included."""
    yield from walk.each("the mounts of a super block", super_block_for_each_mount(block))


def _mount(walk: Walk, block: drgn.Object, mount: drgn.Object, paths: Paths) -> ObjectAudit | None:
    namespace = int(mount.mnt_ns)
    if namespace == INTERNAL or not (namespace or int(mount.mnt.mnt_flags) & MNT_UMOUNT):
        # The kernel's own: pinned by what uses them from inside.
        return None
    holders = []
    address = mount.value_()
    if namespace:
        holders.append(Holder("", "attached", address, "struct mount", "in its namespace's tree"))
    children = list_for_each_entry("struct mount", mount.mnt_mounts.address_of_(), "mnt_child")
    holders += (
        Holder("", "mount on it", child.value_(), "struct mount", _target(walk, child)) for child in children
    )
    holders += paths.mounts.get(int(mount.mnt.address_of_()), [])
    count = _references(mount)
    name = f"{describe(walk, block)}" if namespace else f"{text(block.s_type.name)} on {text(block.s_id)}"
    accounted = sum(holder.count for holder in holders)
    verdict = "unaccounted" if count > accounted else "missing" if count < accounted else "busy"
    if verdict == "busy" and namespace and (len(holders) == 1 or not _told(block)):
        return None
    note = "" if namespace else "taken out of its namespace (umount -l), and still used"
    return ObjectAudit("mount", address, name, count, verdict, note, tuple(holders))


def _told(block: drgn.Object) -> bool:
    """Return whether who keeps a mount busy is told even if all is accounted for."""
    return bool(int(block.s_type.fs_flags) & FS_REQUIRES_DEV) or bool(block.s_type.owner)


def _target(walk: Walk, mount: drgn.Object) -> str:
    try:
        return mount_point(walk, mount)
    except BROKEN:
        return "?"


def _references(mount: drgn.Object) -> int:
    if hasattr(mount, "mnt_pcp"):
        cpus = for_each_possible_cpu(mount.prog_)
        return sum(int(per_cpu_ptr(mount.mnt_pcp, cpu).mnt_count) for cpu in cpus)
    return int(mount.mnt_count)


def _block(walk: Walk, block: drgn.Object, mounts: list[drgn.Object]) -> Iterator[ObjectAudit]:
    """Yield a super block that is active more often than it is mounted."""
    if text(block.s_type.name) in OTHERWISE_ACTIVE:
        return
    active = int(block.s_active.counter)
    holders = tuple(Holder("", "mount", one.value_(), "struct mount", _target(walk, one)) for one in mounts)
    if active != len(holders):
        verdict = "unaccounted" if active > len(holders) else "missing"
        note = "" if mounts else "not mounted anywhere"
        name = describe(walk, block)
        yield ObjectAudit("super_block", block.value_(), name, active, verdict, note, holders)


def _dentries(walk: Walk, paths: Paths) -> tuple[list[ObjectAudit], int]:
    """Return the dentries of file systems on block devices whose count does not come out even.

    Others (tmpfs, proc, debugfs) pin what is in them by a reference of their own.
    """
    cache = walk.variable("dentry_cache")
    wanted = {}
    for block in super_blocks(walk):
        with walk.guard(f"super block {block.value_():#x}"):
            if int(block.s_type.fs_flags) & FS_REQUIRES_DEV and int(block.s_root):
                wanted[block.value_()] = block
    if cache is None:
        return [], 0
    layout = walk.layout("struct dentry", "d_sb", "d_parent", "d_lockref.count")
    counts: dict[int, tuple[int, int]] = {}
    children: Counter[int] = Counter()
    total = 0
    for address, (block_address, parent, count) in walk.slabs.objects(cache, layout):
        total += 1
        if block_address in wanted and 0 <= count < 1 << 31:
            counts[address] = (count, block_address)
            if parent != address:
                children[parent] += 1
    if counts:
        _mounted_on(walk, paths)
    found: list[ObjectAudit] = []
    for address, (count, block_address) in counts.items():
        block = wanted[block_address]
        holders = list(paths.dentries.get(address, []))
        if children[address]:
            path = "entries of this directory that are cached"
            holders.append(Holder("", "child", address, "struct dentry", path, children[address]))
        if int(block.s_root) == address:
            holders.append(Holder("", "root", block_address, "struct super_block", "s_root"))
        accounted = sum(holder.count for holder in holders)
        if accounted != count and len(found) < MOST_LISTED:
            verdict = "unaccounted" if count > accounted else "missing"
            with walk.guard(f"dentry {address:#x}"):
                name = _dentry(walk, block, address)
                found.append(ObjectAudit("dentry", address, name, count, verdict, "", tuple(holders)))
    return found, total


def _dentry(walk: Walk, block: drgn.Object, address: int) -> str:
    path = dentry_name(walk, address)
    return f"{path or '/'} of {describe(walk, block)}"


def _mounted_on(walk: Walk, paths: Paths) -> None:
    """Add what mounts have: their root, and what they are mounted on."""
    for block in super_blocks(walk):
        for mount in _mounts(walk, block):
            with walk.guard(f"mount {mount.value_():#x}"):
                holder = Holder("", "mount", mount.value_(), "struct mount", _target(walk, mount))
                paths.dentries[int(mount.mnt.mnt_root)].append(holder)
                if int(mount.mnt_parent) != mount.value_() and mount.mnt_mountpoint:
                    paths.dentries[int(mount.mnt_mountpoint)].append(holder)
