"""Kernels under trial: each booted at first, and restored once booting it has taken long enough."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ktriage.kernel import Kernel
from ktriage.machine import BootFailedError, Plan, not_up, run
from ktriage.trial import Bench, Outcome, Spec, set_up
from ktriage.trial.judge import judge

BOOT_SECONDS = 2.5
"""After so many seconds of booting one kernel, it is booted once more, saved, and restored from then on."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """What to do on a kernel: run the reproducer, or with ``only_boot`` see that it comes up.

    ``vmcore`` says when to keep the guest's memory, in place of the specification.
    """

    vmcore: str | None = None
    only_boot: bool = False


@dataclass(slots=True)
class _Booting:
    """What booting one kernel has taken so far, and the bench with its saved guest once there is one."""

    seconds: float = 0.0
    saved: Bench | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Benches:
    """The benches of any number of kernels; kernels with equal keys share a saved guest.

    With ``restore`` guests are restored: at once if ``eager``, as where all trials are on one kernel, else
    when booting has taken long enough.
    """

    def __init__(self, *, restore: bool, eager: bool = False, progress: Progress = lambda _: None) -> None:
        self.restore = restore
        self.eager = eager
        self.progress = progress
        self.accel = ""
        self._kernels: dict[str, _Booting] = {}
        self._lock = threading.Lock()

    def carry_out(
        self, task: Task, spec: Spec, kernel: Kernel, key: str, place: Path, module: Path | None = None
    ) -> Outcome:
        """Do a task on a kernel, keep what it leaves in the folder ``place``, and return the outcome.

        A kernel that does not come up is an outcome. Raises as ``set_up``, and OSError.
        """
        try:
            bench = self._bench(spec, kernel, key)
            if task.only_boot:
                left = run(bench.guest, Plan(()), place, timeout=spec.guest.boot_timeout)
                outcome = replace(judge(spec, left), directory=str(place))
            else:
                outcome = bench.trial(place, module=module, vmcore=task.vmcore)
            if bench.guest.state is None:
                self._booting(key).seconds += outcome.seconds.get("start", 0.0)
        except BootFailedError as error:
            (place / "console.log").write_bytes(error.console)
            outcome = replace(judge(spec, not_up(error)), directory=str(place))
        outcome.save(place)
        return outcome

    def _booting(self, key: str) -> _Booting:
        with self._lock:
            return self._kernels.setdefault(key, _Booting())

    def _bench(self, spec: Spec, kernel: Kernel, key: str) -> Bench:
        """Return a bench that boots this kernel, or, where that has taken long enough, restores it."""
        booting = self._booting(key)
        with booting.lock:
            if booting.saved is not None:
                return booting.saved
            restore = self.restore and (self.eager or booting.seconds >= BOOT_SECONDS)
            bench = set_up(spec, kernel, restore=restore, progress=self.progress)
            if restore:
                booting.saved = bench
            self.accel = bench.guest.hardware.accel
            return bench
