"""Guests whose modules are in use, and whose memory is then audited."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ktriage.case.modules import parse_modules
from ktriage.dump.audit import Audit, ModuleAudit, audit
from ktriage.dump.core import open_vmcore
from ktriage.kernel import FolderSources, Kernel, build_module
from ktriage.machine import End, GuestSpec, Plan, Program, prepare, run

HERE = Path(__file__).parent
USES = Program(HERE / "programs" / "uses.c")


@dataclass(frozen=True)
class Case:
    """A guest's memory, its audit, and what /proc/modules said before it was dumped."""

    vmcore: Path
    kernel: Kernel
    audit: Audit
    notes: list[str]
    counts: dict[str, int]
    modules: tuple[Path, ...]
    output: str

    def module(self, name: str) -> ModuleAudit:
        """Return the audit of one module."""
        return next(one for one in self.audit.modules if one.module == name)

    def kinds(self, name: str) -> dict[str, int]:
        """Return how many references to a module were found, by kind."""
        found: dict[str, int] = {}
        for holder in self.module(name).holders:
            found[holder.kind] = found.get(holder.kind, 0) + holder.count
        return found

    def uneven(self) -> set[tuple[str, str, str, int]]:
        """Return kind, name, verdict and what is unaccounted for of all objects that are told of."""
        return {
            (one.kind, one.name, one.verdict, one.count - one.accounted)
            for census in self.audit.objects
            for one in census.found
            if one.verdict != "busy"
        }


def module_folder(kernel: Kernel) -> Path:
    """Return the folder of the kernel's modules with debug information, beside its vmlinux."""
    assert kernel.vmlinux
    return kernel.vmlinux.parents[1] / "lib" / "modules" / kernel.release


def built(kernel: Kernel, name: str) -> Path:
    """Return the module ``name`` of tests/modules, built for ``kernel``."""
    build = build_module(FolderSources(HERE.parent / "modules" / name), kernel=kernel, name=name)
    assert build.module, build.error
    return build.module


def programs_of_the_host(*names: str) -> dict[str, bytes | Path]:
    """Return files for a guest: programs of this machine in /usr/host, and the libraries they need."""
    files: dict[str, bytes | Path] = {}
    for name in names:
        program = Path(shutil.which(name) or "").resolve()
        files[f"usr/host/{name}"] = program
        said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+)", said):
            files[library.lstrip("/")] = Path(library).resolve()
    return files


def audited(
    kernel: Kernel,
    folder: Path,
    drivers: str,
    commands: list[str],
    *,
    module: str | None = None,
    files: dict[str, bytes | Path] | None = None,
    memory_mib: int = 384,
) -> Case:
    """Run the commands in a guest with the kernel's modules ``drivers``, dump its memory and audit it.

    ``module`` is one of tests/modules: it is /MODULE.ko in the guest. Every command must end with 0.
    """
    guest = prepare(
        GuestSpec(
            kernel.image,
            kernel.modules,
            drivers=tuple(drivers.split()),
            programs=(USES,),
            memory_mib=memory_mib,
        )
    )
    brought = dict(files or {})
    places = [module_folder(kernel)]
    if module is not None:
        file = built(kernel, module)
        places.append(file)
        brought[f"{module}.ko"] = file
    lines = []
    for number, command in enumerate(commands):
        brought[f"ktriage/step-{number}"] = f"set -e\n{command}\n".encode()
        lines.append(f"step step-{number}")
    lines.append("file modules /proc/modules")
    left = run(guest, Plan(tuple(lines), brought), folder, timeout=120, vmcore=lambda _: True)
    output = (folder / "output.log").read_text(errors="replace")
    assert left.end is End.DONE, (left.detail, output)
    failed = [commands[n] for n, step in enumerate(left.steps) if step.code != 0]
    assert not failed, (failed, output)
    assert left.vmcore
    core = open_vmcore(left.vmcore, kernel.vmlinux, places)
    found = audit(core)
    counts = {name: int(count) for name, (count, _) in parse_modules(left.files["modules"].decode()).items()}
    return Case(left.vmcore, kernel, found, core.notes, counts, tuple(places), output)
