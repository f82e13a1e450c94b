"""References counted wrong: refcount_t, kobjects, network devices that never become free, old VFS checks."""

from __future__ import annotations

from ktriage.console.formats.format import Format, traced, warned

FORMATS = (
    Format(
        "WARNING:",
        r"WARNING: .*lib/refcount\.c.* (?:refcount_|at)",
        "WARNING: refcount bug in {frame}",
        stack=warned("refcount", "kobject_"),
    ),
    Format(
        "WARNING:",
        r"WARNING: .*lib/kobject\.c.* (?:kobject_|at)",
        "WARNING: kobject bug in {frame}",
        stack=warned("kobject_"),
    ),
    # No WARN, only dump_stack(): kobject_init() of what is in use already.
    Format(
        "tried to init an initialized object",
        "kobject .*: tried to init an initialized object",
        "kobject: double init in {frame}",
        stack=traced("kobject_"),
    ),
    Format(
        "unregister_netdevice: waiting for",
        "unregister_netdevice: waiting for .* to become free",
        "unregister_netdevice: waiting for DEV to become free",
        trace=False,
    ),
    Format(
        "VFS: Close: file count is 0",
        "VFS: Close: file count is 0",
        "VFS: Close: file count is zero (use-after-free)",
        trace=False,
    ),
    Format(
        "VFS: Busy inodes after unmount",
        "VFS: Busy inodes after unmount",
        "VFS: Busy inodes after unmount (use-after-free)",
        trace=False,
    ),
)
