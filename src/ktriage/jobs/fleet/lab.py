"""Laboratories whose builds and trials are done by the workers of a cluster, which share nothing with us.

Here is what decides, what was built, and what the trials left; there is what runs. A build that was made on
one worker comes into the cache here, and goes from here to the others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ktriage.cache import cached, digest, keep_newest, touch
from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.jobs.benches import Task
from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.cluster import connected
from ktriage.jobs.fleet.content import Blob
from ktriage.jobs.fleet.crew import Crew, crew_of
from ktriage.jobs.fleet.work import (
    KernelBlobs,
    ModuleDone,
    ModuleJob,
    TreeDone,
    TreeJob,
    TrialDone,
    TrialJob,
    run_module,
    run_tree,
    run_trial,
    trees_of,
)
from ktriage.jobs.lab import Build, Lab
from ktriage.jobs.labs import kernel_of
from ktriage.jobs.module_lab import module_sources, not_built
from ktriage.jobs.tree_lab import TreeLab, kernel_key
from ktriage.kernel import Built, Checkout, Kernel, ModuleBuild, Recipe, build_module
from ktriage.kernel.built import ROOM as BUILT
from ktriage.kernel.built import Image, kept_kernel, tree_key, unpatched
from ktriage.kernel.module import BUILD_TIMEOUT, ROOM, kept_module, module_key, sources_identity
from ktriage.machine.image import DRIVERS, driver_files
from ktriage.trial import Bench, Outcome, Spec

PREPARING_SECONDS = 600.0
"""What a worker may take beside what the specification gives: to make a guest, to dump its memory."""

PACKS, KEPT_PACKS = "pack", 32
BASES = 16
"""Trees that a worker has, at the most, that a pack for another one builds upon."""

Progress = Callable[[str], None]
T = TypeVar("T")


@dataclass(slots=True)
class _Once:
    """Something that is made once, whoever asks for it first; what it raises is raised anew each time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    made: tuple[Any] | None = None


