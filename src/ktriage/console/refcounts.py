"""The refcount family read in full: what was counted, what its count was, who still holds it.

refcount_t        lib/refcount.c, refcount_warn_saturate(): the message comes before the WARNING
modules           kernel/module/main.c, module_put(): WARN_ON(ret < 0), with no message
network devices   net/core/dev.c, netdev_wait_allrefs_any(), and what lib/ref_tracker.c adds
kobjects          lib/kobject.c
percpu_ref        lib/percpu-refcount.c
"""

from __future__ import annotations

import re

from ktriage.console.stacks import frame
from ktriage.console.types import Frame, Holder, Refcount

_KINDS = (
    (r"refcount_t: (?:underflow|decrement hit 0|sub underflow)", "underflow"),
    (r"refcount_t: saturated", "saturated"),
    (r"refcount_t: (?:addition|increment) on 0", "addition-on-zero"),
    (
        r"unregister_netdevice: waiting for (?P<object>\S+) to become free\. Usage count = (?P<count>-?\d+)",
        "leak",
    ),
    (r"kobject: '(?P<object>[^']*)' \(.*\): is not initialized, yet kobject_(?:put|get)", "put-unheld"),
    (r"kobject \(.*\): tried to init an initialized object", "double-init"),
    (r"percpu ref \((?P<object>\S+)\) <= 0 \((?P<count>-?\d+)\)", "put-unheld"),
    (r"VFS: Busy inodes after unmount of (?P<object>\S+?)\.? ", "leak"),
    (r"BUG: Dentry .*,n=(?P<object>[^}]*)\} +still in use \((?P<count>\d+)\)", "leak"),
    (r"VFS: Close: file count is 0", "put-unheld"),
    (r"WARNING: .*\bmodule_put\b", "put-unheld"),
    (r"page dumped because: nonzero _refcount", "leak"),
)
_PATTERNS = tuple((re.compile(pattern, re.ASCII), kind) for pattern, kind in _KINDS)
_WORDS = ("refcount", "unregister_netdevice", "kobject", "percpu ref", "VFS: ", "Dentry", "module_put")
# Older kernels print each reference, "leaked reference."; newer ones those from one place together.
_USERS = re.compile(r"ref_tracker: .*has (?P<count>\d+)/\d+ users at|leaked reference\.", re.ASCII)


def read_refcount(lines: list[str], text: str) -> Refcount | None:
    """Return what a report, as ``lines`` and as ``text``, says of a count that went wrong, or None."""
    if not any(word in text for word in _WORDS):
        return None
    for line in lines:
        if not any(word in line for word in _WORDS):
            continue
        for pattern, kind in _PATTERNS:
            match = pattern.search(line)
            if match is not None:
                words = match.groupdict()
                count = words.get("count")
                return Refcount(
                    kind=kind,
                    object=words.get("object"),
                    count=int(count) if count is not None else None,
                    holders=_holders(lines),
                )
    return None


def _holders(lines: list[str]) -> tuple[Holder, ...]:
    groups: list[tuple[int, list[Frame]]] = []
    for line in lines:
        match = _USERS.search(line) if " users at" in line or "leaked" in line else None
        if match is not None:
            groups.append((int(match["count"] or 1), []))
        elif groups and (found := frame(line)) is not None:
            groups[-1][1].append(found)
    return tuple(Holder(count, tuple(stack)) for count, stack in groups)
