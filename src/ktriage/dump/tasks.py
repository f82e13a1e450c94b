"""The tasks of a dumped kernel, and what each was doing."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import (
    cpu_curr,
    task_cpu,
    task_on_cpu,
)

from ktriage.console.types import Frame
from ktriage.dump.core import BROKEN
from ktriage.dump.places import places_of, task_state
from ktriage.dump.types import TaskState
from ktriage.symbols.symbolize import tree_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    import drgn

    from ktriage.dump.core import Vmcore

MOST_TASKS = 1_000_000
MOST_FRAMES = 256
USER_END = (1 << 63) - 1
"""The last address that is a process's own, on every 64-bit machine."""
PF_KTHREAD = 0x00200000
"""include/linux/sched.h; the value has been this since Linux 2.6.27."""


def tasks(core: Vmcore, *, stacks: bool = True) -> Iterator[TaskState]:
    """Yield the threads of a dumped kernel, in the order of their pids; without ``stacks`` faster.

    A task that can't be read is noted in ``core.notes``, and so is where their list breaks off.
    """
    try:
        for task in islice(for_each_task(core.program), MOST_TASKS):
            try:
                yield read_task(core.program, task, stack=stacks)
            except BROKEN as error:
                core.notes.append(f"task at {task.value_():#x}: {str(error) or type(error).__name__}")
    except BROKEN as error:
        core.notes.append(f"the list of tasks breaks off: {str(error) or type(error).__name__}")


def running_tasks(core: Vmcore) -> list[TaskState]:
    """Return what each CPU that was online ran, the idle tasks included, in the order of the CPUs."""
    found = []
    try:
        for cpu in for_each_online_cpu(core.program):
            task = cpu_curr(core.program, cpu)
            found.append(read_task(core.program, task))
    except BROKEN as error:
        core.notes.append(f"the running tasks: {str(error) or type(error).__name__}")
    return found


def read_task(program: drgn.Program, task: drgn.Object, *, stack: bool = True) -> TaskState:
    """Return the state of the ``struct task_struct *`` ``task``; raises one of ``BROKEN``."""
    frames = read_stack(program, task) if stack else ()
    return TaskState(
        pid=int(task.pid),
        tgid=int(task.tgid),
        comm=task.comm.string_().decode(errors="replace"),
        address=task.value_(),
        state=task_state(task),
        cpu=int(task_cpu(task)),
        running=bool(task_on_cpu(task)),
        kernel=bool(int(task.flags) & PF_KTHREAD),
        seconds=since(task),
        waits_in=_waits_in(program, frames),
        stack=frames,
    )


def since(task: drgn.Object) -> float | None:
    """Return the seconds since the task last got a CPU; None where the kernel keeps no such statistics.

    A CPU that idles lets its clock stand: the one that is furthest is taken.
    """
    try:
        now = places_of(task.prog_).clock
        return max(now - int(task.sched_info.last_arrival), 0) / 1e9 if now else None
    except (*BROKEN, AttributeError):
        return None


def read_stack(program: drgn.Program, task: drgn.Object) -> tuple[Frame, ...]:
    """Return a task's kernel stack, innermost first; empty where it can't be unwound.

    Of a task that was on a CPU it begins where that CPU's registers say that it was: in user space there
    is then nothing of the kernel in it.
    """
    try:
        trace = program.stack_trace(task)
    except BROKEN:
        return ()
    frames = []
    for frame in islice(trace, MOST_FRAMES):
        try:
            if frame.pc <= USER_END:
                break
            frames.append(read_frame(program, frame))
        except BROKEN:
            break
    return tuple(frames)


def read_frame(program: drgn.Program, frame: drgn.StackFrame) -> Frame:
    """Return a frame of drgn's as one of a report; raises one of ``BROKEN``.

    In a module without a file the function is by the module's own symbols.
    """
    name, offset, size = frame.name, None, None
    if not frame.is_inline:
        try:
            symbol = frame.symbol()
            offset, size = frame.pc - symbol.address, symbol.size
        except LookupError:
            # The call, not what it returns to: that may be the next function.
            code = places_of(program).code(frame.pc - 1)
            if code.module is not None:
                name, offset = code.name, code.offset + 1
    try:
        file, line, _ = frame.source()
    except LookupError:
        file, line = None, None
    return Frame(
        function=name,
        offset=offset,
        size=size,
        module=_module(program, frame),
        file=tree_path(file) if file else None,
        line=line or None,
        inline=frame.is_inline,
        context="task",
    )


def _module(program: drgn.Program, frame: drgn.StackFrame) -> str | None:
    try:
        module = program.module(frame.pc)
    except LookupError:
        return None
    return None if module.name == "kernel" else module.name


def _waits_in(program: drgn.Program, frames: tuple[Frame, ...]) -> str | None:
    """Return the innermost function outside of the scheduler, as /proc/PID/wchan does.

    The scheduler's functions are those in the .sched.text section (``in_sched_functions()``).
    """
    try:
        start = program.symbol("__sched_text_start").address
        end = program.symbol("__sched_text_end").address
    except LookupError:
        return None
    for frame in frames:
        if not frame.inline and not _within(program, frame.function, start, end):
            return frame.function
    return None


def _within(program: drgn.Program, function: str, start: int, end: int) -> bool:
    return any(start <= symbol.address < end for symbol in program.symbols(function))
