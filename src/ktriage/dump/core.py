"""Opens a vmcore in drgn with the debug information that is named, and none that is not."""

from __future__ import annotations

import json
import logging
import mmap
import re
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import drgn
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ktriage.dump import kdump
from ktriage.dump.debuginfo import find_vmlinux, installed_modules, package_hint
from ktriage.errors import UserError
from ktriage.symbols.program import find_modules, read_layout

if TYPE_CHECKING:
    from collections.abc import Iterable

# What it warns of is found again, and noted, where it matters.
logging.getLogger("drgn").setLevel(logging.CRITICAL)

BROKEN = (drgn.FaultError, LookupError, ValueError, OverflowError, MemoryError)
"""What drgn raises where memory holds nonsense: no such page, no such name, a length of terabytes."""
VMCOREINFO_BYTES = 4096
QMP_SECONDS = 10.0


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

    ``path`` is an ELF dump or a kdump-compressed one, flattened or not, of kdump or QEMU; where it says
    nothing of its kernel (QEMU without a vmcoreinfo device), the kernel's own note is looked for in memory.
    The QMP socket of a QEMU guest, best of one that is stopped, is read like a dump. ``vmlinux`` is a file
    or a build directory; it may be left out where a package with it is installed under /usr/lib/debug or
    debuginfod has it. ``modules`` are files or directories of modules with debug information; those whose
    build id is not that of the loaded module are noted, not used.

    Raises UserError where the dump is missing, of another form or cut before its memory begins, and
    where ``vmlinux`` is missing or of another kernel, saying which package has the right one.
    """
    core = _open(path)
    try:
        kernel = find_vmlinux(vmlinux, core.release, core.build_id)
    except UserError as error:
        raise UserError(f"{path}: {error.message}", hint=error.hint, path=str(path)) from None
    loaded = iter(core.program.loaded_modules())
    _load_kernel(core, next(loaded)[0], kernel)
    places = () if modules is None else (modules,) if isinstance(modules, Path) else tuple(modules)
    if vmlinux is not None and vmlinux.is_dir():
        places = (*places, vmlinux)
    files = find_modules([*places, *installed_modules(core.release)])
    try:
        for module, _ in loaded:
            _load_module(core, module, files)
    except BROKEN as error:
        core.notes.append(
            f"the list of modules can't be read to its end: {str(error) or type(error).__name__}"
        )
    return core


def _open(path: Path) -> Vmcore:
    if path.is_socket():
        return _guest(path)
    note = _check_file(path)
    notes = [note] if note else []
    with ExitStack() as files:
        place, magic = path, _magic(path)
        if magic.startswith(kdump.FLAT_MAGIC):
            file, whole = kdump.unflatten(path)
            place = _name(files.enter_context(file))
            notes += [] if whole else ["the dump is cut short"]
        if magic.startswith((kdump.FLAT_MAGIC, *kdump.KDUMP_MAGICS)):
            program = _opened(place)
            if program is None:
                with place.open("rb") as packed:
                    file, lost = kdump.as_elf(packed, path)
                place = _name(files.enter_context(file))
                notes += [f"{lost:,} pages of the dump can't be read and count as zeros"] if lost else []
                program = _opened(place)
        else:
            program = _opened(place)
        if program is None:
            info = find_vmcoreinfo(place)
            if info is None:
                raise UserError(f"{path}: not a dump of a Linux kernel: no VMCOREINFO in it", path=str(path))
            notes.append("the dump says nothing of its kernel: its VMCOREINFO was found in memory")
            program = _opened(place, info)
        if program is None:
            raise UserError(f"{path}: not a dump of a Linux kernel", path=str(path))
        return _vmcore(path, program, notes)


def _guest(path: Path) -> Vmcore:
    """Open a guest by its QMP socket: drgn reads QEMU's memory, so that nothing has to be copied."""
    program = drgn.Program()
    program.set_enabled_debug_info_finders([])
    try:
        running = qemu_runs(path)
        program.set_qemu_qmp(f"./{path}" if ":" in str(path) and not path.is_absolute() else str(path))
        program["VMCOREINFO"]
    except (OSError, ValueError, LookupError, drgn.FaultError) as error:
        raise UserError(
            f"{path}: no Linux guest can be read there: {error}",
            hint="QEMU needs -qmp unix:SOCKET,server=on,wait=off and -device vmcoreinfo, "
            "and nobody else may be connected",
            path=str(path),
        ) from error
    notes = ["the guest was running while it was read: `stop` it for a picture that fits"] if running else []
    return _vmcore(path, program, notes)


