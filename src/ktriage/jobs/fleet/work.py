"""What a lab's driver has done on workers: builds and trials. All that is needed comes as blobs."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ktriage.cache import cache_root, digest
from ktriage.jobs.benches import Benches, Task
from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.content import Blob
from ktriage.jobs.fleet.under_way import doing
from ktriage.kernel import Kernel, Recipe, build_module
from ktriage.kernel.built import ROOM as BUILT
from ktriage.kernel.built import Image, build_tree, tree_key
from ktriage.kernel.mirror import Mirror
from ktriage.kernel.module import ROOM as MODULES
from ktriage.kernel.module import module_key
from ktriage.kernel.sources import WrittenSources
from ktriage.trial import Outcome, Spec

VMCORE_BYTES = 1 << 30
"""A guest's memory that takes more than this stays where it was dumped."""
LEFT_SECONDS = 24 * 3600
"""Folders of trials that are older were left by a worker that was killed."""


@dataclass(frozen=True, slots=True)
class KernelBlobs:
    """A kernel to boot: its image, the modules that its guests need, its vmlinux where that is read."""

    image: Blob
    release: str
    modules: Blob | None
    vmlinux: Blob | None = None

    def needs(self) -> tuple[Blob, ...]:
        """Return its blobs."""
        return tuple(blob for blob in (self.image, self.modules, self.vmlinux) if blob)


@dataclass(frozen=True, slots=True)
class TrialJob:
    """A task on a kernel. ``spec`` names its files as they lie in ``files``; ``key`` as for ``Benches``."""

    name: str
    spec: Spec
    files: Blob
    kernel: KernelBlobs
    key: str
    module: Blob | None
    task: Task
    restore: bool
    eager: bool

    def needs(self) -> tuple[Blob, ...]:
        """Return all blobs that it needs."""
        return (self.files, *self.kernel.needs(), *((self.module,) if self.module else ()))


@dataclass(frozen=True, slots=True)
class TrialDone:
    """What a trial came to: ``parcel`` is its folder, which was ``folder`` there.

    ``seconds`` is what it took, ``accel`` what the guest ran on.
    """

    outcome: Outcome
    folder: str
    parcel: Blob
    seconds: float
    accel: str


@lru_cache(maxsize=8)
def _benches(key: str, *, restore: bool, eager: bool) -> Benches:
    """Return what this process has of the guests of one specification."""
    del key
    return Benches(restore=restore, eager=eager)


def run_trial(job: TrialJob) -> TrialDone:
    """Do a task, and offer the folder with all that it left."""
    with content.using(*job.needs()), _scratch("trials") as scratch, doing("trial", job.name):
        place = scratch / "trial"
        place.mkdir()
        kernel = Kernel(
            image=content.path_of(job.kernel.image),
            release=job.kernel.release,
            modules=content.unpacked(job.kernel.modules) if job.kernel.modules else None,
            vmlinux=content.path_of(job.kernel.vmlinux) if job.kernel.vmlinux else None,
        )
        spec = job.spec.model_copy(update={"folder": content.unpacked(job.files)})
        benches = _benches(
            digest(job.spec.model_dump_json(), job.files.sha256), restore=job.restore, eager=job.eager
        )
        module = content.path_of(job.module) if job.module else None
        began = time.monotonic()
        outcome = benches.carry_out(job.task, spec, kernel, job.key, place, module)
        seconds = time.monotonic() - began
        outcome = _without_much(outcome, place)
        return TrialDone(outcome, str(place), content.offer(place), seconds, benches.accel)


def _without_much(outcome: Outcome, place: Path) -> Outcome:
    """Leave a vmcore that is too large to travel on this machine, and say where it lies."""
    core = place / "vmcore"
    if not core.is_file() or core.stat().st_size <= VMCORE_BYTES:
        return outcome
    kept = Path(tempfile.mkdtemp(dir=_room("vmcores"))) / "vmcore"
    core.rename(kept)
    where = f"the vmcore, {kept.stat().st_size >> 20} MiB, is {kept} on {socket.gethostname()}"
    return replace(outcome, vmcore=None, evidence=(*outcome.evidence, where))


