"""kdump-compressed dumps that libkdumpfile does not take: flattened ones, and QEMU's with an empty utsname.

The formats are those of makedumpfile (its IMPLEMENTATION and diskdump_mod.h) and of QEMU's
include/sysemu/dump.h. Every offset and size in a file is checked before it is used.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import zstandard
from elftools.elf.constants import P_FLAGS

from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KDUMP_MAGICS = (b"KDUMP   ", b"DISKDUMP")
FLAT_MAGIC = b"makedumpfile"
FLAT_HEADER = 4096
"""Bytes before a flattened file's first record: signature, type and version, padded."""
FLAT_RECORD = struct.Struct(">qq")
"""Where the record's data belong and how many bytes they are; both -1 at the end."""

HEADER = struct.Struct("<424xIIIIII")
"""status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr, total_ram_blocks."""
SUB_HEADER = struct.Struct("<QIIQQQQQQ")
"""phys_base, dump_level, split, start_pfn, end_pfn, then offset and size of VMCOREINFO and of the notes."""
PAGE = struct.Struct("<QIIQ")
"""Where a page's data are, their size, how they are compressed, and the page's flags."""
ZLIB, LZO, SNAPPY, ZSTD = 0x1, 0x2, 0x4, 0x20

LARGEST_BLOCK = 1 << 16
LARGEST_PART = 1 << 30
"""Bytes of a bitmap, of the notes or of one flattened record; more is nonsense."""

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
ELF_SEGMENT = struct.Struct("<IIQQQQQQ")
PT_LOAD, PT_NOTE, ET_CORE, EM_X86_64 = 1, 4, 4, 62
MOST_SEGMENTS = 0xFFFE
PAGES_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class _Layout:
    block: int
    bitmap: int
    bitmap_size: int
    descriptors: int
    notes: tuple[int, int]


def unflatten(path: Path) -> tuple[IO[bytes], bool]:
    """Return a flattened dump put together, as an open file without a name, and whether it was whole.

    Raises UserError where its records make no sense, MachineryError where the disk is full.
    """
    out = _scratch(path)
    whole = False
    with path.open("rb") as file, _filled(out, f"{path}: can't be put together"):
        file.seek(FLAT_HEADER)
        while True:
            head = file.read(FLAT_RECORD.size)
            if len(head) < FLAT_RECORD.size:
                break
            offset, size = FLAT_RECORD.unpack(head)
            if offset == size == -1:
                whole = True
                break
            if not (0 <= offset < 1 << 62 and 0 <= size <= LARGEST_PART):
                raise UserError(f"{path}: not a flattened dump: a record of {size} bytes at {offset}")
            os.pwrite(out.fileno(), file.read(size), offset)
    return out, whole