class Remote:
    """A cluster's workers as a lab uses them; ``close`` lets go of them.

    Raises UserError where the cluster can't be reached or has no workers for guests.
    """

    def __init__(self, address: str, progress: Progress) -> None:
        self._stack = ExitStack()
        client = self._stack.enter_context(connected(address))
        self.accel = ""
        try:
            self.crew: Crew = crew_of(client, address, progress)
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(self.crew.close)
        self._stack.callback(lambda: progress(self.crew.summary()))
        self._onces: dict[str, _Once] = {}
        self._lock = threading.Lock()
        self._took: dict[str, float] = {}

    def close(self) -> None:
        """End all calls and disconnect."""
        self._stack.close()

    def once(self, key: str, make: Callable[[], T]) -> tuple[T, bool]:
        """Return what ``make`` returned the first time for this key, and whether that was now."""
        with self._lock:
            once = self._onces.setdefault(key, _Once())
        since = self.crew.stops
        with once.lock:
            if since != self.crew.stops:
                raise MachineryError("the call was stopped")
            fresh = once.made is None
            if once.made is None:
                once.made = (make(),)
            return once.made[0], fresh

    def seconds(self, attempt: str, otherwise: float) -> float:
        """Return what a trial took on its worker, if it ran on one."""
        return self._took.pop(attempt, otherwise)

    def trial(
        self, spec: Spec, kernel: Kernel, key: str, place: Path, task: Task, *,
        module: Path | None = None, restore: bool, eager: bool,
    ) -> Outcome:  # fmt: skip
        """Do a task on a worker, and put what it left into the empty folder ``place``."""
        files, there = self.once(f"files {spec.model_dump_json()}", lambda: _files(spec))[0]
        blobs = self.once(f"kernel {kernel.image}", lambda: _kernel(spec, kernel))[0]
        job = TrialJob(
            name=place.name, spec=there, files=files, kernel=blobs, key=key,
            module=content.register(module) if module else None,
            task=task, restore=restore, eager=eager,
        )  # fmt: skip
        with _told_where():
            return self.crew.call_then(
                run_trial, job, seconds=_trial_seconds(spec), needs=job.needs(),
                then=lambda done, fetch: self._received(done, fetch, place),
            )  # fmt: skip

    def _received(self, done: TrialDone, fetch: Callable[[Blob], None], place: Path) -> Outcome:
        """Put a trial's folder in its place, whole: whoever is killed in the middle leaves no outcome."""
        fetch(done.parcel)
        draft = place.with_name(f".{place.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        content.claim(done.parcel, draft)
        outcome = _moved(done.outcome, done.folder, place)
        outcome.save(draft)
        shutil.rmtree(place, ignore_errors=True)
        draft.rename(place)
        fd = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self.accel = done.accel
        self._took[place.name] = done.seconds
        return outcome

    def module(self, job: ModuleJob) -> ModuleBuild:
        """Build a module on a worker, and keep it here as if it had been built here."""

        def keep(done: ModuleDone, fetch: Callable[[Blob], None]) -> ModuleBuild:
            fetch(done.entry)
            cached(ROOM, done.key, lambda folder: content.claim(done.entry, folder))
            content.discard(done.entry)
            build = kept_module(done.key, job.name, fresh=done.fresh)
            assert build is not None
            return build

        seconds = BUILD_TIMEOUT + PREPARING_SECONDS
        with _told_where():
            return self.crew.call_then(run_module, job, seconds=seconds, needs=job.needs(), then=keep)

    def tree(self, job: TreeJob, checkout: Checkout, directory: Path) -> Built:
        """Build a kernel on a worker, and keep it here as if it had been built here.

        One that took too long is kept nowhere but for its log, in ``directory``.
        """

        def prepare(ask: Callable[..., Any]) -> tuple[tuple[TreeJob], list[Blob]]:
            packs = self._packs(job.tree, checkout, ask(trees_of, job.mirror))
            return (replace(job, packs=packs),), [blob for _, blob in packs]

        def keep(done: TreeDone, fetch: Callable[[Blob], None]) -> Built:
            if done.entry is None:
                log = directory / f"{job.what}.build.log"
                log.write_text(done.log)
                error = done.error or ""
                return Built(None, None, error, (error,), log, directory, done.seconds, True)
            entry = done.entry
            fetch(entry)
            cached(BUILT, done.key, lambda folder: content.claim(entry, folder))
            content.discard(entry)
            built = kept_kernel(
                done.key, job.image, patches=job.patches, lenient=job.recipe.lenient, fresh=done.fresh
            )
            assert built is not None
            return built

        seconds = job.recipe.timeout + PREPARING_SECONDS
        with _told_where():
            return self.crew.call_then(run_tree, job, seconds=seconds, then=keep, prepare=prepare)

    def _packs(self, tree: str, checkout: Checkout, has: tuple[str, ...]) -> tuple[tuple[str, Blob], ...]:
        """Return the packs that bring a tree to a worker that has those others, each with what it brings."""
        if tree in has:
            return ()
        first = self.once(f"snapshot {checkout.repository.common}", lambda: tree)[0]
        packs = []
        if not has:
            # The same for all workers, as it takes long to make; what comes later builds upon it.
            packs.append((first, self._pack(first, checkout, ())))
        if tree not in (*has, first) or (has and tree == first):
            packs.append((tree, self._pack(tree, checkout, has[-BASES:] or (first,))))
        return tuple(packs)

    def _pack(self, tree: str, checkout: Checkout, without: tuple[str, ...]) -> Blob:
        key = digest(tree, *without)
        folder = cached(PACKS, key, lambda folder: checkout.pack(tree, without, folder / "pack"))
        touch(folder)
        keep_newest(PACKS, KEPT_PACKS)
        return content.register(folder / "pack")


@contextmanager
def _told_where() -> Iterator[None]:
    """Have errors say on which machine something is missing, or fails."""
    try:
        yield
    except KtriageError as error:
        if worker := error.data.get("worker"):
            error.message = f"{error.message} (on {worker})"
        raise


def _moved(outcome: Outcome, old: str, new: Path) -> Outcome:
    """Return an outcome with paths as they are now that its folder has come here."""

    def path(text: str | None) -> str | None:
        return None if text is None else str(new) + text.removeprefix(old) if text.startswith(old) else text

    refs = outcome.refs
    if refs is not None:
        refs = replace(refs, trace=path(refs.trace) or "", ledger=path(refs.ledger) or "")
    return replace(outcome, directory=str(new), vmcore=path(outcome.vmcore), refs=refs)


def _trial_seconds(spec: Spec) -> float:
    return 2 * spec.guest.boot_timeout + spec.run.timeout + spec.run.settle + PREPARING_SECONDS


def _files(spec: Spec) -> tuple[Blob, Spec]:
    """Return the files that a specification names as a folder, and the specification on that folder.

    Headers beside a C file go with it.
    """
    with tempfile.TemporaryDirectory(prefix="ktriage-files-") as text:
        folder = Path(text)
        programs, files = [], {}
        for number, name in enumerate(spec.guest.compile):
            source = spec.path(name)
            programs.append(_copied(source, folder, f"compile/{number}"))
            for header in source.parent.glob("*.h"):
                _copied(header, folder, f"compile/{number}")
        for number, (target, name) in enumerate(spec.guest.files.items()):
            files[target] = _copied(spec.path(name), folder, f"files/{number}")
        guest = spec.guest.model_copy(update={"compile": tuple(programs), "files": files})
        return content.adopt(folder), spec.model_copy(update={"guest": guest, "folder": Path()})


def _copied(source: Path, folder: Path, below: str) -> str:
    if not source.is_file():
        raise UserError(f"[guest]: no such file: {source}")
    place = folder / below / source.name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, place)
    return str(place.relative_to(folder))


