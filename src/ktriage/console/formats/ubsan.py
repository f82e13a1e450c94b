"""UBSAN: undefined behaviour."""

from __future__ import annotations

from ktriage.console.formats.format import Format, traced

QUIET = traced("ubsan", "overflow")

FORMATS = (
    # How older kernels say it: one name for all kinds.
    Format("UBSAN:", "UBSAN: Undefined behaviour in", "UBSAN: undefined-behaviour in {frame}", stack=QUIET),
    Format(
        "UBSAN:",
        "UBSAN: array-index-out-of-bounds in",
        "UBSAN: array-index-out-of-bounds in {frame}",
        alt=("bad-access in {frame}",),
        stack=QUIET,
    ),
    Format("UBSAN:", "UBSAN: (?P<kind>.*?) in", "UBSAN: {kind} in {frame}", stack=QUIET),
    Format("UBSAN:", "(?P<all>UBSAN:.*)", "{all}", corrupted=True),
)
