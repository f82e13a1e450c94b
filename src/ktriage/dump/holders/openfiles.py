"""Every ``struct file``, and who has it: descriptors, mappings, messages in flight, loop devices, swap."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import drgn
import numpy as np
from drgn.helpers.linux.mm import for_each_vma
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.plist import plist_for_each_entry

from ktriage.dump.holders import filekeepers
from ktriage.dump.holders.disks import loop_devices
from ktriage.dump.holders.lists import once
from ktriage.dump.holders.paths import path_name
from ktriage.dump.holders.walk import BROKEN, KERNEL_HALF, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_DESCRIPTORS = 1 << 20
"""Descriptors of one process that are read; the kernel's own limit (sysctl_nr_open) starts at this."""
MOST_IN_FLIGHT = 253
"""SCM_MAX_FD in include/net/scm.h: descriptors in one message."""

S_IFMT, S_IFCHR, S_IFBLK, S_IFDIR = 0o170000, 0o020000, 0o060000, 0o040000


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One ``struct file`` that is allocated; ``users`` are the paths to it, none where nobody was found."""

    address: int
    operations: int
    inode: int
    mode: int
    """Type and permissions of the inode (``i_mode``); 0 where there is none."""
    count: int
    private: int
    users: tuple[str, ...] = ()

    @property
    def kind(self) -> int:
        """The type of the inode: S_IFCHR and so on."""
        return self.mode & S_IFMT


@dataclass(slots=True)
class OpenFiles:
    """All files by address, found when first asked for."""

    walk: Walk
    by_address: dict[int, OpenFile] = field(default_factory=dict)
    tasks: list[tuple[int, str]] = field(default_factory=list)
    """``struct task_struct`` of each process and what it is called: ``task 12 (sh)``."""
    threads: list[tuple[int, str]] = field(default_factory=list)
    """The same of all threads."""
    backing: set[int] = field(default_factory=set)
    """Files that are not in the cache of files: those behind an overlay's, since Linux 6.5."""

    def path(self, file: OpenFile) -> str:
        """Return the name under which the file was opened; empty where it can't be told."""
        try:
            layout = self.walk.layout("struct file", "f_path.mnt", "f_path.dentry")
            return path_name(self.walk, *layout.read(file.address))
        except BROKEN:
            return ""

    def holder(self, file: OpenFile) -> str:
        """Return the path to a file, from a task on: ``task 12 (sh) → fd 3 → file 0x... (/dev/fuse)``."""
        first = file.users[0] if file.users else "nobody"
        if len(file.users) > 1:
            first += f" (and {len(file.users) - 1} more)"
        name = self.path(file)
        return f"{first} → file {file.address:#x}" + (f" ({name})" if name else "")


def open_files(walk: Walk) -> OpenFiles:
    """Return all open files; read once."""
    found: OpenFiles = walk.keep("files", _read)
    return found


def _read(walk: Walk) -> OpenFiles:
    found = OpenFiles(walk)
    users: dict[int, list[str]] = defaultdict(list)
    spaces: dict[int, str] = {}
    for source in (
        _descriptors(walk, found, spaces),
        _mappings(walk, spaces),
        _in_flight(walk),
        _backing(walk),
        *(one(walk) for one in filekeepers.SOURCES),
    ):
        for address, user in walk.each("the users of files", source):
            users[address].append(user)
    listed = {address: values for address, values in _in_cache(walk) if _sane(values[0], values[1])}
    for address, user in filekeepers.behind_files(walk, [(a, v[0], v[3]) for a, v in listed.items()]):
        users[address].append(user)
    found.backing = {address for address in users if address not in listed}
    outside = dict(_elsewhere(walk, found.backing))
    inode = walk.layout("struct inode", "i_mode")
    for address, (operations, node, count, private) in (listed | outside).items():
        try:
            mode = inode.read(node)[0]
        except drgn.FaultError:
            continue
        found.by_address[address] = OpenFile(
            address, operations, node, mode, _count(walk, count), private, tuple(users.get(address, ()))
        )
    return found


def _in_cache(walk: Walk) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield the files in the slab cache ``filp_cachep``."""
    cache = walk.variable("filp_cachep")
    if cache is not None:
        layout = walk.layout("struct file", "f_op", "f_inode", _counter(walk), "private_data")
        yield from walk.slabs.objects(cache, layout)


def _elsewhere(walk: Walk, addresses: set[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield files that are used and in no cache that is known.

    Those behind an overlay's are part of a ``struct backing_file`` since Linux 6.5 (commit 62d53c4a1dfe).
    """
    layout = walk.layout("struct file", "f_op", "f_inode", _counter(walk), "private_data")
    for address in addresses:
        try:
            values = layout.read(address)
        except drgn.FaultError as error:
            walk.note(f"file at {address:#x}", error)
            continue
        if _sane(values[0], values[1]):
            yield address, values


def _counter(walk: Walk) -> str:
    """Return the member that counts: ``f_ref`` since Linux 6.13 (commit 90ee6ed776c0), else ``f_count``."""
    if walk.program.type("struct file").has_member("f_ref"):
        return "f_ref.refcnt.counter"
    return "f_count.counter"


