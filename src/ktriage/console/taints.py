"""Taint letters in words (the kernel's Documentation/admin-guide/tainted-kernels.rst)."""

from __future__ import annotations

LETTERS = {
    "P": "a proprietary module was loaded",
    "F": "a module was forced in",
    "S": "the hardware is out of specification",
    "R": "a module was forced out",
    "M": "the processor reported a machine check",
    "B": "a page was in a bad state, or KASAN reported",
    "U": "user space asked for the taint",
    "D": "the kernel died before (an oops or BUG)",
    "A": "an ACPI table was overridden",
    "W": "a warning was issued before",
    "C": "a staging driver was loaded",
    "I": "a firmware bug was worked around",
    "O": "an out-of-tree module was loaded",
    "E": "an unsigned module was loaded",
    "L": "a soft lockup occurred before",
    "K": "the kernel was live patched",
    "X": "auxiliary taint, defined by the distribution",
    "T": "the structures' layout was randomized",
    "N": "a KUnit test was run",
    "J": "a fwctl command that can change the device was used",
}


def words(taint: str | None) -> tuple[str, ...]:
    """Return what the letters of ``taint`` mean; G, the absence of P, means nothing."""
    return tuple(LETTERS[letter] for letter in taint or "" if letter in LETTERS)
