"""Kernel and modules loaded into drgn without a running kernel or a core.

The files say where they want to be: a vmlinux is linked to fixed addresses (what KASLR adds does not
matter where only offsets into functions are asked for); a module is relocatable and gets made-up
addresses, section by section. drgn wants to know the ranges before it is given the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import drgn
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

MODULES_BASE = 0xFFFFFFFF_D0000000
"""Where made-up addresses of modules begin: above every vmlinux, so that nothing overlaps."""
MODULE_STEP = 0x1000000
BANNER = b"Linux version "
"""What ``linux_banner`` begins with (init/version.c); the release follows."""
MOST_OF_BANNER = 256
MODULE_SUFFIXES = (".ko", ".ko.debug")
_ALLOC, _EXEC = 2, 4

_ARCHITECTURES = {
    "EM_X86_64": drgn.Architecture.X86_64,
    "EM_AARCH64": drgn.Architecture.AARCH64,
    "EM_RISCV": drgn.Architecture.RISCV64,
    "EM_PPC64": drgn.Architecture.PPC64,
    "EM_S390": drgn.Architecture.S390X,
    "EM_386": drgn.Architecture.I386,
    "EM_ARM": drgn.Architecture.ARM,
}


@dataclass(frozen=True, slots=True)
class ElfLayout:
    """What has to be known of an ELF file before drgn gets it.

    ``loads`` are its segments with an address, ``contents`` where their bytes are: (address, offset in the
    file, bytes there). ``sections`` are name, size and alignment of what is loaded, ``text`` the executable
    sections' (name, start, end) as linked.
    """

    path: Path
    platform: drgn.Platform
    build_id: str | None
    loads: tuple[tuple[int, int], ...]
    contents: tuple[tuple[int, int, int], ...]
    sections: tuple[tuple[str, int, int], ...]
    text: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file within a program: where its code went, as (start, end) of each executable section."""

    layout: ElfLayout
    text: tuple[tuple[int, int], ...]

    def section_end(self, address: int) -> int | None:
        """Return the end of the executable section that holds ``address``, None where none does."""
        return next((end for start, end in self.text if start <= address < end), None)


