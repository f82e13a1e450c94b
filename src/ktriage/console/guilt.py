"""The source file that a crash should be blamed on, from the files that its report names."""

from __future__ import annotations

import posixpath
import re

_FILE = re.compile(r"([a-zA-Z0-9_\-./]*[a-zA-Z0-9_\-]+\.[ch]):[0-9]+", re.ASCII)

# Code that everybody calls, that carries the report, or that notices the bugs of others.
_INNOCENT = re.compile(
    "|".join(
        (
            r".*\.h",
            "^lib/", "^virt/lib/", "^arch/.*/lib/crc", "^trusty/",
            r"^mm/(?:kasan/|kmsan/|percpu)", "^mm/sl.b",
            r"^mm/(?:filemap|folio-compat|truncate|memory|vmalloc|page_alloc|mempool|util)\.c",
            r"^kernel/(?:rcu/|locking/|sched/.*\.c|printk/printk.*\.c)",
            r"^kernel/(?:kcov|panic|softirq|kthread|stacktrace|task_work|workqueue|time/(?:timer|sleep_timeout))\.c",
            r"^arch/.*/kernel/(?:traps|unwind.*|stacktrace|apic/apic)\.c",
            r"^arch/.*/mm/(?:fault|physaddr)\.c",
            r"^arch/arm64/kernel/(?:entry.*|process)\.c",
            r"^net/core/(?:dev|sock|skbuff)\.c", r"^fs/proc/generic\.c", r"^drivers/usb/core/urb\.c",
        )
    ),
    re.ASCII,
)  # fmt: skip
# Lines with files that have no part in it.
_ASIDE = re.compile(
    r"(?:hardirqs|softirqs)\s+last\s+(?:enabled|disabled)|^Register r\d+ information|\}, at: ",
    re.ASCII,
)
_DEEPER = re.compile(r"^/[a-zA-Z0-9_\-./]+/[a-zA-Z0-9_\-]+\.[ch]$", re.ASCII)
# A stall is found from an interrupt: what loops stands after the interrupt's entry.
_INTERRUPTS = ("apic_timer_interrupt+0x", "el1h_64_irq+0x", "Exception stack")


def guilty_file(title: str, report: list[str]) -> str | None:
    """Return the file to blame for ``report``, or None where it names no file."""
    if title.startswith("INFO: rcu detected stall"):
        for entry in _INTERRUPTS:
            index = next((i for i, line in enumerate(report) if entry in line), None)
            if index is not None:
                below = report[index][report[index].index(entry) :]
                found = _blame([below, *report[index + 1 :]])
                if found is not None:
                    return found
    return _blame(report)


def _blame(report: list[str]) -> str | None:
    guilty: str | None = None
    first: str | None = None
    for line in report:
        match = _FILE.search(line) if (".c:" in line or ".h:" in line) else None
        if match is None:
            continue
        first = first or match[1]
        if _INNOCENT.search(match[1]) or _ASIDE.search(line):
            continue
        file = posixpath.normpath(match[1])
        if guilty is None:
            guilty = file
        else:
            # fs/ext4 below fs: the file system is to blame, not the layer that called it.
            directory = posixpath.dirname(guilty) or "."
            if file.startswith(directory) and _DEEPER.match(file.removeprefix(directory)):
                guilty = file
    return guilty or first
