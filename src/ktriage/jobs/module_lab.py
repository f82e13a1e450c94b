"""A laboratory on a kernel that is there, perhaps with a module that is built at each revision."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ktriage.jobs.lab import Build, Lab
from ktriage.kernel import FolderSources, Kernel, ModuleBuild, RevisionSources, Sources, build_module
from ktriage.trial import Bench, Outcome, Spec
from ktriage.words import OutcomeKind


@dataclass(frozen=True, slots=True)
class ModuleLab(Lab):
    """A lab on a kernel that is there, perhaps with a module that is built at each revision."""

    bench: Bench
    directory: Path
    repo: Path | None = None

    @property
    def spec(self) -> Spec:
        """The reproducer."""
        return self.bench.spec

    def kernel(self, commit: str | None) -> Kernel:
        """Return the kernel, the same at all revisions."""
        del commit
        return self.bench.kernel

    @property
    def accel(self) -> str:
        """What guests run on."""
        return self.bench.guest.hardware.accel

    def sources(self, commit: str | None) -> Sources | None:
        """Return the module's sources at a commit, or those that stand beside the specification."""
        return module_sources(self.spec, self.repo, commit)

    def build(self, commit: str | None, patches: tuple[str, ...] = ()) -> ModuleBuild | None:
        """Return the module's build at a commit; None where the specification has no module."""
        sources, table = self.sources(commit), self.bench.spec.module
        if sources is None or table is None:
            return None
        return build_module(sources, kernel=self.bench.kernel, name=table.name, patches=patches)

    def modules(self, commit: str | None) -> list[Path]:
        """Return the module, where there is one and it builds."""
        build = self.build(commit)
        return [build.module] if build and build.module else []

    def trial(
        self, name: str, commit: str | None, patches: tuple[str, ...] = (), vmcore: str | None = None
    ) -> tuple[Outcome, ModuleBuild | None]:
        """Build where needed, run once, and return the outcome with the build."""
        place = self.fresh_place(name)
        build = self.build(commit, patches)
        if build is not None and build.module is None:
            return not_built(build, place), build
        return self.bench.trial(place, module=build.module if build else None, vmcore=vmcore), build

    def prepared(self, build: Build | None) -> tuple[Bench, Path | None]:
        """Return the bench, and the module of a build."""
        return self.bench, build.module if isinstance(build, ModuleBuild) else None


def module_sources(spec: Spec, repo: Path | None, commit: str | None) -> Sources | None:
    """Return a module's sources at a commit, or those beside its specification; None where it has none."""
    table = spec.module
    if table is None:
        return None
    if repo is not None and commit is not None:
        return RevisionSources(repo, commit, table.source)
    return FolderSources(spec.path(table.source))


def not_built(build: ModuleBuild, place: Path) -> Outcome:
    """Keep the outcome of a module that does not build, and return it."""
    if build.log.is_file():  # make was not even run where a patch does not apply
        shutil.copy(build.log, place / "build.log")
    detail = build.error or "the module does not build"
    outcome = Outcome(OutcomeKind.BUILD_FAILED, detail=detail, directory=str(place))
    outcome.save(place)
    return outcome
