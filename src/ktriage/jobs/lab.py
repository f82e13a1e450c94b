"""Kernel, module and guest joined: what runs a reproducer at a revision."""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ktriage.bisect.types import RunResult
from ktriage.jobs.fleet.children import stop_children
from ktriage.jobs.fleet.under_way import doing
from ktriage.kernel import Kernel
from ktriage.kernel.make import stop_makes
from ktriage.machine import kill_all
from ktriage.trial import Bench, Outcome, Spec
from ktriage.words import OutcomeKind

Progress = Callable[[str], None]
FRAMES_KEPT = 16


def stop_all(thread: int | None = None) -> None:
    """End all VMs, builds and analyses of this process; what waits for them ends as a machinery's failure.

    With ``thread``, as ``threading.get_ident`` gives it, only those that this one runs.
    """
    kill_all(thread)
    stop_makes(thread)
    stop_children(thread)


class Build(Protocol):
    """What a lab built: ``error`` says why it failed; ``fresh`` is false where it was there before."""

    @property
    def signature(self) -> str | None:
        """Name what was built: equal ones behave the same."""

    @property
    def error(self) -> str | None:
        """Say why there is none, in one line."""

    @property
    def seconds(self) -> float:
        """Say what building took when it was done."""

    @property
    def fresh(self) -> bool:
        """Say whether it was done just now."""

    @property
    def log(self) -> Path:
        """Return what make printed."""


class Lab(ABC):
    """One reproducer, ready to be run at any revision of ``repo``; made by ``labs.open_lab``.

    Trials are kept below ``directory``, each in a folder of its own. Called as a bisection's runner.
    """

    directory: Path
    repo: Path | None

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The reproducer."""

    @abstractmethod
    def build(self, commit: str | None, patches: tuple[str, ...] = ()) -> Build | None:
        """Return the build of a commit, or of what stands beside the specification; None without any."""

    @abstractmethod
    def kernel(self, commit: str | None) -> Kernel | None:
        """Return the kernel that runs at a commit; None where it does not build."""

    @abstractmethod
    def modules(self, commit: str | None) -> list[Path]:
        """Return the modules that the build of a commit made."""

    @property
    @abstractmethod
    def accel(self) -> str:
        """What guests run on: ``kvm`` or ``tcg``."""

    @abstractmethod
    def trial(
        self, name: str, commit: str | None, patches: tuple[str, ...] = (), vmcore: str | None = None
    ) -> tuple[Outcome, Build | None]:
        """Build where needed, run once, and return the outcome with the build; ``name`` is the folder's."""

    @abstractmethod
    def prepared(self, build: Build | None) -> tuple[Bench, Path | None]:
        """Return a bench with a saved guest for a build that did not fail, and the module to load, if any.

        Raises BootFailedError where the kernel does not come up.
        """

    def fresh_place(self, name: str) -> Path:
        """Return a new, empty folder for a trial."""
        place = self.directory / name
        if place.exists():
            # Left by a run that was killed in the middle: it never counted.
            shutil.rmtree(place)
        place.mkdir(parents=True)
        return place

    def __call__(self, commit: str, patches: tuple[str, ...], attempt: str) -> RunResult:
        """Run the reproducer once at ``commit``, as ``ktriage.bisect`` asks it."""
        # First of all, and apart: what waits for another build is no part of what a run takes.
        with doing("build", commit[:12]):
            build = self.build(commit, patches)
        began = time.monotonic()
        with doing("trial", attempt):
            outcome, _ = self.trial(attempt, commit, patches)
        return run_result(outcome, build, self.ran(attempt, time.monotonic() - began))

    def ran(self, attempt: str, seconds: float) -> float:
        """Return what a trial took, which we waited ``seconds`` for."""
        del attempt
        return seconds

    def stop(self) -> None:
        """End all trials and builds; what waits for them ends as a failure of the machinery."""
        stop_all()

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Let go of what it holds; nothing is run in it any more."""


def run_result(outcome: Outcome, build: Build | None, run_seconds: float) -> RunResult:
    """Return an outcome as the engine takes it; a hang that is hunted counts as the crash."""
    kind = OutcomeKind.CRASHED if outcome.hunted else outcome.kind
    crash = outcome.crash
    frames = [frame for frame in crash.stack if frame.reliable][:FRAMES_KEPT] if crash else []
    return RunResult(
        outcome=kind,
        run_seconds=run_seconds,
        build_seconds=build.seconds if build and build.fresh else 0.0,
        title=outcome.title,
        frames=tuple(frame.function for frame in frames),
        files=tuple(dict.fromkeys(frame.file for frame in frames if frame.file)),
        signature=build.signature if build else None,
        note=outcome.detail or None,
        where=outcome.directory,
    )