def as_elf(file: IO[bytes], name: Path) -> tuple[IO[bytes], int]:
    """Return a kdump-compressed dump as an ELF dump, and how many of its pages can't be read.

    The file has no name; zero pages are holes of it, and so are pages that can't be read.

    Raises UserError where it is cut before its pages begin, or compressed in another way than by zlib or
    zstd, MachineryError where the disk is full.
    """
    layout = _layout(file, name)
    dumped = _part(file, layout.bitmap + layout.bitmap_size // 2, layout.bitmap_size // 2, name)
    notes = _part(file, *layout.notes, name)
    runs = list(_runs(dumped))[:MOST_SEGMENTS]
    out = _scratch(name)
    begin = ELF_HEADER.size + ELF_SEGMENT.size * (len(runs) + 1)
    data = _rounded(begin + len(notes), layout.block)
    segments = [ELF_SEGMENT.pack(PT_NOTE, 0, begin, 0, 0, len(notes), len(notes), 0)]
    flags = P_FLAGS.PF_R | P_FLAGS.PF_W
    at = data
    for first, count in runs:
        size = count * layout.block
        segments.append(ELF_SEGMENT.pack(PT_LOAD, flags, at, 0, first * layout.block, size, size, 0))
        at += size
    magic = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ELF_HEADER.pack(
        magic, ET_CORE, EM_X86_64, 1, 0, ELF_HEADER.size, 0, 0,
        ELF_HEADER.size, ELF_SEGMENT.size, len(segments), 0, 0, 0,
    )  # fmt: skip
    with _filled(out, f"{name}: can't be unpacked"):
        os.truncate(out.fileno(), at)
        os.pwrite(out.fileno(), head + b"".join(segments) + notes, 0)
        lost = wanted = sum(count for _, count in runs)
        for number, page in enumerate(_pages(file, layout, wanted, name)):
            lost -= page is not None
            if page:
                os.pwrite(out.fileno(), page, data + number * layout.block)
    return out, lost


def _scratch(path: Path) -> IO[bytes]:
    """Open a file that is gone when it is closed, beside the dump or, where that can't be, in /tmp."""
    try:
        return tempfile.TemporaryFile(dir=path.resolve().parent)
    except OSError:
        return tempfile.TemporaryFile()


@contextmanager
def _filled(out: IO[bytes], failed: str) -> Iterator[None]:
    """Close ``out`` where filling it fails; raises MachineryError, ``failed`` and why, for an OSError."""
    try:
        yield
    except OSError as error:
        out.close()
        raise MachineryError(f"{failed}: {error.strerror}") from error
    except UserError:
        out.close()
        raise


def _layout(file: IO[bytes], name: Path) -> _Layout:
    file.seek(0)
    head = file.read(HEADER.size)
    if not head.startswith(KDUMP_MAGICS) or len(head) < HEADER.size:
        raise UserError(f"{name}: no kdump-compressed dump", path=str(name))
    _, block, sub_blocks, bitmap_blocks, _, _ = HEADER.unpack(head)
    if not 512 <= block <= LARGEST_BLOCK or block & (block - 1) or sub_blocks > 1 << 16:
        raise UserError(f"{name}: a kdump-compressed dump with a spoilt header", path=str(name))
    *_, notes, notes_size = SUB_HEADER.unpack(_part(file, block, SUB_HEADER.size, name))
    bitmap = (1 + sub_blocks) * block
    return _Layout(
        block=block,
        bitmap=bitmap,
        bitmap_size=bitmap_blocks * block,
        descriptors=bitmap + bitmap_blocks * block,
        notes=(notes, notes_size),
    )


def _part(file: IO[bytes], offset: int, size: int, name: Path) -> bytes:
    """Return bytes that have to be there."""
    if size > LARGEST_PART or offset >= 1 << 62:
        raise UserError(f"{name}: a kdump-compressed dump with a spoilt header", path=str(name))
    data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise UserError(f"{name}: cut short, its head is missing", path=str(name))
    return data


def _runs(bitmap: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of pages that were dumped: the first one's number, and how many."""
    bits = "".join(f"{byte:08b}"[::-1] for byte in bitmap)
    at = bits.find("1")
    while at >= 0:
        end = bits.find("0", at)
        end = len(bits) if end < 0 else end
        yield at, end - at
        at = bits.find("1", end)


def _pages(file: IO[bytes], layout: _Layout, count: int, name: Path) -> Iterator[bytes | None]:
    """Yield the pages in order: one of zeros is empty, one that can't be read None."""
    zeros = bytes(layout.block)
    for start in range(0, count, PAGES_AT_ONCE):
        size = PAGE.size * min(PAGES_AT_ONCE, count - start)
        table = os.pread(file.fileno(), size, layout.descriptors + start * PAGE.size)
        table = table[: len(table) // PAGE.size * PAGE.size]
        last: tuple[int, bytes | None] = (-1, None)
        for offset, size, flags, _ in PAGE.iter_unpack(table):
            # All pages of zeros share one.
            if offset != last[0]:
                sound = size <= layout.block and offset < 1 << 62
                data = os.pread(file.fileno(), size, offset) if sound else b""
                last = (offset, _unpacked(data, flags, layout.block, name))
            yield b"" if last[1] == zeros else last[1]


def _unpacked(data: bytes, flags: int, block: int, name: Path) -> bytes | None:
    """Return a page's bytes, None where they are spoilt."""
    if flags & (LZO | SNAPPY):
        how = "lzo" if flags & LZO else "snappy"
        raise UserError(
            f"{name}: compressed by {how}, which can't be read in this form",
            hint="makedumpfile -d 0 -c packs it anew, by zlib",
        )
    try:
        if flags & ZLIB:
            data = zlib.decompressobj().decompress(data, block)
        elif flags & ZSTD:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=block)
    except (zlib.error, zstandard.ZstdError):
        return None
    return data if len(data) == block else None


def _rounded(size: int, to: int) -> int:
    return -(-size // to) * to
