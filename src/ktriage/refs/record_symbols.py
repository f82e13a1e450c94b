"""Addresses to symbols, for a guest whose modules come and go while it records."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

LAST_SIZE = 4096
"""How long the last function of all is taken to be: no symbol follows it."""

SYMBOL = re.compile(rb"^([0-9a-f]{8,16}) (.) (\S+?)(?:\t\[(\S+)\])?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Table:
    """Functions in the order of their addresses, with their sizes in bytes."""

    starts: list[int]
    sizes: list[int]
    names: list[str]

    def find(self, address: int) -> tuple[str, int, int] | None:
        """Return the name, the offset and the size of the function at ``address``, None outside of all."""
        at = bisect_right(self.starts, address) - 1
        if at < 0 or address - self.starts[at] > self.sizes[at]:
            return None
        return self.names[at], address - self.starts[at], self.sizes[at]


def _table(functions: Iterable[tuple[int, int, str]]) -> Table:
    rows = sorted(functions)
    return Table([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def read_kallsyms(text: bytes) -> tuple[dict[str, int], dict[str | None, Table]]:
    """Read /proc/kallsyms: the kernel's addresses by name, and functions by module (None: the kernel).

    A function reaches to the next symbol, as the kernel itself has it (kernel/kallsyms.c).
    """
    values: dict[str, int] = {}
    rows: dict[str | None, list[tuple[int, str]]] = {}
    for address, kind, name, module in SYMBOL.findall(text):
        where = module.decode() or None
        if where is None:
            values.setdefault(name.decode(), int(address, 16))
        if kind in b"tTwW":
            rows.setdefault(where, []).append((int(address, 16), name.decode()))
    tables = {}
    for where, found in rows.items():
        found.sort()
        firsts = [row for at, row in enumerate(found) if not at or found[at - 1][0] != row[0]]
        ends = [row[0] for row in firsts[1:]] + [firsts[-1][0] + LAST_SIZE]
        tables[where] = _table(
            (start, end - start, name) for (start, name), end in zip(firsts, ends, strict=True)
        )
    return values, tables


def module_table(content: bytes, sections: dict[str, int]) -> Table | None:
    """Return the functions of a module file that was loaded at ``sections``; None if it is none."""
    try:
        elf = ELFFile(io.BytesIO(content))
        symbols = elf.get_section_by_name(".symtab")
        if not isinstance(symbols, SymbolTableSection):
            return None
        names = [section.name for section in elf.iter_sections()]
        rows = []
        for symbol in symbols.iter_symbols():
            index = symbol["st_shndx"]
            base = sections.get(names[index]) if isinstance(index, int) and index < len(names) else None
            if base is not None and symbol["st_info"]["type"] == "STT_FUNC":
                rows.append((base + symbol["st_value"], symbol["st_size"], symbol.name))
    except ELFError:
        return None
    return _table(rows)


def sections_at(content: bytes, text: int, init: int) -> dict[str, int]:
    """Return where the sections of a module file with code in them were put, by where its code begins.

    They follow each other as in the file, and so do those of init (layout_sections(), module/main.c).
    """
    places, ends = {}, {False: text, True: init}
    try:
        for section in ELFFile(io.BytesIO(content)).iter_sections():
            flags = SH_FLAGS.SHF_ALLOC | SH_FLAGS.SHF_EXECINSTR
            if section["sh_flags"] & flags != flags:
                continue
            first = section.name.startswith(".init")
            align = max(section["sh_addralign"], 1)
            places[section.name] = -(-ends[first] // align) * align
            ends[first] = places[section.name] + section["sh_size"]
    except ELFError:
        return {}
    return places


@dataclass(slots=True)
class Symbols:
    """What stands at an address, at the present point of a trace.

    ``tables`` are those of the modules that are loaded. ``loads`` holds, for each module, where its sections
    were put at its first load in the trace, its second, and so on; ``files`` its file.
    """

    kernel: Table
    tables: dict[str, Table] = field(default_factory=dict)
    loads: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    _known: dict[int, str] = field(default_factory=dict)
    _count: dict[str, int] = field(default_factory=dict)

    def load(self, name: str) -> None:
        """Take notice that a module was loaded."""
        number = self._count.get(name, 0)
        self._count[name] = number + 1
        places = self.loads.get(name, [])
        if number < len(places) and name in self.files:
            self._stands(name, places[number])

    def put(self, name: str, text: int, init: int) -> None:
        """Take notice of where a module has its code, and its init's."""
        if name in self.files:
            self._stands(name, sections_at(self.files[name], text, init))

    def _stands(self, name: str, places: dict[str, int]) -> None:
        table = module_table(self.files[name], places)
        if table is not None:
            # The last to come is the one that stands where two would.
            self.tables.pop(name, None)
            self.tables[name] = table
            self._known.clear()

    def name(self, address: int, *, offset: bool = True) -> str:
        """Return an address as the kernel prints it: ``%pS``, or ``%ps`` without ``offset``."""
        key = address << 1 | offset
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._name(address, offset)
        return found

    def _name(self, address: int, offset: bool) -> str:
        where, hit = None, self.kernel.find(address)
        if hit is None or hit[2] >= 1 << 20:
            for module, table in reversed(self.tables.items()):
                if inside := table.find(address):
                    where, hit = module, inside
                    break
            else:
                return f"0x{address:016x}"
        text = f"{hit[0]}+0x{hit[1]:x}/0x{hit[2]:x}" if offset else hit[0]
        return f"{text} [{where}]" if where else text
