"""Guests whose memory is dumped: a module of ours, some commands, and the dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ktriage.dump import Vmcore, open_vmcore
from ktriage.kernel import FolderSources, Kernel, build_module
from ktriage.machine import End, Guest, Plan, run

MODULES = Path(__file__).parents[1] / "modules"


@dataclass(frozen=True)
class Dumped:
    """A guest's end, its memory, and the module's file."""

    end: End
    vmcore: Path
    module: Path
    console: str
    kernel: Kernel

    @property
    def arguments(self) -> list[str]:
        """The command line's words for it, before the report's name."""
        words = ["dump", "show", str(self.vmcore), "--vmlinux", str(self.kernel.vmlinux)]
        return [*words, "--modules", str(self.module)]


_opened: dict[tuple[Path, bool], Vmcore] = {}


def opened(dumped: Dumped, *, symbols: bool = True) -> Vmcore:
    """Return a dump opened, once: with the module's file or without."""
    key = (dumped.vmcore, symbols)
    if key not in _opened:
        _opened.clear()  # one after the other: each takes 250 MB
        _opened[key] = open_vmcore(*_files(dumped, symbols=symbols))
    return _opened[key]


def _files(dumped: Dumped, *, symbols: bool) -> tuple[Path, Path | None, Path | None]:
    return dumped.vmcore, dumped.kernel.vmlinux, dumped.module if symbols else None


def module_file(kernel: Kernel, name: str) -> Path:
    """Return the built module ``name`` of tests/modules."""
    build = build_module(FolderSources(MODULES / name), kernel=kernel, name=name)
    assert build.module, build.error
    return build.module


def dump_after(
    guest: Guest,
    kernel: Kernel,
    folder: Path,
    module: str,
    commands: list[str],
    *,
    parameters: str = "",
    timeout: float = 30,
) -> Dumped:
    """Load ``module``, run the shell's ``commands`` in turn, and dump the guest's memory as it then is."""
    file = module_file(kernel, module)
    files: dict[str, bytes | Path] = {f"ktriage/{module}.ko": file}
    lines = []
    for number, command in enumerate([f"insmod /ktriage/{module}.ko {parameters}", *commands]):
        files[f"ktriage/step-{number}"] = f"{command}\n".encode()
        lines.append(f"step step-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    left = run(guest, Plan(tuple(lines), files), folder, timeout=timeout, vmcore=lambda _: True)
    assert left.vmcore, left
    return Dumped(left.end, left.vmcore, file, left.console.decode(errors="replace"), kernel)