def _count(walk: Walk, stored: int) -> int:
    """Return the number of references; a file_ref_t stores one less."""
    return stored + 1 if _counter(walk).startswith("f_ref") else stored


def _sane(operations: int, node: int) -> bool:
    return operations >= KERNEL_HALF and node >= KERNEL_HALF


def _descriptors(walk: Walk, found: OpenFiles, spaces: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Yield each file in a table of descriptors; fills ``found.tasks`` and whose each address space is."""
    task_layout = walk.layout("struct task_struct", "pid", "tgid", "files", "mm")
    tables: set[int] = set()
    for task in walk.each("the tasks", for_each_task(walk.program, idle=True)):
        try:
            pid, tgid, files, mm = task_layout.read(task.value_())
            name = f"task {pid} ({text(task.comm)})"
        except BROKEN as error:
            walk.note(f"task at {task.value_():#x}", error)
            continue
        found.threads.append((task.value_(), name))
        if pid == tgid:
            found.tasks.append((task.value_(), name))
        if mm:
            spaces.setdefault(mm, name)
        if files and files not in tables:
            tables.add(files)
            yield from walk.each(f"the descriptors of {name}", _table(walk, files, name))


def _table(walk: Walk, files: int, name: str) -> Iterator[tuple[int, str]]:
    fdt = walk.layout("struct files_struct", "fdt").read(files)[0]
    most, array = walk.layout("struct fdtable", "max_fds", "fd").read(fdt)
    data = walk.program.read(array, 8 * min(most, MOST_DESCRIPTORS))
    entries = np.frombuffer(data, dtype=np.uint64)
    for number in np.flatnonzero(entries).tolist():
        yield int(entries[number]), f"{name} → fd {number}"


def _mappings(walk: Walk, spaces: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Yield the file of each mapping, and what each address space runs."""
    for file, mm, start in _areas(walk, spaces):
        if file >= KERNEL_HALF:
            yield file, f"{spaces.get(mm, f'address space {mm:#x}')} → mapping at {start:#x}"
    exe = walk.layout("struct mm_struct", "exe_file")
    for mm, name in spaces.items():
        try:
            file = exe.read(mm)[0]
        except drgn.FaultError:
            continue
        if file:
            yield file, f"{name} → exe"


def _areas(walk: Walk, spaces: dict[int, str]) -> Iterator[tuple[int, int, int]]:
    """Yield file, address space and start of each mapping.

    All in the slab cache are in use until Linux 6.4; since then (commit 20cce633f425) they are freed after a
    grace period and keep what they pointed to, so each address space is gone through.
    """
    layout = walk.layout("struct vm_area_struct", "vm_file", "vm_mm", "vm_start")
    cache = walk.variable("vm_area_cachep")
    if cache is not None and not walk.program.type("struct vm_area_struct").has_member("vm_rcu"):
        for _, values in walk.slabs.objects(cache, layout):
            yield values[0], values[1], values[2]
        return
    for mm, name in spaces.items():
        areas = for_each_vma(walk.object("struct mm_struct", mm))
        for area in walk.each(f"the mappings of {name}", areas):
            yield int(area.vm_file), mm, int(area.vm_start)


def _in_flight(walk: Walk) -> Iterator[tuple[int, str]]:
    """Yield files that were sent over a Unix socket (SCM_RIGHTS) and not taken out yet."""
    unix = walk.variable("unix_dgram_proto")
    protos = [unix, walk.variable("unix_stream_proto")] if unix is not None else [walk.variable("unix_proto")]
    # Protocols of one size may share a cache.
    caches = {int(proto.slab): proto.slab for proto in protos if proto is not None and proto.slab}
    for cache in caches.values():
        layout = walk.layout("struct sock", "sk_receive_queue.next")
        at = drgn.offsetof(walk.program.type("struct sock"), "sk_receive_queue")
        for address, (first,) in walk.slabs.objects(cache, layout):
            if first != address + at and first >= KERNEL_HALF:
                yield from walk.each(
                    f"the queue of Unix socket {address:#x}", _queued(walk, address, first, address + at)
                )


def _queued(walk: Walk, sock: int, first: int, head: int) -> Iterator[tuple[int, str]]:
    next_of = walk.layout("struct sk_buff", "next")
    place = first
    for _ in range(MOST_DESCRIPTORS):
        if place == head or place < KERNEL_HALF:
            return
        skb = walk.object("struct sk_buff", place)
        parameters = drgn.cast("struct unix_skb_parms *", skb.cb.address_of_())
        rights = parameters.fp
        if rights:
            for number in range(min(int(rights.count), MOST_IN_FLIGHT)):
                yield int(rights.fp[number]), f"Unix socket {sock:#x} → message {place:#x} (in flight)"
        place = next_of.read(place)[0]


def _backing(walk: Walk) -> Iterator[tuple[int, str]]:
    """Yield files that the kernel itself keeps: behind loop devices and swap."""
    for _, name, file, _ in loop_devices(walk):
        if file:
            yield file, f"{name} → backing file"
    head = walk.variable("swap_active_head")
    if head is not None:
        for swap in once(plist_for_each_entry("struct swap_info_struct", head.address_of_(), "list")):
            if swap.swap_file:
                yield int(swap.swap_file), f"swap area {int(swap.type)}"
