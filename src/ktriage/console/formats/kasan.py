"""KASAN: accesses that the address sanitizer caught, and frees of what cannot be freed."""

from __future__ import annotations

from ktriage.console.formats.format import CALL_TRACE, STACK, Format, Stack

FREE = "BUG: KASAN: (?:double-free or invalid-free|double-free|invalid-free) in {func}"

FORMATS = (
    Format(
        "BUG:",
        "BUG: KASAN: (?P<kind>[a-z-]+) in [a-zA-Z0-9_]+[.+]",
        "KASAN: {kind} {access} in {frame}",
        then=("(?P<access>Read|Write) (?:of size|at addr) [0-9a-f]+",),
        alt=("bad-access in {frame}",),
        stack=Stack(
            ("BUG: KASAN: [a-z-]+ in {func}", CALL_TRACE, STACK),
            # With hardware tags the check is a fault, and the stack begins in its handler.
            skip=("kernel_fault", "tag_check", "mem_abort", "^el1_", "^el1h_"),
        ),
    ),
    Format(
        "BUG:",
        FREE,
        "KASAN: invalid-free in {frame}",
        alt=("invalid-free in {frame}",),
        stack=Stack((FREE, CALL_TRACE, STACK), skip=("slab_", "kfree", "vunmap", "vfree")),
    ),
    Format(
        "BUG:",
        "BUG: KASAN: (?P<kind>[a-z-]+) on address",
        "KASAN: {kind} {access}",
        then=("(?P<access>Read|Write) of size [0-9]+",),
    ),
    Format("BUG:", "BUG: KASAN: (?P<rest>.*)", "KASAN: {rest}", corrupted=True),
)
