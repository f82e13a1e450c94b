"""The diagnosis of a callback that outlives the removal of what it works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ktriage.dump.waits_types import task_json

if TYPE_CHECKING:
    from ktriage.dump.removal import Removal
    from ktriage.dump.works import Callback


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a call that queues the work: ``functions`` from the outermost to the call's own.

    ``callee`` is what it calls (``queue_work_on``), ``offset`` where in the last function. ``root`` says
    what the outermost is: ``timer``, ``interrupt``, ``pointer`` (called through a pointer that is
    stored somewhere) or ``unknown``. ``stopped_by`` are calls that stop that root, as (function, callee).
    ``removal`` says that the outermost is the removal's own function.
    """

    functions: tuple[str, ...]
    callee: str
    offset: int
    root: str = "unknown"
    stopped_by: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        way = " -> ".join((*self.functions, f"{self.callee}()"))
        return f"{self.root} {way}" if self.root not in ("pointer", "unknown") else way


@dataclass(frozen=True, slots=True)
class Cancel:
    """A call that takes the callback off: ``callee`` in ``function`` at ``offset``.

    ``ran`` is True where the removal's frame stands behind it, False where before it, None where it is in
    another function. ``final`` says that nothing can queue it again after that.
    """

    function: str
    offset: int
    callee: str
    ran: bool | None
    final: bool


@dataclass(frozen=True, slots=True)
class Teardown:
    """A callback that ran or may yet run on an object whose removal has begun.

    ``says`` is the diagnosis in one sentence, ``evidence`` what it stands on, ``remedies`` what the
    kernel offers against it. ``member`` names the work or timer within its object where debug information
    tells (``struct resetnic_priv.reset_wk``). ``certain`` is false where that it is this very object's
    removal is only likely: the module is the same.
    """

    callback: Callback
    says: str
    member: str | None = None
    removal: Removal | None = None
    cancels: tuple[Cancel, ...] = ()
    paths: tuple[Way, ...] = ()
    evidence: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    certain: bool = True
    crashed: bool = False
    freed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... teardown`` prints for it."""
        removal = None
        if self.removal is not None:
            removal = {
                "module": self.removal.module,
                "task": task_json(self.removal.task) if self.removal.task else None,
                "function": self.removal.function,
                "offset": self.removal.pc - self.removal.start,
                "inside": list(self.removal.inside),
            }
        return {
            "kind": "teardown",
            "says": self.says,
            "callback": self.callback.to_json(),
            "member": self.member,
            "crashed": self.crashed,
            "certain": self.certain,
            "freed": self.freed,
            "removal": removal,
            "cancels": [
                {
                    "function": cancel.function,
                    "offset": cancel.offset,
                    "callee": cancel.callee,
                    "ran": cancel.ran,
                    "final": cancel.final,
                }
                for cancel in self.cancels
            ],
            "queued_by": [
                {
                    "functions": list(path.functions),
                    "callee": path.callee,
                    "offset": path.offset,
                    "root": path.root,
                    "stopped_by": [list(stop) for stop in path.stopped_by],
                }
                for path in self.paths
            ],
            "evidence": list(self.evidence),
            "remedies": list(self.remedies),
        }
