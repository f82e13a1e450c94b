"""Where recording finds a kernel's ring buffer, by DWARF and by BTF."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from ktriage.kernel import Kernel
from ktriage.refs.record_layout import MODULES, NEEDED, read_layout
from ktriage.trial.layout import dwarf_layout


def compiled(folder: Path, structures: dict[str, tuple[str, ...]], *more: str) -> Path:
    """Return an object whose debug information has structures, with members of 8 bytes each."""
    lines = [
        f"struct {name} {{ {' '.join(f'long {one};' for one in members)} }} v_{name};"
        for name, members in structures.items()
    ]
    source, target = folder / "a.c", folder / "a.o"
    source.write_text("\n".join([*more, *lines]))
    subprocess.run(["gcc", "-g", "-c", "-o", target, source], check=True)
    return target


def test_offsets_come_from_dwarf_too(tmp_path: Path) -> None:
    layout = dwarf_layout(compiled(tmp_path, {**NEEDED, "module": ("state", "name")}))
    assert layout is not None
    assert (layout["buffer_page.page"], layout["module.name"], layout["buffer_page"]) == (16, 8, 24)
    assert (layout["saved_cmdlines"], "module.text" in layout) == (0, False)


def test_where_modules_are_since_and_before_their_memory_was_an_array(tmp_path: Path) -> None:
    # The order of the definitions is that of use; a module has its memory in itself.
    memory = "struct module_memory { long base; int size; };"
    module = "struct module { char name[56]; struct module_memory mem[7]; } v_module;"
    layout = dwarf_layout(compiled(tmp_path, NEEDED, memory, module))
    assert layout is not None
    assert (layout["module.text"], layout["module.init"]) == (56, 56 + 4 * 16)


def test_what_has_no_layout(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    assert dwarf_layout(tmp_path / "text") is None
    assert dwarf_layout(tmp_path / "nothing") is None
    assert dwarf_layout(compiled(tmp_path, MODULES)) is None


def test_dwarf_and_btf_of_a_kernel_say_the_same(kernel: Kernel) -> None:
    if kernel.vmlinux is None:
        pytest.skip(f"no debug information for {kernel.release}")
    with kernel.vmlinux.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".BTF")
        layout = read_layout(section.data())
    assert layout is not None
    assert dwarf_layout(kernel.vmlinux) == layout
