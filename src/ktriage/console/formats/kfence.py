"""KFENCE: sampled memory errors. Its stacks follow the announcement with no "Call Trace:"."""

from __future__ import annotations

from ktriage.console.formats.format import STACK, Format, Stack

HERE = Stack(("BUG: KFENCE: [a-z -]+ in {func}", STACK))
ACCESS = ("bad-access in {frame}",)

FORMATS = (
    Format(
        "BUG:",
        "BUG: KFENCE: (?P<kind>use-after-free|out-of-bounds) (?P<access>read|write) in {func}",
        "KFENCE: {kind} {access} in {frame}",
        alt=ACCESS,
        stack=HERE,
        trace=False,
    ),
    Format(
        "BUG:",
        "BUG: KFENCE: invalid free in {func}",
        "KFENCE: invalid free in {frame}",
        alt=("invalid-free in {frame}",),
        stack=HERE,
        trace=False,
    ),
    Format(
        "BUG:",
        "BUG: KFENCE: invalid (?P<access>read|write) in {func}",
        "KFENCE: invalid {access} in {frame}",
        alt=ACCESS,
        stack=HERE,
        trace=False,
    ),
    Format(
        "BUG:",
        "BUG: KFENCE: memory corruption in {func}",
        "KFENCE: memory corruption in {frame}",
        stack=HERE,
        trace=False,
    ),
)
