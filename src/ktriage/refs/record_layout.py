"""Where the ring buffer of a tracing instance is in a kernel's memory, by the kernel's BTF.

A guest that panics has events that no one has read yet, and they are the ones that matter. Its memory
still has them (kernel/trace/trace.h, kernel/trace/ring_buffer.c); BTF says where the members of the
structures are (Documentation/bpf/btf.rst).
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from typing import Any

MAGIC = 0xEB9F
ARRAY, STRUCT = 3, 4
EXTRA = {1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8), 14: (4, 0), 15: (0, 12)}
EXTRA |= {17: (4, 0), 19: (0, 12)}
"""Bytes that follow a type of a kind: once, and for each of its members."""

NEEDED: dict[str, tuple[str, ...]] = {
    "trace_array": ("list", "name", "array_buffer"),
    "array_buffer": ("buffer",),
    "trace_buffer": ("buffers",),
    "ring_buffer_per_cpu": ("reader_page", "head_page", "commit_page"),
    "buffer_page": ("list", "read", "page"),
    "saved_cmdlines_buffer": ("map_cmdline_to_pid", "cmdline_num", "saved_cmdlines"),
}
MODULES: dict[str, tuple[str, ...]] = {
    "module": ("name", "core_layout", "init_layout", "mem"),
    "module_layout": ("base",),
    "module_memory": ("base", "size"),
}
"""Where a module's code is: two structures until v6.3, an array since (ac3b43283923)."""
MOD_INIT_TEXT = 4
"""enum mod_mem_type; MOD_TEXT is 0."""
WHERE = ("module.name", "module.text", "module.init")
"""What a layout has of a module: its name, where its code begins, and where its init's."""

LIST, NAMES = "ftrace_trace_arrays", "savedcmd"
"""The list of all instances, and the names of tasks, by the kernel's names for them."""
INLINE = "saved_cmdlines"
"""In a layout: whether the names stand in the structure (since v6.8, 44dc5c41b5b1), or it points to them."""

NAME_BYTES = 32
PAGES = 1 << 20
PAGE = 4096

COMM_BYTES = 16
COMMS = 1 << 16

Layout = dict[str, int]
"""Offsets in bytes by ``structure.member``, and the addresses of ``LIST`` and ``NAMES``."""

Memory = Callable[[int, int], Awaitable[bytes]]
"""Reads (address, bytes) of a kernel's memory; raises LookupError where nothing is there."""


def read_layout(btf: bytes) -> Layout | None:
    """Return where ``NEEDED`` is, from /sys/kernel/btf/vmlinux; None where it is no BTF, or lacks one."""
    if len(btf) < 24 or struct.unpack_from("<H", btf)[0] != MAGIC:
        return None
    try:
        return _layout(btf)
    except (struct.error, IndexError):
        return None


def _layout(btf: bytes) -> Layout | None:
    head, types, types_length, strings = struct.unpack_from("<IIII", btf, 4)
    at, end, strings = head + types, head + types + types_length, head + strings
    found: Layout = {}
    unpack = struct.Struct("<III").unpack_from
    kinds: list[int] = [0]
    wanted = NEEDED | MODULES
    names = {_name_at(btf, strings, name): name for name in wanted}
    while at < end:
        name, info, size = unpack(btf, at)
        kind, count = info >> 24 & 31, info & 0xFFFF
        kinds.append(kind)
        if kind == STRUCT and name in names:
            found |= _members(btf, strings, at + 12, count, info >> 31, (names[name], *wanted[names[name]]))
            found[names[name]] = size
        once, each = EXTRA.get(kind, (0, 0))
        at += 12 + once + each * count
    found[INLINE] = int(kinds[found.pop(f"{INLINE}.type", 0)] == ARRAY)
    return whole(found)


def whole(found: Layout) -> Layout | None:
    """Return a layout from the offsets and sizes that were found of ``NEEDED`` and ``MODULES``.

    None where something of ``NEEDED`` is not among them.
    """
    complete = all(f"{name}.{member}" in found for name, members in NEEDED.items() for member in members)
    return found | _of_modules(found) if complete else None


def _of_modules(found: Layout) -> Layout:
    """Return ``WHERE``, or nothing where a module's structure is not as it is known to be."""
    if {"module.mem", "module_memory.base", "module_memory"} <= found.keys():
        text = found["module.mem"] + found["module_memory.base"]
        return {"module.text": text, "module.init": text + MOD_INIT_TEXT * found["module_memory"]}
    if {"module.core_layout", "module.init_layout", "module_layout.base"} <= found.keys():
        base = found["module_layout.base"]
        return {
            "module.text": found["module.core_layout"] + base,
            "module.init": found["module.init_layout"] + base,
        }
    return {}


