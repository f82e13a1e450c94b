"""The title formats, one file a family; see ``format`` for what a format is.

Within a header, families are tried in this order, formats as they stand in their file.
"""

from __future__ import annotations

from ktriage.console.formats import (
    atomic,
    boot,
    bugs,
    hangs,
    kasan,
    kcsan,
    kfence,
    kmsan,
    lockdep,
    memory,
    odebug,
    oopses,
    panics,
    rcu,
    refcounts,
    ubsan,
    userspace,
    warnings,
)
from ktriage.console.formats.format import Format
from ktriage.console.formats.headers import HEADERS

FAMILIES = (
    kasan, kmsan, kcsan, kfence, oopses, ubsan, odebug, refcounts, lockdep, rcu, hangs, atomic, memory,
    panics, bugs, warnings, boot, userspace,
)  # fmt: skip

BY_HEADER: dict[str, tuple[Format, ...]] = {
    header: tuple(f for family in FAMILIES for f in family.FORMATS if f.header == header)
    for header in HEADERS
}
