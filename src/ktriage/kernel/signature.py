"""What a binary is, apart from when, where and from which text it was built."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

from ktriage.errors import UserError

LEFT_OUT = (".note.gnu.build-id", ".note.Linux", ".BTF", ".gnu.linkonce.this_module")
MODINFO_LEFT_OUT = (b"srcversion=", b"vermagic=", b"version=")


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
