"""File systems in use: each super block and each context of a mount has a reference to its type's module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.holders.lists import list_for_each_entry, super_block_for_each_mount
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.paths import mount_point
from ktriage.dump.holders.walk import BROKEN, KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import drgn

INTERNAL = (1 << 64) - 4096
"""Where pointers end and errors as pointers begin (MNT_NS_INTERNAL is one; include/linux/err.h)."""
MAXQUOTAS = 3


def super_blocks(walk: Walk) -> list[drgn.Object]:
    """Return all super blocks, as ``struct super_block *``."""

    def make(_: Walk) -> list[drgn.Object]:
        head = walk.variable("super_blocks", "fs/super.c")
        if head is None:
            return []
        found = list_for_each_entry("struct super_block", head.address_of_(), "s_list")
        return list(walk.each("the super blocks", found))

    found: list[drgn.Object] = walk.keep("super blocks", make)
    return found


def describe(walk: Walk, block: drgn.Object) -> str:
    """Return what a super block is called, and where it is mounted: ``vfat on loop0 at /mnt``."""
    try:
        name = f"{text(block.s_type.name)} on {text(block.s_id)}"
    except BROKEN:
        return f"super block {block.value_():#x}"
    places = []
    for mount in walk.each(f"the mounts of {name}", super_block_for_each_mount(block)):
        try:
            # The kernel's own have no namespace, or none that is one.
            if KERNEL_HALF <= int(mount.mnt_ns) < INTERNAL:
                places.append(mount_point(walk, mount))
        except BROKEN:
            continue
    return f"{name} at {', '.join(places)}" if places else f"{name}, not mounted"


def mounted_types(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each super block has (``sget_fc()``; put by ``deactivate_locked_super()``)."""
    for block in super_blocks(walk):
        try:
            owner = walk.owner(block.s_type.owner)
        except BROKEN as error:
            walk.note(f"super block {block.value_():#x}", error)
            continue
        if owner:
            yield Holder(owner, "mount", block.value_(), "struct super_block", describe(walk, block))


def quota_formats(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each quota that is on to its format (``find_quota_format()``)."""
    for block in super_blocks(walk):
        try:
            infos = [info.dqi_format for info in block.s_dquot.info[:MAXQUOTAS]]
        except (*BROKEN, AttributeError):
            return
        for number, format_ in enumerate(infos):
            owner = walk.owner(format_.qf_owner) if format_ else None
            if owner:
                path = f"{describe(walk, block)} → s_dquot.info[{number}]"
                yield Holder(owner, "quota", block.value_(), "struct super_block", path)


def mount_contexts(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each open context of fsopen(2) or fspick(2) (``alloc_fs_context()``)."""
    files = open_files(walk)
    operations = walk.variable("fscontext_fops")
    if operations is None:
        return
    for file in files.by_address.values():
        if file.operations != operations.address_ or not file.private:
            continue
        try:
            owner = walk.owner(walk.object("struct fs_context", file.private).fs_type.owner)
        except BROKEN as error:
            walk.note(f"the context of file {file.address:#x}", error)
            continue
        if owner:
            yield Holder(owner, "mount context", file.private, "struct fs_context", files.holder(file))


NLS_USERS = (
    ("vfat", "struct msdos_sb_info", ("nls_disk", "nls_io")),
    ("msdos", "struct msdos_sb_info", ("nls_disk", "nls_io")),
    ("iso9660", "struct isofs_sb_info", ("s_nls_iocharset",)),
    ("udf", "struct udf_sb_info", ("s_nls_map",)),
    ("ntfs3", "struct ntfs_sb_info", ("options->nls",)),
    ("exfat", "struct exfat_sb_info", ("nls_io",)),
    ("hfsplus", "struct hfsplus_sb_info", ("nls",)),
    ("hfs", "struct hfs_sb_info", ("nls_io", "nls_disk")),
    ("jfs", "struct jfs_sb_info", ("nls_tab",)),
    ("befs", "struct befs_sb_info", ("nls",)),
    ("cifs", "struct cifs_sb_info", ("local_nls",)),
)  # fmt: skip
"""File systems that load character sets: type, what ``s_fs_info`` is, the members that point at tables."""
NLS_MODULES = {"vfat": "fat", "msdos": "fat", "iso9660": "isofs"}


def character_sets(walk: Walk) -> Iterator[Holder]:
    """Yield the references of mounted file systems to their character sets (``load_nls()``)."""
    users = {name: (type_name, members) for name, type_name, members in NLS_USERS}
    for block in super_blocks(walk):
        try:
            kind = text(block.s_type.name)
            if kind not in users or not block.s_fs_info:
                continue
            type_name, members = users[kind]
            if not _knows(walk, kind, type_name):
                continue
            for member in members:
                table = _follow(walk.object(type_name, int(block.s_fs_info)), member)
                owner = walk.owner(table.owner) if table else None
                if owner:
                    path = f"{describe(walk, block)} → {member} {walk.name(int(table))}"
                    yield Holder(owner, "character set", block.value_(), "struct super_block", path)
        except BROKEN as error:
            walk.note(f"the character sets of super block {block.value_():#x}", error)


def _knows(walk: Walk, kind: str, type_name: str) -> bool:
    """Return whether the type is known; else say of the character sets that their count can't be told."""
    try:
        walk.program.type(type_name)
    except LookupError:
        for module in walk.modules:
            if module.name.startswith("nls_"):
                walk.lack(
                    module.name,
                    f"mounts of {kind}: the file system's debug information is needed (--modules)",
                )
        return False
    return True


def _follow(thing: drgn.Object, member: str) -> drgn.Object:
    for part in member.split("->"):
        thing = thing.member_(part)
    return thing


def binary_formats(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each address space has to the format of its binary (``set_binfmt()``)."""
    layout = walk.layout("struct mm_struct", "binfmt")
    seen = set()
    for task, name in open_files(walk).tasks:
        try:
            mm = walk.layout("struct task_struct", "mm").read(task)[0]
            if not mm or mm in seen:
                continue
            seen.add(mm)
            format_ = layout.read(mm)[0]
            owner = (
                walk.owner(walk.layout("struct linux_binfmt", "module").read(format_)[0]) if format_ else None
            )
        except BROKEN as error:
            walk.note(f"the binary format of {name}", error)
            continue
        if owner:
            yield Holder(
                owner, "binary format", mm, "struct mm_struct", f"{name} → binfmt {walk.name(format_)}"
            )
