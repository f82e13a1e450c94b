"""What a dump shows in one sentence, and what that stands on: all reports' findings, the gravest first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from drgn.helpers.linux.panic import panic_task

from ktriage.dump.core import BROKEN
from ktriage.dump.irqs import find_irqs
from ktriage.dump.log import log_text, read_log
from ktriage.dump.places import places_of
from ktriage.dump.tasks import running_tasks
from ktriage.dump.teardown import find_teardowns
from ktriage.dump.waits import find_waits
from ktriage.dump.waits_types import Waits
from ktriage.dump.works import Works, find_works, last_unloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ktriage.console.types import Crash
    from ktriage.dump.core import Vmcore
    from ktriage.dump.teardown_types import Teardown
    from ktriage.dump.types import Summary, TaskState
    from ktriage.dump.waits_types import Root

Read = TypeVar("Read")

NONSENSE = (*BROKEN, AttributeError, TypeError)
"""What drgn raises where memory holds nonsense, a struct is another than was thought, or too short."""
LONG_SECONDS = 1.0
"""A task that waits this long, for nobody who could be named, is told of."""

WARNED = "a warning came, and panic_on_warn is set"
ASKED = (
    (r"sysrq triggered crash", "someone asked for it by SysRq c"),
    (r"NMI: Not continuing|NMI IOCK error|nmi_watchdog|An NMI occurred", "an NMI was sent to the machine"),
    (r"panic_on_warn set", WARNED),
    (r"hung_task: blocked tasks", "the hung-task detector asked for it"),
    (r"softlockup: hung tasks", "the soft-lockup detector asked for it"),
    (r"Hard LOCKUP|hard lockup", "the hard-lockup detector asked for it"),
    (r"RCU Stall|panic_on_rcu_stall", "the RCU stall detector asked for it"),
    (r"workqueue: .* stalled|panic_on_stall", "the workqueue watchdog asked for it"),
    (r"panic_on_oom is enabled|compulsory panic_on_oom", "memory ran out, and panic_on_oom is set"),
)
"""Panic messages that say that someone, or a detector, wanted the panic: what panicked is not the culprit."""

RIP = re.compile(r"RIP: [0-9a-f]+:0x([0-9a-f]{8,16})\b")
"""The place of an oops that is in no function (arch/x86/kernel/dumpstack.c prints %pS)."""
FRAME = re.compile(r"\b(\w+)\+0x[0-9a-f]+/0x")
REPORT_BYTES = 8192
CALLERS = {
    "call_timer_fn": "a timer",
    "expire_timers": "a timer",
    "__run_timers": "a timer",
    "__hrtimer_run_queues": "a high-resolution timer",
    "process_one_work": "a work",
    "rcu_do_batch": "an RCU callback",
    "rcu_core": "an RCU callback",
    "__handle_irq_event_percpu": "an interrupt",
    "irq_thread": "an interrupt's thread",
    "tasklet_action_common": "a tasklet",
    "kthread": "a kernel thread",
    "notifier_call_chain": "a notifier",
}
"""What the kernel calls a module's functions back from."""
FATAL = re.compile(r"kernel panic: (Fatal exception|panic_on_warn)", re.IGNORECASE)
_ENTRIES = re.compile(
    r"^(asm_(exc|sysvec|common)_|end_repeat_nmi|ret_from_intr|error_entry|common_interrupt)"
)
_ASKERS = frozenset({"sysrq_handle_crash", "__handle_sysrq", "panic", "write_sysrq_trigger"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a dump shows: ``kind`` says which report has more of it, ``evidence`` why it is so."""

    kind: str
    says: str
    evidence: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON has it."""
        return {"kind": self.kind, "says": self.says, "evidence": list(self.evidence)}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of a dump, the gravest first.

    ``asked`` says that the panic was asked for, and by whom; None where it was not, or there was none.
    """

    findings: tuple[Finding, ...]
    asked: str | None
    waits: Waits
    works: Works
    teardowns: tuple[Teardown, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... summary`` prints first."""
        return {
            "kind": "diagnosis",
            "asked": self.asked,
            "findings": [finding.to_json() for finding in self.findings],
        }


def asked_for(panic: str | None) -> str | None:
    """Say who asked for a panic by its message; None where nobody did, or there was none."""
    if panic is None:
        return None
    return next((words for pattern, words in ASKED if re.search(pattern, panic)), None)


def diagnose(core: Vmcore, summary: Summary, crashes: Sequence[Crash], bad: str | None = None) -> Diagnosis:
    """Return what a dump shows.

    ``crashes`` are those of the dump's own log, ``bad`` the sentence about a bad access, if one was found.
    """
    asked = asked_for(summary.panic)
    waits = attempt(core, "waits", lambda: find_waits(core), Waits((), ()))
    works = attempt(core, "works", lambda: find_works(core), Works((), ()))
    crashed_task = None if asked else panicked(core)
    no_teardowns: tuple[Teardown, ...] = ()
    nothing: tuple[Finding, ...] = ()
    teardowns = attempt(
        core, "teardown", lambda: tuple(find_teardowns(core, works, crashed_task)), no_teardowns
    )
    findings = [*_torn(teardowns), *_stuck(waits), *_wrong(works, teardowns), *_stalled(works)]
    findings += attempt(core, "interrupts", lambda: tuple(_interrupts(core)), nothing)
    ran = any(teardown.callback.state == "running" for teardown in teardowns)
    gone = attempt(core, "the place of the crash", lambda: tuple(_gone(core, crashes)), nothing)
    told = any(teardown.crashed for teardown in teardowns)
    crashed = [*(() if told else gone), *_crashed(crashes, bad)]
    if asked is None and not ran:
        findings = [*crashed, *findings]
    else:
        findings += crashed
    if asked not in (None, WARNED) or summary.panic is None:
        stuck = attempt(core, "the CPUs", lambda: tuple(_busy(core)), nothing)
        at = sum(finding.kind == "teardown" for finding in findings)
        at += sum(_grave(root) for root in waits.roots)
        findings[at:at] = stuck
    return Diagnosis(tuple(findings), asked, waits, works, teardowns)


def attempt(core: Vmcore, what: str, read: Callable[[], Read], otherwise: Read) -> Read:
    """Return what ``read`` returns; where memory holds nonsense that it does not expect, note it."""
    try:
        return read()
    except NONSENSE as error:
        core.notes.append(f"{what}: not read to the end: {str(error) or type(error).__name__}")
        return otherwise


def panicked(core: Vmcore) -> int | None:
    """Return the address of the task that panicked; None where none did."""
    try:
        task = panic_task(core.program)
        return int(task.value_()) if task else None
    except (*BROKEN, AttributeError, TypeError):
        return None


def _torn(teardowns: Sequence[Teardown]) -> Iterator[Finding]:
    for teardown in teardowns:
        if not teardown.certain and teardown.callback.state != "running":
            continue
        evidence = [*teardown.evidence]
        evidence += [_cancel_says(teardown, index) for index in range(len(teardown.cancels))]
        evidence += [f"queued by {way}" for way in teardown.paths]
        evidence += [f"against it: {remedy}" for remedy in teardown.remedies]
        yield Finding("teardown", teardown.says, tuple(evidence))


def _cancel_says(teardown: Teardown, index: int) -> str:
    cancel = teardown.cancels[index]
    when = {True: "it has returned", False: "not reached yet", None: "whether it ran can't be told"}[
        cancel.ran
    ]
    return f"cancelled by {cancel.callee}() in {cancel.function}()+{cancel.offset:#x}: {when}"


def _stuck(waits: Waits) -> Iterator[Finding]:
    for root in waits.roots:
        if _matters(root):
            yield Finding("waits", root.says, tuple(_who(waits, root)))


def _grave(root: Root) -> bool:
    return root.kind in ("deadlock", "dead")


def _matters(root: Root) -> bool:
    """Tell whether a wait is worth a headline: short ones are a kernel's daily life."""
    if _grave(root):
        return True
    if root.kind == "waiting" and len(root.waiters) == len(root.tasks):
        return False
    return (root.seconds or 0.0) >= LONG_SECONDS or (root.kind == "crashed" and len(root.waiters) > 0)


def _who(waits: Waits, root: Root) -> Iterator[str]:
    waiting = {task.address for task in root.waiters}
    for wait in waits.waits:
        if wait.task.address in waiting:
            since = f" since {wait.seconds:.1f} s" if wait.seconds is not None else ""
            held = f", held by {wait.holders[0]}" if wait.holders else ""
            what = f"{wait.task} waits{since} for {wait.kind.value} {wait.what}{held}"
            yield f"{what}: {'; '.join(wait.evidence)}"


def _wrong(works: Works, teardowns: Sequence[Teardown]) -> Iterator[Finding]:
    told = {teardown.callback.address for teardown in teardowns}
    for callback in works.wrong:
        if callback.address not in told:
            says = f"{callback.kind} {callback.function} at {callback.address:#x} is {callback.state}"
            yield Finding("works", f"{says}: {callback.wrong[0]}", callback.wrong[1:])


def _stalled(works: Works) -> Iterator[Finding]:
    for stalled in works.stalled:
        where = f"of CPU {stalled.pool.cpu}" if stalled.pool.cpu >= 0 else f"{stalled.pool.id} (unbound)"
        yield Finding("works", f"the pool of workers {where} makes no progress: {stalled.says}")


def _interrupts(core: Vmcore) -> Iterator[Finding]:
    irqs = find_irqs(core)
    for line in irqs.wrong:
        handlers = ", ".join(f"{action.name}: {action.handler}" for action in line.actions) or "no handler"
        evidence = (f"it came {line.total:,} times",)
        yield Finding("irqs", f"interrupt {line.irq} ({handlers}): {'; '.join(line.wrong)}", evidence)
    for device in irqs.devices:
        yield Finding("irqs", device)


def _crashed(crashes: Sequence[Crash], bad: str | None) -> Iterator[Finding]:
    for index, crash in enumerate(crashes):
        # A panic for an oops says no more than the oops.
        after = index > 0 and (crash.title == crashes[index - 1].title or crash.cause is not None)
        if not after and not (index and FATAL.search(crash.title)):
            yield Finding("crash", crash.title, (bad,) if bad and index == 0 else ())


def _gone(core: Vmcore, crashes: Sequence[Crash]) -> Iterator[Finding]:
    """Yield crashes on code of a module that is not there any more: a callback has outlived it."""
    places = places_of(core.program)
    for crash in crashes:
        printed = RIP.search(crash.text)
        code = places.code(int(printed[1], 16)) if printed else None
        if code is None or not code.gone:
            continue
        # Frames above such code can't be unwound: what stands on the stack is all "?".
        trace = _log_from(core, printed[0]) if printed else ""
        caller = next((CALLERS[name] for name in FRAME.findall(trace) if name in CALLERS), "something")
        last = last_unloaded(places)
        said = f" (unloaded last: {last})" if last else ""
        says = f"{caller} called {code.address:#x}, where the code of a module was that is gone{said}"
        yield Finding("teardown", says, ("the address is in no module that is loaded",))
        return


def _log_from(core: Vmcore, words: str) -> str:
    """Return what the dump's log has from ``words`` on, as far as a report goes."""
    try:
        text = log_text(read_log(core.program))
    except BROKEN:
        return ""
    return text[text.find(words) :][:REPORT_BYTES] if words in text else ""


def _busy(core: Vmcore) -> Iterator[Finding]:
    """Yield which CPUs have run one task in the kernel for long: the machine spun there."""
    for task in running_tasks(core):
        place = _interrupted(task)
        long = task.seconds is None or task.seconds >= LONG_SECONDS
        if task.pid and place is not None and long:
            since = f" for {task.seconds:.1f} s" if task.seconds is not None else ""
            yield Finding("bt", f"CPU {task.cpu} ran {task.comm} ({task.pid}){since}, in {place}")


def _interrupted(task: TaskState) -> str | None:
    """Return the function that a CPU was in, below the interrupt that stopped it.

    None in user space, and where the task itself asked for the panic.
    """
    names = [frame.function for frame in task.stack]
    if not names or (_ASKERS & set(names) and not any(_ENTRIES.match(name) for name in names)):
        return None
    start = max((index + 1 for index, name in enumerate(names) if _ENTRIES.match(name)), default=0)
    # Inlined functions are of headers more often than not: cpu_relax() says nothing.
    frame = next((frame for frame in task.stack[start:] if not frame.inline), None)
    if frame is None or frame.function in _ASKERS or frame.function.startswith(("entry_", "do_syscall")):
        return None
    module = f" [{frame.module}]" if frame.module else ""
    place = f", {frame.file}:{frame.line}" if frame.file else ""
    return f"{frame.function}(){module}{place}"