def read_layout(path: Path) -> ElfLayout:
    """Read an ELF file's headers.

    Raises UserError where it is missing, not ELF, cut short, or of a machine that is not known.
    """
    try:
        with path.open("rb") as file:
            return _layout(path, ELFFile(file))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", path=str(path)) from None
    except IsADirectoryError:
        raise UserError(f"{path}: a directory, not a file", path=str(path)) from None
    # pyelftools lets errors of its parser and of decoding through on files that are cut or spoilt.
    except (ELFError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not an ELF file with symbols", path=str(path)) from error


def _layout(path: Path, elf: ELFFile) -> ElfLayout:
    machine = elf["e_machine"]
    if machine not in _ARCHITECTURES:
        raise UserError(f"{path}: files for {machine} can't be read", path=str(path))
    flags = drgn.PlatformFlags(0)
    if elf.little_endian:
        flags |= drgn.PlatformFlags.IS_LITTLE_ENDIAN
    if elf.elfclass == 64:
        flags |= drgn.PlatformFlags.IS_64_BIT
    segments = list(elf.iter_segments("PT_LOAD"))
    loads = [(s["p_vaddr"], s["p_vaddr"] + s["p_memsz"]) for s in segments]
    alloc = [s for s in elf.iter_sections() if s["sh_flags"] & _ALLOC and s["sh_size"]]
    return ElfLayout(
        path=path,
        platform=drgn.Platform(_ARCHITECTURES[machine], flags),
        build_id=_build_id(elf),
        # x86 links its per-cpu segment to address 0.
        loads=tuple(load for load in loads if load[0]),
        contents=tuple((s["p_vaddr"], s["p_offset"], s["p_filesz"]) for s in segments),
        sections=tuple((s.name, s["sh_size"], s["sh_addralign"]) for s in alloc),
        text=tuple(
            (s.name, s["sh_addr"], s["sh_addr"] + s["sh_size"]) for s in alloc if s["sh_flags"] & _EXEC
        ),
    )


def _build_id(elf: ELFFile) -> str | None:
    for name in (".note.gnu.build-id", ".notes"):
        section = elf.get_section_by_name(name)
        if not isinstance(section, NoteSection):
            continue
        for note in section.iter_notes():
            # Xen's notes in a vmlinux use the same number.
            if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_BUILD_ID":
                return str(note["n_desc"])
    return None


class DebugFiles:
    """A kernel and modules in one drgn program that has no memory: only symbols and lines.

    Raises UserError where ``vmlinux`` can't be used. Modules are loaded as they are asked for, from
    ``modules``: files or directories, which are searched whole.
    """

    def __init__(self, vmlinux: Path | None, modules: Iterable[Path] = ()) -> None:
        self._found: dict[str, Path] | None = None
        self._places = tuple(modules)
        self._loaded: dict[str | None, Loaded | None] = {None: None}
        self.unusable: dict[str, str] = {}
        layout = read_layout(vmlinux) if vmlinux else None
        self.program: drgn.Program = drgn.Program(layout.platform if layout else drgn.host_platform)
        # Only what is named gets loaded: no search of this machine, no download.
        self.program.set_enabled_debug_info_finders([])
        if layout:
            self._loaded[None] = self._load_kernel(layout)

    def loaded(self, module: str | None) -> Loaded | None:
        """Return where a module (or None: the kernel) was loaded; None where there is no file for it."""
        if module not in self._loaded:
            assert module is not None
            self._loaded[module] = self._load_module(module)
        return self._loaded[module]

    @cached_property
    def release(self) -> str | None:
        """The release that the kernel's ``linux_banner`` says; None where the file has not got it."""
        kernel = self._loaded[None]
        if kernel is None:
            return None
        for symbol in self.program.symbols("linux_banner"):
            banner = _bytes_at(kernel.layout, symbol.address, MOST_OF_BANNER).partition(b"\0")[0]
            words = banner.removeprefix(BANNER).split(maxsplit=1)
            if banner.startswith(BANNER) and words:
                return words[0].decode("ascii", "replace")
        return None

    def _load_kernel(self, layout: ElfLayout) -> Loaded:
        if not layout.loads:
            raise UserError(f"{layout.path}: not a linked kernel", path=str(layout.path))
        module = self.program.extra_module("vmlinux", create=True)
        # More than one range, or one that starts where the file does, makes drgn leave addresses as linked.
        module.address_ranges = list(layout.loads)
        module.try_file(layout.path, force=True)
        self._check(module, layout)
        return Loaded(layout, tuple((start, end) for _, start, end in layout.text))

    def _check(self, module: drgn.Module, layout: ElfLayout) -> None:
        if module.wants_debug_file():
            raise UserError(
                f"{layout.path}: no debug information in it",
                hint="a -dbg or -debuginfo package has the vmlinux that is meant",
                path=str(layout.path),
            )

    def _load_module(self, name: str) -> Loaded | None:
        path = self._files().get(name.replace("-", "_"))
        if path is None:
            return None
        try:
            layout = read_layout(path)
            base = MODULES_BASE + MODULE_STEP * (len(self._loaded) - 1)
            module = self.program.relocatable_module(name, base, create=True)
            text, address = [], base
            for section, size, align in layout.sections:
                address += -address % max(align, 16)
                module.section_addresses[section] = address
                if any(section == executable for executable, _, _ in layout.text):
                    text.append((address, address + size))
                address += size
            module.address_ranges = [(base, address)]
            module.try_file(path, force=True)
            self._check(module, layout)
        except UserError as error:
            self.unusable[name] = error.message
            return None
        return Loaded(layout, tuple(text))

    def _files(self) -> dict[str, Path]:
        if self._found is None:
            self._found = find_modules(self._places)
        return self._found


def _bytes_at(layout: ElfLayout, address: int, most: int) -> bytes:
    """Return up to ``most`` bytes that an address is loaded with; none where the file leaves them out."""
    for start, offset, size in layout.contents:
        if start <= address < start + size:
            with layout.path.open("rb") as file:
                file.seek(offset + address - start)
                return file.read(min(most, start + size - address))
    return b""


def find_modules(places: Iterable[Path]) -> dict[str, Path]:
    """Return module files by name (``-`` read as ``_``, as the kernel does); the first place wins.

    A place is a module file or a directory. Raises UserError where it does not exist.
    """
    found: dict[str, Path] = {}
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or directory", path=str(place))
        for path in _module_files(place):
            found.setdefault(path.name.partition(".ko")[0].replace("-", "_"), path)
    return found


def _module_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [
        Path(folder, name)
        for folder, _, names in os.walk(place)
        for name in names
        if name.endswith(MODULE_SUFFIXES)
    ]