def _name_at(btf: bytes, strings: int, name: str) -> int:
    return btf.find(b"\0" + name.encode() + b"\0", strings) + 1 - strings


def _members(btf: bytes, strings: int, at: int, count: int, flag: int, wanted: tuple[str, ...]) -> Layout:
    structure, *members = wanted
    found = {}
    for number in range(count):
        name, kind, offset = struct.unpack_from("<III", btf, at + 12 * number)
        text = btf[strings + name : btf.index(b"\0", strings + name)].decode(errors="replace")
        if text in members:
            found[f"{structure}.{text}"] = (offset & 0xFFFFFF if flag else offset) >> 3
            if text == INLINE:
                found[f"{INLINE}.type"] = kind
    return found


class Walk:
    """A walk through a stopped kernel's memory to the pages of an instance that no one has read."""

    def __init__(self, memory: Memory, layout: Layout) -> None:
        self.memory = memory
        self.layout = layout

    async def _word(self, address: int, size: int = 8) -> int:
        return int.from_bytes(await self.memory(address, size), "little")

    async def _member(self, base: int, member: str, size: int = 8) -> int:
        return await self._word(base + self.layout[member], size)

    async def instance(self, name: str) -> int:
        """Return the address of the instance's ``struct trace_array``; raises LookupError without one."""
        head = self.layout[LIST]
        entry = await self._word(head)
        for _ in range(64):
            if entry == head:
                break
            array = entry - self.layout["trace_array.list"]
            text = await self._member(array, "trace_array.name")
            if text and (await self.memory(text, NAME_BYTES)).split(b"\0", 1)[0] == name.encode():
                return array
            entry = await self._word(entry)
        raise LookupError(f"no tracing instance {name}")

    async def names(self) -> dict[int, str]:
        """Return the names of the tasks that ran last, by their numbers."""
        saved = "saved_cmdlines_buffer"
        buffer = await self._word(self.layout[NAMES])
        count = min(await self._member(buffer, f"{saved}.cmdline_num", 4), COMMS)
        numbers = await self.memory(await self._member(buffer, f"{saved}.map_cmdline_to_pid"), 4 * count)
        place = buffer + self.layout[f"{saved}.{INLINE}"]
        if not self.layout[INLINE]:
            place = await self._word(place)
        comms = await self.memory(place, COMM_BYTES * count)
        found = {}
        for at, (pid,) in enumerate(struct.iter_unpack("<i", numbers)):
            comm = comms[COMM_BYTES * at : COMM_BYTES * (at + 1)].split(b"\0", 1)[0]
            if pid > 0 and comm:
                found[pid] = comm.decode(errors="replace")
        return found

    async def pages(self, name: str, cpus: int) -> list[tuple[int, int, bytes]]:
        """Return (CPU, bytes of it that were read before, page) of what no one has read yet, in order."""
        array = await self.instance(name)
        buffer = await self._word(
            array + self.layout["trace_array.array_buffer"] + self.layout["array_buffer.buffer"]
        )
        table = await self._member(buffer, "trace_buffer.buffers")
        found = []
        for cpu in range(cpus):
            one = await self._word(table + 8 * cpu)
            if one:
                found += [(cpu, *page) for page in await self._of_cpu(one)]
        return found

    async def _of_cpu(self, cpu: int) -> list[tuple[int, bytes]]:
        reader = await self._member(cpu, "ring_buffer_per_cpu.reader_page")
        last = await self._member(cpu, "ring_buffer_per_cpu.commit_page")
        found = [await self._page(reader)]
        if reader == last:
            return found
        page = await self._member(cpu, "ring_buffer_per_cpu.head_page")
        for _ in range(PAGES):
            found.append(await self._page(page))
            if page == last:
                break
            # The lowest bits of the pointers are flags (rb_list_head in ring_buffer.c).
            entry = await self._member(page, "buffer_page.list") & ~3
            page = entry - self.layout["buffer_page.list"]
        return found

    async def _page(self, page: int) -> tuple[int, bytes]:
        read = await self._member(page, "buffer_page.read", 4)
        return read, await self.memory(await self._member(page, "buffer_page.page"), PAGE)


def plain(layout: Any) -> Layout | None:  # noqa: ANN401 - JSON
    """Return a layout that was kept as JSON; None where it is none."""
    good = isinstance(layout, dict) and all(isinstance(number, int) for number in layout.values())
    return {str(name): number for name, number in layout.items()} if good else None