def _kernel(spec: Spec, kernel: Kernel) -> KernelBlobs:
    """Return a kernel with those modules alone that its guests load; its vmlinux where recording reads it."""
    return KernelBlobs(
        image=content.register(kernel.image),
        release=kernel.release,
        modules=_drivers(kernel.modules, spec) if kernel.modules else None,
        vmlinux=content.register(kernel.vmlinux) if spec.refs and kernel.vmlinux else None,
    )


def _drivers(modules: Path, spec: Spec) -> Blob:
    with tempfile.TemporaryDirectory(prefix="ktriage-modules-") as text:
        wanted = (*DRIVERS, *spec.guest.drivers, "virtio_console")
        for source in (modules / "modules.dep", *driver_files(modules, wanted)):
            _copied(source, Path(text), str(source.parent.relative_to(modules)))
        return content.adopt(Path(text))


class _Far(Lab):
    """What the labs have in common whose guests are workers'."""

    remote: Remote

    @property
    def accel(self) -> str:
        """What guests run on, as the last worker told; empty before the first."""
        return self.remote.accel

    @property
    def room(self) -> int:
        """How many trials the workers can run at once."""
        return self.remote.crew.room

    def prepared(self, build: Build | None) -> tuple[Bench, Path | None]:
        """Raise UserError: there is no guest here."""
        del build
        raise UserError("this needs guests on this machine", hint="leave --cluster out")

    def ran(self, attempt: str, seconds: float) -> float:
        """Return what a trial took on its worker; what we waited for it is something else."""
        return self.remote.seconds(attempt, seconds)

    def stop(self) -> None:
        """End all trials and builds, there and here."""
        self.remote.crew.stop()
        super().stop()

    def close(self) -> None:
        """Let go of the workers."""
        self.remote.close()


