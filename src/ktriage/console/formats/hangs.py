"""CPUs that stall and tasks that hang."""

from __future__ import annotations

from ktriage.console.formats.format import CALL_TRACE, STACK, Format, Stack, traced, trapped

STALL = ("stall in {frame}",)
HANG = ("hang in {frame}",)

# The stall is found from the timer's interrupt: what loops is below the interrupt's entry.
TIMER = (
    ("apic_timer_interrupt", "{ip}", STACK),
    ("(?:apic_timer_interrupt|Exception stack|el1h_64_irq)", STACK),
)
BELOW = ("apic_timer_interrupt", "rcu")

FORMATS = (
    Format(
        "BUG:",
        "BUG: soft lockup",
        "BUG: soft lockup in {frame}",
        alt=STALL,
        stack=trapped(choose="stall"),
    ),
    Format(
        "INFO:",
        "INFO: rcu_(?:preempt|sched|bh) self-detected stall",
        "INFO: rcu detected stall in {frame}",
        alt=STALL,
        # Since v6.1 the stalled CPU's own report begins in what was interrupted, with no interrupt above it,
        # bc1cca97e6da ("sched/debug: Show the registers of 'current' in dump_cpu_task()"). syzbot, whose
        # kernels print callers, knows these as "in corrupted"; elsewhere the function is worth more.
        stack=Stack(*TIMER, skip=BELOW, choose="stall", last=("{ip}", CALL_TRACE, STACK)),
    ),
    Format(
        "INFO:",
        "INFO: rcu_(?:preempt|sched|bh|tasks(?:_rude|_trace)?) (?:self-)?detected(?: expedited)? stall",
        "INFO: rcu detected stall in {frame}",
        alt=STALL,
        stack=Stack(*TIMER, skip=BELOW, choose="stall"),
    ),
    Format(
        "INFO:",
        "INFO: task .* blocked (?:in I/O wait )?for more than [0-9]+ seconds",
        "INFO: task hung in {frame}",
        alt=HANG,
        stack=traced(choose="hang"),
    ),
    Format(
        "INFO:",
        "INFO: task .* can't die for more than .* seconds",
        "INFO: task can't die in {frame}",
        alt=HANG,
        stack=traced("schedule"),
    ),
    Format("BUG:", "BUG: workqueue lockup", "BUG: workqueue lockup", trace=False),
)
