"""What a binary is, apart from when, where and from which text it was built."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

from ktriage.errors import UserError

LEFT_OUT = (".note.gnu.build-id", ".note.Linux", ".BTF", ".gnu.linkonce.this_module")
MODINFO_LEFT_OUT = (b"srcversion=", b"vermagic=", b"version=")
NOT_CODE = (".notes", ".note.", ".BTF")
"""Sections of a vmlinux that say who and when, not what; by the beginning of their names."""

BUG_TABLE = "__bug_table"
BUG_ENTRY = np.dtype([("address", "<i4"), ("file", "<i4"), ("line", "<u2"), ("flags", "<u2")])
"""struct bug_entry with relative pointers and CONFIG_DEBUG_BUGVERBOSE (include/asm-generic/bug.h, v5.4 to
v6.12; x86 has relative pointers since v2.6.33)."""


def module_signature(module: Path) -> str:
    """Return a hash (64 hex digits) of what a relocatable module would do once loaded.

    That is its allocated sections and their relocations by symbol; build ids, version strings and the
    hash of the source text (``srcversion``) are left out. Raises UserError where the file is not ELF.
    """
    total = hashlib.sha256()
    try:
        with module.open("rb") as file:
            elf = ELFFile(file)
            allocated = {}
            for index, section in enumerate(elf.iter_sections()):
                if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section.name not in LEFT_OUT:
                    allocated[index] = section.name
                    _add(total, section.name.encode(), _content(section))
            for section in elf.iter_sections():
                if isinstance(section, RelocationSection) and section["sh_info"] in allocated:
                    _add(total, section.name.encode(), _relocations(elf, section))
    except (ELFError, OSError, struct.error) as error:
        raise UserError(f"{module} is no module: {error}") from error
    return total.hexdigest()


def image_signature(vmlinux: Path, release: str = "") -> str:
    """Return a hash (64 hex digits) of what a vmlinux is once loaded: its allocated sections.

    Build ids, BTF, the line numbers of WARN and BUG and, where given, the kernel's release are left out;
    user, host, time and build number were fixed when it was built. Raises UserError where it is not ELF.
    """
    total = hashlib.sha256()
    name = release.encode()
    try:
        with vmlinux.open("rb") as file:
            elf = ELFFile(file)
            for section in elf.iter_sections():
                if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or section.name.startswith(NOT_CODE):
                    continue
                data = b"" if section["sh_type"] == "SHT_NOBITS" else section.data()
                if section.name == BUG_TABLE:
                    data = _without_lines(data, section["sh_addr"], _text(elf))
                if name and section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR == 0:
                    data = data.replace(name, bytes(len(name)))
                total.update(struct.pack("<Q", section["sh_size"]))
                _add(total, section.name.encode(), data)
    except (ELFError, OSError, struct.error) as error:
        raise UserError(f"{vmlinux} is no kernel: {error}") from error
    return total.hexdigest()


def _text(elf: ELFFile) -> tuple[int, int]:
    """Return where a vmlinux's code lies: from the lowest to the highest address of executable sections."""
    code = [s for s in elf.iter_sections() if s["sh_flags"] & SH_FLAGS.SHF_EXECINSTR]
    return min(s["sh_addr"] for s in code), max(s["sh_addr"] + s["sh_size"] for s in code)


def _without_lines(data: bytes, address: int, text: tuple[int, int]) -> bytes:
    """Return a bug table with its line numbers at 0; as it is where it is not of the form that we know."""
    if not data or len(data) % BUG_ENTRY.itemsize:
        return data
    entries = np.frombuffer(data, BUG_ENTRY).copy()
    at = np.uint64(address) + np.arange(len(entries), dtype=np.uint64) * np.uint64(BUG_ENTRY.itemsize)
    bugs = at + entries["address"].astype(np.int64).astype(np.uint64)
    if not ((bugs >= np.uint64(text[0])) & (bugs < np.uint64(text[1]))).all():
        return data
    entries["line"] = 0
    return entries.tobytes()


def _add(total: hashlib._Hash, name: bytes, content: bytes) -> None:
    total.update(struct.pack("<II", len(name), len(content)) + name + content)


def _content(section: Section) -> bytes:
    if section["sh_type"] == "SHT_NOBITS":
        return str(section["sh_size"]).encode()
    data: bytes = section.data()
    if section.name != ".modinfo":
        return data
    return b"\0".join(entry for entry in data.split(b"\0") if not entry.startswith(MODINFO_LEFT_OUT))


def _relocations(elf: ELFFile, section: RelocationSection) -> bytes:
    symbols = elf.get_section(section["sh_link"])
    if not isinstance(symbols, SymbolTableSection):
        raise ELFError(f"{section.name} has no symbol table")
    parts = []
    for entry in section.iter_relocations():
        symbol = symbols.get_symbol(entry["r_info_sym"])
        where = symbol["st_shndx"]
        name = symbol.name or (elf.get_section(where).name if isinstance(where, int) else str(where))
        parts.append(f"{entry['r_offset']} {entry['r_info_type']} {name} {entry.entry.get('r_addend', 0)}")
    return "\n".join(parts).encode()
