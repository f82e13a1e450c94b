"""Where a kernel has what recording reads, by its debug information: for kernels that have no BTF."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ktriage.refs.record_layout import INLINE, MODULES, NEEDED, Layout, whole

if TYPE_CHECKING:
    from pathlib import Path


@cache
def dwarf_layout(vmlinux: Path) -> Layout | None:
    """Return what ``read_layout`` returns of BTF; None where the DWARF of ``vmlinux`` does not tell."""
    # It takes a while to load, and most who record have BTF.
    import drgn

    program = drgn.Program()
    try:
        module = program.extra_module("vmlinux", create=True)
        module.try_file(str(vmlinux), force=True)
    except (OSError, ValueError):
        return None
    found: Layout = {}
    for name, members in (NEEDED | MODULES).items():
        try:
            kind = program.type(f"struct {name}")
        except LookupError:
            continue
        found[name] = kind.size or 0
        for member in kind.members or ():
            if member.name in members:
                found[f"{name}.{member.name}"] = member.bit_offset // 8
            if member.name == INLINE:
                found[INLINE] = int(member.type.kind == drgn.TypeKind.ARRAY)
    return whole(found)
