"""Locks: what lockdep proves, and what the locks themselves notice."""

from __future__ import annotations

from ktriage.console.formats.format import CALL_TRACE, STACK, Format, Stack, traced, warned

DEADLOCK = "possible deadlock in {frame}"
INCONSISTENT = "inconsistent lock state in {frame}"
SOCK = ("lock_sock", "release_sock")
# The lock belongs to the work items, and so does the bug.
WORKQUEUE = ("process_one_work", "flush_workqueue", "drain_workqueue", "destroy_workqueue")
TAKEN = "at: (?:{pc} +)?(?P<frame>[a-zA-Z0-9_]+)[.+]"
OLD_TAKEN = "at: {pc} +(?P<frame>[a-zA-Z0-9_]+)[.+]"
ANYWHERE = "{pc} +(?P<frame>[a-zA-Z0-9_]+)[.+]"
BALANCE = Stack(("{pc} +{func}", CALL_TRACE, STACK))
LEAVING = ("leaving the kernel with locks still held", TAKEN)

FORMATS = (
    Format(
        "WARNING:",
        r"WARNING: .*kernel/locking/lockdep\.c.*lock_",
        "WARNING: locking bug in {frame}",
        stack=warned(*SOCK),
    ),
    Format(
        "WARNING:",
        "WARNING: .*still has locks held!",
        "WARNING: still has locks held in {frame}",
        then=("at: (?P<frame>[a-zA-Z0-9_]+)[.+]",),
    ),
    Format(
        "WARNING:",
        "WARNING: Nested lock was not taken",
        "WARNING: nested lock was not taken in {frame}",
        stack=warned(),
    ),
    Format(
        "WARNING:",
        "WARNING: lock held when returning to user space",
        "WARNING: lock held when returning to user space in {frame}",
        then=LEAVING,
        trace=False,
    ),
    Format(
        "WARNING:",
        "WARNING: possible circular locking dependency detected",
        DEADLOCK,
        then=("is trying to acquire lock",),
        # The lock that is wanted, then the lock that is held, then the first stack of the chain.
        stack=Stack(("{at}", "{at}", STACK), skip=WORKQUEUE),
    ),
    Format(
        "WARNING:",
        "WARNING: possible irq lock inversion dependency detected",
        DEADLOCK,
        then=("just changed the state of lock", TAKEN),
    ),
    Format(
        "WARNING:",
        "WARNING: .*-safe -> .*-unsafe lock order detected",
        DEADLOCK,
        stack=Stack(("which became .* at:", STACK)),
    ),
    Format(
        "WARNING:",
        "WARNING: possible recursive locking detected",
        DEADLOCK,
        then=("is trying to acquire lock", TAKEN),
    ),
    Format(
        "WARNING:",
        "WARNING: inconsistent lock state",
        INCONSISTENT,
        then=("takes", "at: (?:{pc} +)?[a-zA-Z0-9_]+[.+]"),
        stack=traced(),
    ),
    Format(
        "WARNING:",
        "WARNING: bad unlock balance detected!",
        "WARNING: bad unlock balance in {frame}",
        stack=BALANCE,
    ),
    Format(
        "WARNING:",
        "WARNING: held lock freed!",
        "WARNING: held lock freed in {frame}",
        then=("at:(?: {pc})? +(?P<frame>[a-zA-Z0-9_]+)[.+]",),
    ),
    # The same from older kernels, where lockdep's reports were INFO and BUG.
    Format(
        "INFO:",
        "INFO: possible circular locking dependency detected",
        DEADLOCK,
        then=("is trying to acquire lock", OLD_TAKEN),
    ),
    Format(
        "INFO:",
        "INFO: possible irq lock inversion dependency detected",
        DEADLOCK,
        then=("just changed the state of lock", OLD_TAKEN),
    ),
    Format(
        "INFO:",
        "INFO: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
        DEADLOCK,
        then=("is trying to acquire", OLD_TAKEN),
    ),
    Format(
        "INFO:",
        "INFO: possible recursive locking detected",
        DEADLOCK,
        then=("is trying to acquire lock", OLD_TAKEN),
    ),
    Format("INFO:", "INFO: inconsistent lock state", INCONSISTENT, then=("takes", OLD_TAKEN)),
    Format(
        "INFO:",
        "INFO: trying to register non-static key",
        "INFO: trying to register non-static key in {frame}",
        stack=traced("stack", "lock", "IRQ"),
    ),
    Format(
        "BUG:",
        "BUG: (?P<lock>spinlock|rwlock) (?P<what>lockup suspected|already unlocked|recursion|cpu recursion"
        "|bad magic|wrong owner|wrong CPU|trylock failure on UP)",
        "BUG: {lock} {what} in {frame}",
        stack=traced("spin_", "_lock", "_unlock"),
    ),
    Format(
        "BUG:",
        "BUG: .*still has locks held!",
        "BUG: still has locks held in {frame}",
        then=(ANYWHERE,),
    ),
    Format(
        "BUG:",
        "BUG: lock held when returning to user space",
        "BUG: lock held when returning to user space in {frame}",
        then=LEAVING,
        trace=False,
    ),
    Format("BUG:", "BUG: bad unlock balance detected!", "BUG: bad unlock balance in {frame}", stack=BALANCE),
    Format("BUG:", "BUG: held lock freed!", "BUG: held lock freed in {frame}", then=(ANYWHERE,)),
    # arm and arm64 print with BUG: what x86 prints as a WARNING in lockdep.c; one bug, one title.
    Format("BUG:", "BUG: Invalid wait context", "WARNING: locking bug in {frame}", stack=traced(*SOCK)),
    Format(
        "BUG:",
        "BUG: workqueue leaked lock or atomic",
        "BUG: workqueue leaked lock or atomic in {frame}",
        then=(r"last function: (?P<frame>[a-zA-Z0-9_]+)(?: \[\w+\])?$",),
        trace=False,
    ),
)
