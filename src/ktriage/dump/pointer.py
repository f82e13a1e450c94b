"""What is wrong with a value that was used as a pointer, and what lies where it points."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from drgn.helpers.common.memory import identify_address
from drgn.helpers.linux.slab import slab_object_info

from ktriage.dump.chain import LAST_SMALL
from ktriage.dump.core import BROKEN
from ktriage.dump.tasks import USER_END

if TYPE_CHECKING:
    import drgn

LIST_POISON = {0xDEAD000000000100: "LIST_POISON1", 0xDEAD000000000122: "LIST_POISON2"}
"""What list_del() leaves in an entry (include/linux/poison.h, with CONFIG_ILLEGAL_POINTER_VALUE)."""
SLAB_POISON = {0x6B: "freed (slab poison 0x6b)", 0x5A: "never written (slab poison 0x5a)",
               0xA5: "the end of freed memory (slab poison 0xa5)", 0xCC: "freed initmem (0xcc)"}  # fmt: skip
"""include/linux/poison.h."""
HIGHEST = (1 << 64) - 1
FREE = "which is free"
"""How what is said of an object ends when it is not in use."""


def describe(program: drgn.Program, value: int) -> str:
    """Say what is wrong with a value that was used as a pointer."""
    if value < LAST_SMALL:
        return "NULL" if value == 0 else f"{value:#x}, next to NULL"
    if value > HIGHEST - LAST_SMALL:
        number = HIGHEST + 1 - value
        return f"an error that was returned as a pointer: -{errno.errorcode.get(number, str(number))}"
    near = next((name for poison, name in LIST_POISON.items() if 0 <= value - poison < 0x20), None)
    if near:
        return f"{near}: its entry was deleted from its list ({value:#x})"
    poison = SLAB_POISON.get(value & 0xFF) if value >> 8 == value & ((1 << 56) - 1) else None
    if poison:
        return f"{poison} ({value:#x})"
    if 1 << 47 <= value < HIGHEST - (1 << 47):
        return f"no address at all: not canonical ({value:#x})"
    if value < 1 << 47:
        return f"an address of user space ({value:#x})"
    what = place_of(program, value)
    return f"{value:#x}" + (f", {what}" if what else "")


def place_of(program: drgn.Program, address: int) -> str | None:
    """Say what lies at an address: an object of a slab and whether it is in use, a task's stack, a symbol."""
    if address <= USER_END:
        return None
    try:
        info = slab_object_info(program, address)
        if info is not None:
            cache = info.slab_cache.name.string_().decode(errors="replace")
            offset = address - info.address
            state = "in use" if info.allocated else FREE
            return (
                f"{offset:#x} into an object of {cache}, {state}"
                if offset
                else f"an object of {cache}, {state}"
            )
        return identify_address(program, address)
    except (*BROKEN, AttributeError, TypeError, AssertionError):
        return None