class FleetLab(_Far):
    """A lab on a kernel that is there, perhaps with a module, whose builds and trials are workers'."""

    def __init__(
        self, spec: Spec, kernel: Kernel, directory: Path, repo: Path | None, remote: Remote, *, restore: bool
    ) -> None:
        self._spec = spec
        self._kernel = kernel
        self.directory = directory
        self.repo = repo
        self.remote = remote
        self.restore = restore

    @property
    def spec(self) -> Spec:
        """The reproducer."""
        return self._spec

    def kernel(self, commit: str | None) -> Kernel:
        """Return the kernel, the same at all revisions."""
        del commit
        return self._kernel

    def build(self, commit: str | None, patches: tuple[str, ...] = ()) -> ModuleBuild | None:
        """Return the module's build at a commit, made by a worker where it is not here, once."""
        sources, table = module_sources(self.spec, self.repo, commit), self.spec.module
        if sources is None or table is None:
            return None
        kernel, name = self._kernel, table.name
        if kernel.package is None:
            # Headers that came from nowhere known may need what lies anywhere on this machine.
            return build_module(sources, kernel=kernel, name=name, patches=patches)
        identity = sources_identity(sources, kernel, name, patches)

        def make() -> ModuleBuild:
            try:
                kept = kept_module(module_key(sources, kernel, name, patches), name)
            except UserError:  # no such compiler here
                kept = None
            if kept is not None:
                return kept
            assert kernel.headers is not None
            headers = kernel.headers.parents[2]  # usr/src/linux-headers-RELEASE, below what was unpacked
            with tempfile.TemporaryDirectory(prefix="ktriage-sources-") as text:
                root = Path(text).resolve() / "src"
                place = sources.write(root, whole=bool(patches))
                job = ModuleJob(
                    what=(commit or "the folder")[:12],
                    sources=content.adopt(root),
                    listing=tuple(sources.files()),
                    folder=str(place.relative_to(root)),
                    headers=self.remote.once("headers", lambda: content.register(headers))[0],
                    place=str(kernel.headers.relative_to(headers)),
                    kernel=replace(kernel, image=Path(), modules=None, headers=None, vmlinux=None),
                    name=name,
                    patches=patches,
                )
            return self.remote.module(job)

        build, fresh = self.remote.once(f"module {identity}", make)
        return build if fresh else replace(build, fresh=False)

    def modules(self, commit: str | None) -> list[Path]:
        """Return the module, where there is one and it builds."""
        build = self.build(commit)
        return [build.module] if build and build.module else []

    def trial(
        self, name: str, commit: str | None, patches: tuple[str, ...] = (), vmcore: str | None = None
    ) -> tuple[Outcome, ModuleBuild | None]:
        """Have it built where needed and run once, and return the outcome with the build."""
        build = self.build(commit, patches)
        place = self.fresh_place(name)
        if build is not None and build.module is None:
            return not_built(build, place), build
        outcome = self.remote.trial(
            self.spec, self._kernel, digest(self._kernel.image), place, Task(vmcore),
            module=build.module if build else None, restore=self.restore, eager=True,
        )  # fmt: skip
        return outcome, build


class FleetTreeLab(_Far, TreeLab):
    """A lab whose kernel is built at each revision from its source tree, and runs on workers."""

    def __init__(
        self, spec: Spec, directory: Path, repo: Path | None, remote: Remote, *,
        restore: bool, progress: Progress,
    ) -> None:  # fmt: skip
        super().__init__(spec, directory, repo, restore=restore, progress=progress)
        self.remote = remote

    def build_revision(
        self, commit: str, recipe: Recipe, patches: tuple[str, ...], *, image: Image, modules: bool
    ) -> Built:
        """Have a revision built by a worker where its kernel is not here, once."""
        checkout = self.checkout
        assert checkout
        tree, complaint = checkout.tree_of(commit, patches)
        if tree is None:
            return unpatched(commit, complaint, patches, 0.0)
        key = partial(tree_key, checkout, tree, recipe, image=image, modules=modules)

        def make() -> Built:
            with suppress(UserError):  # no such compiler here
                if kept := kept_kernel(key(), image, patches=patches, lenient=recipe.lenient):
                    return kept
            job = TreeJob(commit[:12], checkout.repository.path.name, tree, recipe, image, modules, patches)
            return self.remote.tree(job, checkout, self.directory)

        built, fresh = self.remote.once(f"tree {key(version=recipe.compiler)}", make)
        return built if fresh else replace(built, fresh=False)

    def carry_out(self, built: Built, place: Path, task: Task) -> Outcome:
        """Have a task done by a worker."""
        assert built.kernel
        return self.remote.trial(
            self.spec, built.kernel, kernel_key(built), place, task, restore=self.restore, eager=False
        )


def open_fleet_lab(
    spec: Spec,
    directory: Path,
    address: str,
    *,
    repo: Path | None = None,
    restore: bool = True,
    progress: Progress = lambda _: None,
) -> FleetLab | FleetTreeLab:
    """Return the lab whose builds and trials are done on the cluster at ``address``.

    The kernel's packages are fetched here. Raises UserError where something that the specification names is
    not there, or the cluster or its workers are not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    remote = Remote(address, progress)
    try:
        _files(spec)  # what is missing is told before anything is fetched or built
        if spec.kernel_under_test:
            return FleetTreeLab(spec, directory, repo, remote, restore=restore, progress=progress)
        kernel = kernel_of(spec, progress=progress)
        return FleetLab(spec, kernel, directory, repo, remote, restore=restore)
    except BaseException:
        remote.close()
        raise
