"""What a lab's driver has done on workers: modules built, trials run. All that is needed comes as blobs."""

from __future__ import annotations

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
from ktriage.jobs import content
from ktriage.jobs.benches import Benches, Task
from ktriage.jobs.content import Blob
from ktriage.jobs.under_way import doing
from ktriage.kernel import Kernel, build_module
from ktriage.kernel.module import ROOM, module_key
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
        return ModuleDone(key, content.offer(cache_root() / ROOM / key), build.fresh)
