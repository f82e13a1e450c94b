"""What a dump is of: the kernel, the machine, how it ended, and the crashes in its own log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.mm import totalram_pages
from drgn.helpers.linux.panic import tainted
from drgn.helpers.linux.pid import for_each_task

from ktriage.console import read_crashes
from ktriage.dump.core import BROKEN
from ktriage.dump.log import log_text, read_log
from ktriage.dump.types import LogLine, Summary

if TYPE_CHECKING:
    import drgn

    from ktriage.console.types import Crash
    from ktriage.dump.core import Vmcore

Found = TypeVar("Found")

PANIC = "Kernel panic - not syncing"
"""What panic() begins its message with (kernel/panic.c)."""
MOST_TASKS = 1_000_000


def summarize(core: Vmcore) -> tuple[Summary, list[Crash], list[LogLine]]:
    """Return the summary, the crashes in the dump's own log, and the log.

    What can't be read is noted in ``core.notes`` and left empty.
    """
    program = core.program

    def attempt(what: str, read: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return read()
        except BROKEN as error:
            core.notes.append(f"{what}: {str(error) or type(error).__name__}")
            return otherwise

    name: dict[str, str] = attempt("utsname", lambda: _utsname(program), {})
    lines: list[LogLine] = attempt("the log", lambda: read_log(program), [])
    summary = Summary(
        path=str(core.path),
        release=name.get("release") or core.release,
        version=name.get("version", ""),
        machine=name.get("machine", ""),
        hostname=name.get("nodename", ""),
        build_id=core.build_id,
        cpus=attempt("the CPUs", lambda: sum(1 for _ in for_each_online_cpu(program)), 0),
        tasks=attempt("the tasks", lambda: _count_tasks(program), 0),
        memory=attempt("the memory", lambda: _memory(program), 0),
        taints=attempt("the taints", lambda: tainted(program), ""),
        panic=_panic(lines),
        seconds=lines[-1].seconds if lines else None,
        log_lines=len(lines),
    )
    return summary, read_crashes(log_text(lines).encode(), str(core.path)), lines


def _panic(lines: list[LogLine]) -> str | None:
    """Return the last panic's message; None where the log has none."""
    return next((line.text for line in reversed(lines) if line.text.startswith(PANIC)), None)


def _utsname(program: drgn.Program) -> dict[str, str]:
    name = program["init_uts_ns"].name
    fields = ("release", "version", "machine", "nodename")
    return {field: name.member_(field).string_().decode(errors="replace") for field in fields}


def _count_tasks(program: drgn.Program) -> int:
    count = 0
    for count, _ in enumerate(for_each_task(program), 1):
        if count >= MOST_TASKS:
            break
    return count


def _memory(program: drgn.Program) -> int:
    """Return the bytes of memory that the kernel manages."""
    return int(totalram_pages(program)) * int(program["PAGE_SIZE"])
