"""The objects of slab caches, read a slab at a time.

drgn's own helper looks at one ``struct page`` after the other for every cache. Here the memory map is read
once, in bulk, and then the slabs of any cache are known.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import drgn
import numpy as np
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.mm import for_each_valid_page_range, page_to_virt
from drgn.helpers.linux.percpu import per_cpu_ptr

from ktriage.dump import core
from ktriage.dump.holders.layout import Layout, member_offset

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES_AT_ONCE = 1 << 15
"""``struct page``s read in one go: 2 MiB of them."""
SMALL_PAGE = 4096
MOST_SLABS = 1 << 22
LARGEST_SLAB = 1 << 22
"""Bytes: of the largest block of pages that there is (MAX_ORDER 10)."""
MOST_OBJECTS = 1 << 16
"""Objects in one slab: the field is 15 bits wide (struct slab)."""


@dataclass(frozen=True, slots=True)
class Slab:
    """One slab: its memory, where its objects begin in it, and which are allocated."""

    address: int
    data: bytes
    size: int
    allocated: tuple[int, ...]
    """Offsets of allocated objects into ``data``."""

    def objects(self) -> Iterator[tuple[int, int]]:
        """Yield address and offset of each allocated object."""
        for offset in self.allocated:
            yield self.address + offset, offset

    def where(self, at: int, values: np.ndarray) -> list[int]:
        """Return the offsets of those allocated objects that have one of ``values`` at byte ``at``."""
        if not self.allocated:
            return []
        places = np.array(self.allocated, dtype=np.int64)
        words = np.frombuffer(self.data[: len(self.data) // 8 * 8], dtype=np.uint64)
        found: list[int] = places[np.isin(words[(places + at) // 8], values)].tolist()
        return found


class Slabs:
    """The slabs of all caches. ``notes`` says what could not be read.

    Raises LookupError where the kernel's allocator is not SLUB, which it always is since Linux 6.8
    (commit 16a1d968358a "mm/slab: remove mm/slab.c and slab_def.h").
    """

    def __init__(self, program: drgn.Program) -> None:
        self.program = program
        self.notes: list[str] = []
        # struct slab was split off struct page in Linux 5.17 (commit d122019bf061).
        try:
            self.type = program.type("struct slab")
        except LookupError:
            self.type = program.type("struct page")
        self._cache_at = member_offset(self.type, "slab_cache")
        self._page_size = drgn.sizeof(program.type("struct page"))
        self._by_cache: dict[int, list[int]] = defaultdict(list)
        try:
            self._index()
        except core.BROKEN as error:
            self.notes.append(f"the map of pages breaks off: {str(error) or type(error).__name__}")

    def caches(self) -> list[int]:
        """Return the addresses of the caches that have slabs."""
        return list(self._by_cache)

    def slabs(self, cache: drgn.Object) -> Iterator[Slab]:
        """Yield the slabs of the ``struct kmem_cache *`` ``cache``; what can't be read is noted."""
        try:
            reader = _Reader(self, cache)
        except core.BROKEN as error:
            self.notes.append(f"slab cache at {cache.value_():#x}: {str(error) or type(error).__name__}")
            return
        for address in self._by_cache.get(cache.value_(), ()):
            try:
                yield reader.slab(address)
            except core.BROKEN as error:
                self.notes.append(f"slab at {address:#x}: {str(error) or type(error).__name__}")

    def objects(self, cache: drgn.Object, layout: Layout) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield the address of each allocated object of ``cache`` and its members by ``layout``."""
        for slab in self.slabs(cache):
            for address, offset in slab.objects():
                if offset + layout.size <= len(slab.data):
                    yield address, layout.of(slab.data, offset)

    def pointers(self, wanted: list[int]) -> Iterator[tuple[int, drgn.Object, int, int]]:
        """Yield each place in an allocated object where one of the values ``wanted`` is.

        Each is the value, the cache (``struct kmem_cache *``), the address of the object and the offset into
        it. All slabs are read: about a second for each GB of them.
        """
        values = np.array(sorted(wanted), dtype=np.uint64)
        for address in self.caches():
            cache = drgn.Object(self.program, "struct kmem_cache *", value=address)
            for slab in self.slabs(cache):
                words = np.frombuffer(slab.data[: len(slab.data) // 8 * 8], dtype=np.uint64)
                places = np.flatnonzero(np.isin(words, values))
                if not len(places):
                    continue
                allocated = set(slab.allocated)
                for place in places.tolist():
                    start = place * 8 // slab.size * slab.size
                    if start in allocated:
                        yield int(words[place]), cache, slab.address + start, place * 8 - start

    def _index(self) -> None:
        """Find the addresses of the slabs, by that of their cache, in one pass over the memory map."""
        found = self._by_cache
        count = 0
        for start, end, mem_map in for_each_valid_page_range(self.program):
            base = mem_map.value_()
            for first in range(start, end, PAGES_AT_ONCE):
                last = min(first + PAGES_AT_ONCE, end)
                for address, data in self._read(base + first * self._page_size, last - first):
                    words = np.frombuffer(data, dtype=np.uint64).reshape(-1, self._page_size // 8)
                    rows = np.flatnonzero(self._is_slab(words))
                    caches = words[rows, self._cache_at // 8]
                    count += len(rows)
                    if count > MOST_SLABS:
                        raise ValueError("more slabs than memory can hold")
                    for row, cache in zip(rows.tolist(), caches.tolist(), strict=True):
                        found[cache].append(address + row * self._page_size)

    def _read(self, address: int, count: int) -> Iterator[tuple[int, bytes]]:
        """Yield pieces of the memory map; where a part is missing, only what is there."""
        size = count * self._page_size
        try:
            yield address, self.program.read(address, size)
            return
        except drgn.FaultError:
            pass
        for place in range(address, address + size, SMALL_PAGE):
            step = min(SMALL_PAGE, address + size - place)
            try:
                yield place, self.program.read(place, step)
            except drgn.FaultError:
                continue

    def _is_slab(self, words: np.ndarray) -> np.ndarray:
        """Return which of the pages are the first of a slab.

        Since Linux 6.10 (commit 46df8e73a4a3 "mm: free up PG_slab") it is a page type, whose value the
        kernel tells as that of a mapcount; before that it is a flag.
        """
        info = self.program["VMCOREINFO"].string_()
        match = re.search(rb"^NUMBER\(PAGE_SLAB_MAPCOUNT_VALUE\)=(-?\d+)$", info, re.MULTILINE)
        if match is None:
            bit = np.uint64(1 << int(self.program["PG_slab"]))
            return np.asarray((words[:, 0] & bit) != 0)
        at = member_offset(self.program.type("struct page"), "_mapcount")
        halves = words.view(np.int32).reshape(len(words), -1)
        return np.asarray(halves[:, at // 4] == int(match[1]))


class _Reader:
    """What is the same for all slabs of a cache: sizes, and how its list of free objects is hidden."""

    def __init__(self, slabs: Slabs, cache: drgn.Object) -> None:
        self.program = slabs.program
        self._slabs = slabs
        self._size = int(cache.size)
        self._next_at = int(cache.offset)
        self._pad = _member(cache, "red_left_pad") or 0
        self._random = _member(cache, "random")
        # Objects that fit into a slab are the low 16 bits of oo (OO_MASK in mm/slub.c).
        self._most = int(cache.oo.x) & 0xFFFF
        if (
            not 8 <= int(cache.object_size) <= self._size <= LARGEST_SLAB
            or self._most * self._size > LARGEST_SLAB
        ):
            raise ValueError("its objects have no sensible size")
        self._free = self._cpu_free(cache)

    def slab(self, address: int) -> Slab:
        slab = drgn.Object(self.program, self.program.pointer_type(self._slabs.type), value=address)
        count = int(slab.objects)
        if count > self._most:
            raise ValueError(f"{count} objects, where {self._most} fit")
        page = drgn.Object(self.program, "struct page *", value=address)
        start = int(page_to_virt(page)) + self._pad
        data = self.program.read(start, count * self._size)
        free = self._list(int(slab.freelist), data, start)
        offsets = range(0, count * self._size, self._size)
        taken = tuple(o for o in offsets if start + o not in free and start + o not in self._free)
        return Slab(start, data, self._size, taken)

    def _list(self, first: int, data: bytes, start: int) -> set[int]:
        """Return the free objects of a list that stays within one slab."""
        free: set[int] = set()
        place = first
        while place and place not in free:
            at = place - start + self._next_at
            if not 0 <= at <= len(data) - 8:
                break
            free.add(place)
            place = self._unhide(int.from_bytes(data[at : at + 8], "little"), place + self._next_at)
        return free

    def _unhide(self, value: int, at: int) -> int:
        """Undo CONFIG_SLAB_FREELIST_HARDENED: with swab() since Linux 5.7 (commit 1ad53d9fa3f6)."""
        if self._random is None:
            return value
        return value ^ self._random ^ int.from_bytes(at.to_bytes(8, "little"), "big")

    def _cpu_free(self, cache: drgn.Object) -> set[int]:
        """Return the free objects that CPUs keep for themselves.

        Up to Linux 6.19 in struct kmem_cache_cpu; in sheaves since 6.18 (commit 2d517aa09bbc).
        """
        free: set[int] = set()
        for cpu in for_each_online_cpu(self.program):
            if hasattr(cache, "cpu_slab"):
                first = int(per_cpu_ptr(cache.cpu_slab, cpu).freelist)
                free |= self._walk(first)
            if hasattr(cache, "cpu_sheaves") and cache.cpu_sheaves:
                sheaves = per_cpu_ptr(cache.cpu_sheaves, cpu)
                for sheaf in (sheaves.main, sheaves.spare):
                    if sheaf:
                        free.update(int(one) for one in sheaf.objects[: min(int(sheaf.size), MOST_OBJECTS)])
        return free

    def _walk(self, first: int) -> set[int]:
        free: set[int] = set()
        place = first
        while place and place not in free and len(free) < MOST_OBJECTS:
            free.add(place)
            at = place + self._next_at
            place = self._unhide(self.program.read_u64(at), at)
        return free


def _member(thing: drgn.Object, name: str) -> int | None:
    try:
        return int(thing.member_(name))
    except LookupError:
        return None
