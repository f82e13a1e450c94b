"""What one trial came to, and all that it left behind."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ktriage.console.types import Crash
from ktriage.words import OutcomeKind


@dataclass(frozen=True, slots=True)
class Refs:
    """What was recorded of reference counts: the trace, and the ledger of each object in it.

    ``trace`` and ``ledger`` are paths; ``objects`` says how many the ledger has, ``wrong`` are those with
    something to report, in a line each. ``complete`` is false where the guest came to no end: what it had not
    sent was read out of its memory if ``rescued``, and is missing otherwise.
    """

    trace: str
    ledger: str
    objects: int
    wrong: tuple[str, ...] = ()
    complete: bool = True
    rescued: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one run of a reproducer.

    ``title`` names the crash that decided it, ``crash`` is that crash, ``titles`` are those of all crashes
    in the console log, in order. ``hunted`` says whether it counts as what was looked for (a hang may).
    ``evidence`` are lines that say why. ``modules_before`` and ``modules_after`` are /proc/modules as it
    stood before and after the reproducer, None where the guest did not get so far. Seconds are the host's:
    ``start`` until the guest was up, ``run`` the plan, ``dump`` the vmcore; ``guest`` is what the
    reproducer's own commands took by the guest's clock. ``refs`` is what was recorded, if that was asked for.
    """

    kind: OutcomeKind
    title: str | None = None
    hunted: bool = False
    detail: str = ""
    evidence: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    crash: Crash | None = None
    modules_before: str | None = None
    modules_after: str | None = None
    vmcore: str | None = None
    directory: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    built: dict[str, Any] | None = None
    refs: Refs | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that is kept as outcome.json and printed for machines."""
        data = asdict(self)
        data["crash"] = self.crash.to_json() if self.crash else None
        return data

    def save(self, directory: Path) -> None:
        """Keep the outcome as ``outcome.json`` in ``directory``: on disk, whole, before this returns."""
        draft = directory / ".outcome.json.draft"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(self.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(directory / "outcome.json")
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
