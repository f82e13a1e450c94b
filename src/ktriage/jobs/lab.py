"""Kernel, module and guest joined: what runs a reproducer at a revision."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ktriage.bisect.types import RunResult
from ktriage.kernel import (
    FolderSources,
    Kernel,
    ModuleBuild,
    RevisionSources,
    Sources,
    build_module,
    packaged_kernel,
)
from ktriage.trial import Bench, Outcome, Spec, named_kernel, set_up
from ktriage.words import OutcomeKind

Progress = Callable[[str], None]
FRAMES_KEPT = 16


def kernel_of(spec: Spec, *, debuginfo: bool = False, progress: Progress = lambda _: None) -> Kernel:
    """Return the kernel that a specification names, fetched where it is a package.

    Raises UserError where it is not to be had.
    """
    if spec.kernel.package is None:
        return named_kernel(spec)
    return packaged_kernel(
        spec.kernel.package, headers=spec.module is not None, debuginfo=debuginfo, progress=progress
    )


@dataclass(frozen=True, slots=True)
class Lab:
    """One reproducer, ready to be run at any revision of ``repo``; made by ``open_lab``.

    Trials are kept below ``directory``, each in a folder of its own. Called as a bisection's runner.
    """

    bench: Bench
    directory: Path
    repo: Path | None = None

    def sources(self, commit: str | None) -> Sources | None:
        """Return the module's sources at a commit, or those that stand beside the specification."""
        table = self.bench.spec.module
        if table is None:
            return None
        if self.repo is not None and commit is not None:
            return RevisionSources(self.repo, commit, table.source)
        return FolderSources(self.bench.spec.path(table.source))

    def build(self, commit: str | None, patches: tuple[str, ...] = ()) -> ModuleBuild | None:
        """Return the module's build at a commit; None where the specification has no module."""
        sources, table = self.sources(commit), self.bench.spec.module
        if sources is None or table is None:
            return None
        return build_module(sources, kernel=self.bench.kernel, name=table.name, patches=patches)

    def trial(
        self, name: str, commit: str | None, patches: tuple[str, ...] = (), vmcore: str | None = None
    ) -> tuple[Outcome, ModuleBuild | None]:
        """Build where needed, run once, and return the outcome with the build; ``name`` is the folder's."""
        place = self.directory / name
        if place.exists():
            # Left by a run that was killed in the middle: it never counted.
            shutil.rmtree(place)
        place.mkdir(parents=True)
        build = self.build(commit, patches)
        if build is not None and build.module is None:
            shutil.copy(build.log, place / "build.log")
            detail = build.error or "the module does not build"
            outcome = Outcome(OutcomeKind.BUILD_FAILED, detail=detail, directory=str(place))
            outcome.save(place)
            return outcome, build
        return self.bench.trial(place, module=build.module if build else None, vmcore=vmcore), build

    def __call__(self, commit: str, patches: tuple[str, ...], attempt: str) -> RunResult:
        """Run the reproducer once at ``commit``, as ``ktriage.bisect`` asks it."""
        began = time.monotonic()
        outcome, build = self.trial(attempt, commit, patches)
        building = build.seconds if build and build.fresh else 0.0
        return run_result(outcome, build, max(time.monotonic() - began - building, 0.0))


def run_result(outcome: Outcome, build: ModuleBuild | None, run_seconds: float) -> RunResult:
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


def open_lab(
    spec: Spec,
    directory: Path,
    *,
    repo: Path | None = None,
    restore: bool = True,
    debuginfo: bool = False,
    progress: Progress = lambda _: None,
) -> Lab:
    """Fetch the kernel, prepare the guest and return the lab.

    Raises UserError where something that the specification names is not there, BootFailedError where the
    kernel does not come up.
    """
    kernel = kernel_of(spec, debuginfo=debuginfo, progress=progress)
    bench = set_up(spec, kernel, restore=restore, progress=progress)
    directory.mkdir(parents=True, exist_ok=True)
    return Lab(bench, directory.resolve(), repo)
