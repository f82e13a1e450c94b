"""RCU used wrong. Its stalls are with the other hangs."""

from __future__ import annotations

from ktriage.console.formats.format import Format, traced

READER = traced("rcu", "kmem", "slab")

FORMATS = (
    Format(
        "WARNING:",
        "WARNING: suspicious RCU usage",
        "WARNING: suspicious RCU usage in {frame}",
        then=("{src}",),
        stack=READER,
    ),
    # Older kernels.
    Format(
        "INFO:",
        "INFO: suspicious RCU usage",
        "INFO: suspicious RCU usage in {frame}",
        then=("{src}",),
        stack=READER,
    ),
)
