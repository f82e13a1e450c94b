"""What a kernel must have built in so that a hunted crash can show: the checker that its title is of."""

from __future__ import annotations

import re

CHECKERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"KASAN: ", ("SLUB=y", "KASAN=y", "KASAN_GENERIC=y", "KASAN_VMALLOC=y", "STACKTRACE=y")),
    (r"KFENCE: ", ("KFENCE=y",)),
    (r"KCSAN: ", ("DEBUG_KERNEL=y", "KCSAN=y")),
    (r"KMSAN: ", ("KMSAN=y",)),
    (r"UBSAN: ", ("UBSAN=y", "UBSAN_BOUNDS=y", "UBSAN_SHIFT=y", "UBSAN_BOOL=y", "UBSAN_ENUM=y")),
    (r"memory leak in ", ("DEBUG_KERNEL=y", "DEBUG_KMEMLEAK=y")),
    (
        r"possible deadlock|inconsistent lock|bad unlock balance|suspicious RCU|suspicious usage|held lock",
        ("DEBUG_KERNEL=y", "PROVE_LOCKING=y"),
    ),
    (
        r"BUG: sleeping function called|scheduling while atomic|DEBUG_LOCKS_WARN",
        ("DEBUG_KERNEL=y", "DEBUG_ATOMIC_SLEEP=y"),
    ),
    (r"INFO: task (hung|can't die)|INFO: task hung", ("DEBUG_KERNEL=y", "DETECT_HUNG_TASK=y")),
    (r"BUG: soft lockup", ("DEBUG_KERNEL=y", "SOFTLOCKUP_DETECTOR=y")),
    (r"BUG: workqueue (lockup|leaked)", ("DEBUG_KERNEL=y", "WQ_WATCHDOG=y")),
    (r"WARNING: ODEBUG bug", ("DEBUG_KERNEL=y", "DEBUG_OBJECTS=y", "DEBUG_OBJECTS_FREE=y",
                              "DEBUG_OBJECTS_TIMERS=y", "DEBUG_OBJECTS_WORK=y")),
    (r"BUG: (spinlock|rwlock|rwsem)", ("DEBUG_KERNEL=y", "DEBUG_SPINLOCK=y")),
    (r"list_(add|del) corruption|corrupted list|list_add_valid|list_del_entry_valid",
     ("DEBUG_KERNEL=y", "DEBUG_LIST=y")),
    (r"BUG: corrupted|stack-protector: ", ("STACKPROTECTOR=y",)),
)  # fmt: skip
"""By a pattern of the title: symbols, as Kconfig files from v5.4 to v6.12 name them (lib/Kconfig.debug,
lib/Kconfig.kasan, lib/Kconfig.kfence, lib/Kconfig.ubsan). The titles are syzkaller's (pkg/report)."""


def checkers_for(titles: tuple[str, ...]) -> str:
    """Return a fragment with what crashes of these titles need to show; empty where they need nothing."""
    wanted: dict[str, None] = {}
    for pattern, symbols in CHECKERS:
        if any(re.search(pattern, title) for title in titles):
            wanted.update(dict.fromkeys(symbols))
    return "".join(f"CONFIG_{symbol}\n" for symbol in wanted)
