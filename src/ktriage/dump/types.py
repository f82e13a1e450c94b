"""What is read out of a vmcore."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktriage.console.types import Frame


@dataclass(frozen=True, slots=True)
class ModuleState:
    """One ``struct module`` as it stood in the dump.

    ``state`` is one of ``live``, ``coming``, ``going``, ``unformed`` (``enum module_state``).
    ``refcnt_raw`` is the stored counter; ``refcnt`` is what lsmod and /proc/modules show, which is the
    stored one less ``MODULE_REF_BASE`` (1 since Linux 3.19, commit e513cc1c07e2). Both are None where
    the kernel cannot unload modules. ``users`` are the modules that are linked against this one; the
    kernel names those and no others, so ``refcnt - len(users)`` uses are by callers that it keeps no
    record of. Addresses are virtual; ``ranges`` are half-open, by name of the section group.
    """

    name: str
    address: int
    state: str
    refcnt_raw: int | None
    refcnt: int | None
    users: tuple[str, ...]
    ranges: tuple[tuple[str, int, int], ...]
    taints: str = ""
    init: int | None = None
    exit: int | None = None
    version: str | None = None
    srcversion: str | None = None
    build_id: str | None = None

    @property
    def size(self) -> int:
        """Bytes in all of the module's ranges: the Size of lsmod."""
        return sum(end - start for _, start, end in self.ranges)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... modules`` prints for this module."""
        return {"kind": "module", **asdict(self), "size": self.size}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a dump is of: the kernel, the machine, and how it ended.

    ``panic`` is the panic message or None where the kernel had not panicked; ``last_lines`` are the
    last lines of its log. ``seconds`` is the time since boot of the last line in the log.
    """

    path: str
    release: str
    version: str
    machine: str
    hostname: str
    build_id: str | None
    cpus: int
    tasks: int
    memory: int
    taints: str
    panic: str | None
    seconds: float | None
    log_lines: int

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... summary`` prints."""
        return {"kind": "summary", **asdict(self)}


@dataclass(frozen=True, slots=True)
class TaskState:
    """One thread as it stood in the dump.

    ``state`` is the letter of ps (R, S, D, I, ...). ``cpu`` is the one that it ran on last, ``running``
    says that it was on it. ``kernel`` threads have no user space. ``seconds`` have passed since it last
    got a CPU. ``waits_in`` is the innermost function of its stack outside of the scheduler.
    """

    pid: int
    tgid: int
    comm: str
    address: int
    state: str
    cpu: int
    running: bool
    kernel: bool
    seconds: float | None = None
    waits_in: str | None = None
    stack: tuple[Frame, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... tasks`` prints for this task."""
        return {"kind": "task", **asdict(self)}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record of the kernel's log: ``seconds`` since boot, its text, the caller (``T12``, ``C0``)."""

    seconds: float
    level: int
    text: str
    caller: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... log`` prints for this line."""
        return {"kind": "log", **asdict(self)}
