"""Sleeping, scheduling and per-CPU accesses where they are not allowed."""

from __future__ import annotations

from ktriage.console.formats.format import Format, traced

FORMATS = (
    Format(
        "BUG:",
        "BUG: scheduling while atomic",
        "BUG: scheduling while atomic in {frame}",
        stack=traced("schedule"),
    ),
    Format(
        "BUG:",
        "BUG: sleeping function called from invalid context at ",
        "BUG: sleeping function called from invalid context in {frame}",
        stack=traced(),
    ),
    Format(
        "BUG:",
        r"BUG: using (?P<what>[a-z_]+)\(\) in preemptible",
        "BUG: using {what}() in preemptible code in {frame}",
        stack=traced("dump_stack", "preemption", "preempt", "debug_", "processor_id", "this_cpu"),
    ),
)
