"""Opens a vmcore in drgn with the debug information that is named, and none that is not."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import drgn
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ktriage.errors import UserError
from ktriage.symbols.program import find_modules, read_layout

if TYPE_CHECKING:
    from collections.abc import Iterable

# What it warns of is found again, and noted, where it matters.
logging.getLogger("drgn").setLevel(logging.CRITICAL)

DEBUG_ROOT = Path("/usr/lib/debug")
"""Where distributions' packages put debug information."""
BROKEN = (drgn.FaultError, LookupError, ValueError, OverflowError, MemoryError)
"""What drgn raises where memory holds nonsense: no such page, no such name, a length of terabytes."""
KDUMP_MAGICS = (b"KDUMP   ", b"DISKDUMP", b"makedumpfile")


@dataclass(slots=True)
class Vmcore:
    """An opened dump. ``notes`` says what is not as one would wish: cut short, a module's file missing."""

    path: Path
    program: drgn.Program
    release: str
    build_id: str | None
    notes: list[str] = field(default_factory=list)


def open_vmcore(
    path: Path, vmlinux: Path | None = None, modules: Path | Iterable[Path] | None = None
) -> Vmcore:
    """Open a dump with the debug information of its kernel and modules.

    ``path`` is an ELF dump (QEMU's dump-guest-memory with a vmcoreinfo device, or kdump's) or a
    kdump-compressed one. ``vmlinux`` may be left out where a package with it is installed under
    /usr/lib/debug. ``modules`` are files or directories of modules with debug information; those whose
    build id is not that of the loaded module are noted, not used.

    Raises UserError where the dump is missing, of another form or cut before its memory begins, and
    where ``vmlinux`` is missing or of another kernel, saying which package has the right one.
    """
    core = _open(path)
    kernel = vmlinux or _installed(core.release)
    if kernel is None:
        raise UserError(
            f"{path}: no vmlinux with debug information for Linux {core.release}",
            hint=_package_hint(core.release),
            path=str(path),
            release=core.release,
        )
    loaded = iter(core.program.loaded_modules())
    _load_kernel(core, next(loaded)[0], kernel)
    places = () if modules is None else (modules,) if isinstance(modules, Path) else tuple(modules)
    files = find_modules([*places, *_installed_modules(core.release)])
    try:
        for module, _ in loaded:
            _load_module(core, module, files)
    except BROKEN as error:
        core.notes.append(
            f"the list of modules can't be read to its end: {str(error) or type(error).__name__}"
        )
    return core


def _open(path: Path) -> Vmcore:
    note = _check_file(path)
    program = drgn.Program()
    # Only what is named is used: no search by drgn, no download.
    program.set_enabled_debug_info_finders([])
    try:
        program.set_core_dump(path)
        info = program["VMCOREINFO"].string_().decode(errors="replace")
    except (ValueError, LookupError, drgn.FaultError, OSError) as error:
        raise UserError(f"{path}: not a dump of a Linux kernel: {error}", path=str(path)) from error
    release = re.search(r"^OSRELEASE=(.+)$", info, re.MULTILINE)
    build_id = re.search(r"^BUILD-ID=([0-9a-f]+)$", info, re.MULTILINE)
    return Vmcore(
        path=path,
        program=program,
        release=release[1] if release else "unknown",
        build_id=build_id[1] if build_id else None,
        notes=[note] if note else [],
    )


def _check_file(path: Path) -> str | None:
    """Return a note where an ELF dump is cut short; raise UserError where it is no dump or has no notes."""
    try:
        with path.open("rb") as file:
            magic = file.read(12)
            if magic.startswith(KDUMP_MAGICS):
                return None
            size = path.stat().st_size
            segments = [(s["p_type"], s["p_offset"] + s["p_filesz"]) for s in ELFFile(file).iter_segments()]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", path=str(path)) from None
    except IsADirectoryError:
        raise UserError(f"{path}: a directory, not a dump", path=str(path)) from None
    # pyelftools lets errors of its parser through on files that are cut or spoilt.
    except (ELFError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: neither an ELF nor a kdump-compressed dump", path=str(path)) from error
    if any(kind == "PT_NOTE" and end > size for kind, end in segments) or not segments:
        raise UserError(f"{path}: cut short, its notes are missing", path=str(path))
    missing = max(end for _, end in segments) - size
    return f"the dump is cut short: {missing:,} bytes are missing" if missing > 0 else None


def _installed(release: str) -> Path | None:
    """Return the vmlinux that a distribution's debug package has installed, or None."""
    places = (
        DEBUG_ROOT / "boot" / f"vmlinux-{release}",
        DEBUG_ROOT / "lib/modules" / release / "vmlinux",
        Path("/lib/modules") / release / "build/vmlinux",
    )
    return next((place for place in places if place.is_file()), None)


def _installed_modules(release: str) -> list[Path]:
    place = DEBUG_ROOT / "lib/modules" / release
    return [place] if place.is_dir() else []


def _package_hint(release: str) -> str:
    return f"Debian: apt-get install linux-image-{release}-dbg; others: the debuginfo package of the kernel"


def _load_kernel(core: Vmcore, module: drgn.Module, vmlinux: Path) -> None:
    layout = read_layout(vmlinux)
    if core.build_id and layout.build_id and core.build_id != layout.build_id:
        raise UserError(
            f"{vmlinux}: not the kernel of {core.path}: build id {layout.build_id}, not {core.build_id}",
            hint=f"the dump is of Linux {core.release}. {_package_hint(core.release)}",
        )
    module.try_file(vmlinux, force=not layout.build_id)
    if module.wants_debug_file():
        raise UserError(f"{vmlinux}: no debug information in it", hint=_package_hint(core.release))


def _load_module(core: Vmcore, module: drgn.Module, files: dict[str, Path]) -> None:
    path = files.get(module.name.replace("-", "_"))
    if path is None:
        return
    layout = read_layout(path)
    build_id = module.build_id.hex() if module.build_id else None
    if build_id and layout.build_id and build_id != layout.build_id:
        core.notes.append(f"{path}: not the {module.name} that was loaded: its build id is another")
        return
    module.try_file(path)
    if module.wants_debug_file():
        core.notes.append(f"{path}: no debug information in it")