def _room(name: str) -> Path:
    place = cache_root() / name
    place.mkdir(parents=True, exist_ok=True)
    return place


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """Lend a folder in the cache, and take away those that were left."""
    room = _room(name)
    for left in room.iterdir():
        if time.time() - left.stat().st_mtime > LEFT_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=room, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@dataclass(frozen=True, slots=True)
class ModuleJob:
    """A module to build: ``sources`` is what they wrote, ``listing`` what they list, ``folder`` the module's.

    ``headers`` is a folder that has the kernel's headers in ``place``.
    """

    what: str
    sources: Blob
    listing: tuple[tuple[str, str], ...]
    folder: str
    headers: Blob
    place: str
    kernel: Kernel
    name: str
    patches: tuple[str, ...]

    def needs(self) -> tuple[Blob, ...]:
        """Return all blobs that it needs."""
        return self.sources, self.headers


@dataclass(frozen=True, slots=True)
class ModuleDone:
    """A build: its key in the cache, and its entry there; ``fresh`` is false where it was there before."""

    key: str
    entry: Blob
    fresh: bool


def run_module(job: ModuleJob) -> ModuleDone:
    """Build a module, and offer its entry of the cache; the module itself is kept as a blob, too."""
    with content.using(*job.needs()), doing("build", job.what):
        sources = WrittenSources(content.unpacked(job.sources), job.listing, job.folder)
        kernel = replace(job.kernel, headers=content.unpacked(job.headers) / job.place)
        build = build_module(sources, kernel=kernel, name=job.name, patches=job.patches)
        if build.module is not None:
            content.adopt(build.module)
        key = module_key(sources, kernel, job.name, job.patches)
        return ModuleDone(key, content.offer(cache_root() / MODULES / key), build.fresh)


@dataclass(frozen=True, slots=True)
class TreeJob:
    """A kernel to build from ``tree`` of the repository that workers call ``mirror``.

    ``packs`` bring trees, in order, that the worker lacks.
    """

    what: str
    mirror: str
    tree: str
    recipe: Recipe
    image: Image
    modules: bool
    patches: tuple[str, ...]
    packs: tuple[tuple[str, Blob], ...] = ()


@dataclass(frozen=True, slots=True)
class TreeDone:
    """A kernel: its key in the cache and its entry there; or what is kept nowhere, with the log's text."""

    key: str
    entry: Blob | None
    fresh: bool
    error: str | None = None
    log: str = ""
    seconds: float = 0.0


async def trees_of(mirror: str) -> tuple[str, ...]:
    """Return the trees that this machine has of a repository, the newest last; runs in a worker's loop."""
    return await asyncio.to_thread(lambda: Mirror(mirror).trees())


def run_tree(job: TreeJob) -> TreeDone:
    """Build a kernel, and offer its entry of the cache; the image is kept as a blob, too."""
    mirror = Mirror(job.mirror)
    packs = [(tree, blob) for tree, blob in job.packs if tree not in mirror.trees()]
    with doing("build", job.what):
        with content.using(*(blob for _, blob in packs)) as places:
            for (tree, _), place in zip(packs, places, strict=True):
                mirror.take(tree, place)
        for _, blob in job.packs:
            content.discard(blob)
        checkout = mirror.checkout()
        built = build_tree(
            checkout, job.tree, job.recipe, what=job.what, image=job.image, modules=job.modules,
            patches=job.patches,
        )  # fmt: skip
        key = tree_key(checkout, job.tree, job.recipe, image=job.image, modules=job.modules)
        if built.folder != cache_root() / BUILT / key:
            # It took too long, which another machine need not.
            log = built.log.read_text(errors="replace")
            return TreeDone(key, None, True, built.error, log, built.seconds)
        if built.kernel is not None:
            content.adopt(built.kernel.image)
        return TreeDone(key, content.offer(built.folder), built.fresh)