def qemu_runs(path: Path) -> bool:
    """Ask a QEMU by its QMP socket whether its guest runs; raises OSError, ValueError or LookupError."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as stream:
        connection.settimeout(QMP_SECONDS)
        connection.connect(str(path))
        stream.readline()
        for command in ("qmp_capabilities", "query-status"):
            stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            answer = {}
            while "return" not in answer and "error" not in answer:
                answer = json.loads(stream.readline())
        return bool(answer["return"]["running"])


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _name(file: IO[bytes]) -> Path:
    """Return a name by which an open file without one can be opened."""
    return Path(f"/proc/self/fd/{file.fileno()}")


def _opened(path: Path, info: bytes | None = None) -> drgn.Program | None:
    """Return the dump opened with what it says of itself, or with ``info``; None where that won't do."""
    program = drgn.Program(vmcoreinfo=info)
    # Only what is named is used: no search by drgn, no download.
    program.set_enabled_debug_info_finders([])
    try:
        program.set_core_dump(path)
        program["VMCOREINFO"]
    except Exception:  # noqa: BLE001 (drgn raises errors of libkdumpfile as plain Exception)
        return None
    return program


def _vmcore(path: Path, program: drgn.Program, notes: list[str]) -> Vmcore:
    info = program["VMCOREINFO"].string_().decode(errors="replace")
    release = re.search(r"^OSRELEASE=(.+)$", info, re.MULTILINE)
    build_id = re.search(r"^BUILD-ID=([0-9a-f]+)$", info, re.MULTILINE)
    return Vmcore(
        path=path,
        program=program,
        release=release[1] if release else "unknown",
        build_id=build_id[1] if build_id else None,
        notes=notes,
    )


def find_vmcoreinfo(path: Path) -> bytes | None:
    """Return the VMCOREINFO found by searching an uncompressed dump's memory, or None.

    The kernel keeps it in a page of its own, text that begins with ``OSRELEASE=`` and has a line
    ``SYMBOL(swapper_pg_dir)`` (``crash_save_vmcoreinfo_init()``, kernel/crash_core.c, v6.1). A note that the
    dump itself carries is found, too. Of several the longest is taken: an older one is of a kernel before.
    """
    best = b""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        at = memory.find(b"OSRELEASE=")
        while at >= 0:
            text = memory[at : at + VMCOREINFO_BYTES].split(b"\0", 1)[0]
            # Memory may follow a note without a NUL between; each line of it ends in a newline.
            text = text[: text.rfind(b"\n") + 1]
            if b"\nSYMBOL(swapper_pg_dir)=" in text and len(text) > len(best):
                best = text
            at = memory.find(b"OSRELEASE=", at + 1)
    return best or None


def _check_file(path: Path) -> str | None:
    """Return a note where an ELF dump is cut short; raise UserError where it is no dump or has no notes."""
    try:
        with path.open("rb") as file:
            magic = file.read(12)
            if magic.startswith((kdump.FLAT_MAGIC, *kdump.KDUMP_MAGICS)):
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


def _load_kernel(core: Vmcore, module: drgn.Module, vmlinux: Path) -> None:
    layout = read_layout(vmlinux)
    if core.build_id and layout.build_id and core.build_id != layout.build_id:
        raise UserError(
            f"{vmlinux}: not the kernel of {core.path}: build id {layout.build_id}, not {core.build_id}",
            hint=f"the dump is of Linux {core.release}. {package_hint(core.release)}",
        )
    module.try_file(vmlinux, force=not layout.build_id)
    if module.wants_debug_file():
        raise UserError(f"{vmlinux}: no debug information in it", hint=package_hint(core.release))


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
