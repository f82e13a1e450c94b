"""ODEBUG: the life of timers, works and other objects, tracked by CONFIG_DEBUG_OBJECTS."""

from __future__ import annotations

from ktriage.console.formats.format import Format, warned

FORMATS = (
    Format(
        "WARNING:",
        r"WARNING: .*lib/debugobjects\.c.* (?:debug_print|debug_check|at)",
        "WARNING: ODEBUG bug in {frame}",
        # Everything between the object's owner and the check.
        stack=warned(
            "debug_",
            "rcu",
            "hrtimer_",
            "timer_",
            "work_",
            "percpu_",
            "vunmap",
            "vfree",
            "__free_",
            "debug_check",
            "kobject_",
        ),
    ),
)
