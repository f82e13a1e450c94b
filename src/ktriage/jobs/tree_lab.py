"""A laboratory whose kernel is built at each revision from its source tree."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ktriage.bisect.types import RunResult
from ktriage.cache import digest
from ktriage.errors import KtriageError, UserError
from ktriage.history.repository import Repository
from ktriage.jobs.benches import Benches, Task
from ktriage.jobs.lab import Build, Lab
from ktriage.kernel import (
    DEFAULT_BASE,
    NEEDED,
    PLAIN,
    READABLE,
    RECORDING,
    SMALL,
    Built,
    Checkout,
    Config,
    Kernel,
    Recipe,
    build_as_it_stands,
    build_revision,
    check_revision,
    checkers_for,
)
from ktriage.kernel.config import Dropped, parse_config
from ktriage.kernel.tree import build_folder
from ktriage.symbols.symbolize import symbolize_crash
from ktriage.trial import Bench, Outcome, Spec, set_up
from ktriage.trial.boot import Image, images_to_try, remember
from ktriage.trial.spec import PatchTable, RangedTable
from ktriage.words import OutcomeKind

Progress = Callable[[str], None]

SMALL_BASES = (DEFAULT_BASE, "tinyconfig", "allnoconfig")
DWARF = """\
CONFIG_DEBUG_KERNEL=y
CONFIG_DEBUG_INFO=y
CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y
"""
NO_DWARF = "CONFIG_DEBUG_INFO_NONE=y\n# CONFIG_DEBUG_INFO is not set\n"
"""Since v5.18 debug information is a choice with a member for none (f9b3cd245784); before, a switch."""

SEVERAL_ERRORS = 3
NOT_BOOTED = "the kernel did not boot: "
"""How the detail of a kernel that did not come up begins (machine/guest.py)."""


class TreeLab(Lab):
    """One reproducer on kernels built from a tree: at any revision of ``repo``, or of a folder as it stands.

    Guests are booted at first, and restored once a kernel has been booted for some seconds.
    """

    def __init__(
        self, spec: Spec, directory: Path, repo: Path | None, *, restore: bool, progress: Progress
    ) -> None:
        self._spec = spec
        self.directory = directory
        self.repo = repo
        self.restore = restore
        self.progress = progress
        self.strict = True
        self.recipe = recipe_of(spec)
        self.repository = Repository(repo) if repo is not None else None
        self.checkout = Checkout(self.repository) if self.repository else None
        self.patches = tuple((table, _patch(spec, table)) for table in spec.kernel.patch)
        self._ranges = self._resolved([*spec.kernel.compiler, *spec.kernel.patch])
        self.benches = Benches(restore=restore)

    @property
    def spec(self) -> Spec:
        """The reproducer."""
        return self._spec

    @property
    def accel(self) -> str:
        """What guests run on; empty before the first."""
        return self.benches.accel

    def _resolved(self, tables: list[RangedTable]) -> dict[str, str]:
        """Return the commits that the ranges' revisions name; raises UserError where one is unknown."""
        names = {name for table in tables for name in (table.since, table.until) if name is not None}
        if names and self.repository is None:
            raise UserError("since and until are revisions of a repository", hint="name it with --repo")
        if self.patches and self.repository is None:
            raise UserError("[[kernel.patch]] goes on revisions of a repository", hint="name it with --repo")
        return {name: self.repository.resolve(name) for name in sorted(names)} if self.repository else {}

    def _holds(self, table: RangedTable, commit: str) -> bool:
        """Return whether an entry of the specification is meant for a revision."""

        def contains(name: str) -> bool:
            assert self.repository
            return self.repository.is_ancestor(self._ranges[name], commit)

        return (table.since is None or contains(table.since)) and not (
            table.until is not None and contains(table.until)
        )

    def compiler(self, commit: str | None) -> str:
        """Return the name of the compiler of a revision."""
        for table in self.spec.kernel.compiler:
            if commit is None or self._holds(table, commit):
                return table.name
        return "gcc"

    def build(self, commit: str | None, patches: tuple[str, ...] = ()) -> Built:
        """Return the kernel of a revision as the image that such kernels are known to boot as."""
        return self._build(commit, patches, images_to_try(self._kind(commit))[0])

    def _kind(self, commit: str | None) -> str:
        """Return a key of all kernels that differ by their revisions only."""
        return digest(*self.recipe.config.texts(), self.compiler(commit))

    def _build(self, commit: str | None, patches: tuple[str, ...], image: Image) -> Built:
        recipe = replace(self.recipe, compiler=self.compiler(commit), lenient=not self.strict)
        modules = bool(self.spec.guest.drivers)
        if self.checkout is None or commit is None:
            tree = self.spec.path(self.spec.kernel.tree or "")
            if patches:
                raise UserError("patches go on revisions of a repository", hint="name it with --repo")
            return build_as_it_stands(tree, recipe, image=image, modules=modules, progress=self.progress)
        assert self.repository
        check_revision(self.repository, commit)
        known = tuple(text for table, text in self.patches if self._holds(table, commit))
        try:
            return self.build_revision(commit, recipe, known + patches, image=image, modules=modules)
        except UserError as error:
            if self.strict or "dropped" not in error.data:
                raise
            # What can be had at one end of the range only makes the others untestable.
            return _not_configured(error, self.directory)

    def build_revision(
        self, commit: str, recipe: Recipe, patches: tuple[str, ...], *, image: Image, modules: bool
    ) -> Built:
        """Build a revision of the repository, or return what was built before."""
        assert self.checkout
        return build_revision(
            self.checkout, commit, recipe, image=image, modules=modules, patches=patches,
            progress=self.progress,
        )  # fmt: skip

    def kernel(self, commit: str | None) -> Kernel | None:
        """Return the kernel of a revision."""
        return self.build(commit).kernel

    def modules(self, commit: str | None) -> list[Path]:
        """Return the modules that were installed with a kernel that has debug information."""
        return _installed(self.kernel(commit))

    def not_built(self, built: Built, place: Path) -> Outcome:
        """Keep the outcome of a build that failed, with the first few errors as evidence, and return it."""
        shutil.copy(built.log, place / "build.log")
        outcome = Outcome(
            OutcomeKind.BUILD_FAILED,
            detail=built.error or "",
            evidence=built.errors[:SEVERAL_ERRORS],
            directory=str(place),
            built=_used(built),
        )
        outcome.save(place)
        return outcome

    def trial(
        self, name: str, commit: str | None, patches: tuple[str, ...] = (), vmcore: str | None = None
    ) -> tuple[Outcome, Built]:
        """Build where needed, run once; a kernel that does not come up as one image is tried as the other."""
        return self._either(name, commit, patches, Task(vmcore))

    def boots(self, commit: str | None) -> Outcome:
        """Build and boot a revision, without running anything; what failed is kept below ``directory``."""
        name = f"boot-{(commit or 'tree')[:12]}"
        outcome, _ = self._either(name, commit, (), Task(only_boot=True))
        if outcome.kind not in (OutcomeKind.BUILD_FAILED, OutcomeKind.BOOT_FAILED):
            shutil.rmtree(self.directory / name)
        return outcome

    def _either(
        self, name: str, commit: str | None, patches: tuple[str, ...], task: Task
    ) -> tuple[Outcome, Built]:
        kind = self._kind(commit)
        failed: list[str] = []
        for image in images_to_try(kind):
            place = self.fresh_place(name)
            built = self._build(commit, patches, image)
            if built.kernel is None:
                return self.not_built(built, place), built
            outcome = self._go(built, place, task)
            if outcome.kind is not OutcomeKind.BOOT_FAILED:
                if outcome.kind is not OutcomeKind.INFRA:
                    remember(kind, image)
                return outcome, built
            failed.append(f"{outcome.detail.removeprefix(NOT_BOOTED)} ({image})")
        # Why the one that others of its kind come up as did not: that of the other says little.
        outcome = replace(outcome, detail=NOT_BOOTED + ", ".join(failed))
        outcome.save(place)
        return outcome, built

    def _go(self, built: Built, place: Path, task: Task) -> Outcome:
        outcome = self.carry_out(built, place, task)
        outcome = replace(self._symbolized(outcome, built), built=_used(built))
        outcome.save(place)
        return outcome

    def carry_out(self, built: Built, place: Path, task: Task) -> Outcome:
        """Do a task on a kernel that was built and keep what it leaves in ``place``."""
        assert built.kernel
        return self.benches.carry_out(task, self.spec, built.kernel, kernel_key(built), place)

    def prepared(self, build: Build | None) -> tuple[Bench, Path | None]:
        """Return a bench that restores the kernel of a build."""
        if not isinstance(build, Built) or build.kernel is None:
            raise UserError("there is no kernel to boot: it does not build")
        return set_up(self.spec, build.kernel, restore=self.restore), None

    def _symbolized(self, outcome: Outcome, built: Built) -> Outcome:
        crash = outcome.crash
        if crash is None or built.kernel is None or built.kernel.vmlinux is None:
            return outcome
        try:
            found = symbolize_crash(crash, vmlinux=built.kernel.vmlinux, modules=_installed(built.kernel))
        except KtriageError as error:
            self.progress(f"no source lines: {error}")
            return outcome
        return replace(outcome, crash=found)

    def __call__(self, commit: str, patches: tuple[str, ...], attempt: str) -> RunResult:
        """Run the reproducer once at ``commit``; symbols that only some revisions have are no error."""
        self.strict = False
        return Lab.__call__(self, commit, patches, attempt)


def kernel_key(built: Built) -> str:
    """Return a key of kernels that are equal: revisions with the same share the saved guest of the first."""
    return f"{built.signature} {built.used['image']}"


def recipe_of(spec: Spec) -> Recipe:
    """Return how a specification's kernel is configured and built.

    Raises UserError where a file that it names is not there or is no configuration.
    """
    table = spec.kernel
    base: str | Path = table.config
    if base != DEFAULT_BASE and not re.fullmatch(r"\w+config", table.config):
        base = spec.path(table.config)
        _configuration("config", base)
    asked = tuple(_configuration("fragments", spec.path(name)) for name in table.fragments)
    needs = [NEEDED, checkers_for(spec.hunted.titles)]
    wishes = [SMALL if base in SMALL_BASES else PLAIN]
    if base in SMALL_BASES and base != DEFAULT_BASE:
        wishes.append(READABLE)
    if table.debuginfo is not None:
        (needs if table.debuginfo else wishes).append(DWARF if table.debuginfo else NO_DWARF)
    options = "".join(f"{option}\n" for option in table.options)
    if spec.refs is not None:
        needs.append(RECORDING)
        _check_recording("\n".join([*asked, options]))
    config = Config(base, (*asked, options), needs=tuple(needs), wishes=tuple(wishes))
    return Recipe(config, jobs=table.jobs, timeout=table.build_timeout)


def _check_recording(asked: str) -> None:
    """Raise UserError where what is asked for is at odds with what [refs] needs."""
    values = parse_config(asked)
    needed = parse_config(RECORDING)
    odd = [f"CONFIG_{name}={values[name]}" for name in needed if values.get(name, "y") != needed[name]]
    if odd:
        raise UserError(f"[refs] can't be recorded with {', '.join(odd)}", hint="[kernel] options, fragments")


def _configuration(key: str, path: Path) -> str:
    """Return the text of a file in the format of .config that the key of [kernel] names."""
    try:
        text = path.read_text(encoding="utf-8")
        parse_config(text)
    except OSError as error:
        raise UserError(f"[kernel] {key}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"[kernel] {key}: {path}: not UTF-8 at byte {error.start}") from error
    except UserError as error:
        raise UserError(f"[kernel] {key}: {path}: {error.message}") from error
    return text


def _patch(spec: Spec, table: PatchTable) -> str:
    path = spec.path(table.file)
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"[[kernel.patch]] file: {path}: {error.strerror}") from error


def _installed(kernel: Kernel | None) -> list[Path]:
    """Return the modules that can be read for source lines: those of a kernel with debug information."""
    if kernel is None or kernel.modules is None or kernel.vmlinux is None:
        return []
    return sorted(kernel.modules.rglob("*.ko"))


def _used(built: Built) -> dict[str, Any]:
    return {**built.used, "signature": built.signature}


def _not_configured(error: UserError, directory: Path) -> Built:
    """Return a build that failed because a revision's configuration is not as asked for."""
    log = directory / "configuration.log"
    log.write_text("\n".join(str(one) for one in cast("tuple[Dropped, ...]", error.data["dropped"])) + "\n")
    return Built(None, None, error.message, (error.message,), log, directory, 0.0, True)


def open_tree_lab(
    spec: Spec, directory: Path, *, repo: Path | None, restore: bool, progress: Progress
) -> TreeLab:
    """Return the lab; raises UserError where something that the specification names is not there."""
    for source in (*spec.guest.compile, *spec.guest.files.values()):
        if not spec.path(source).is_file():
            raise UserError(f"[guest]: no such file: {spec.path(source)}")
    return TreeLab(spec, directory, repo, restore=restore, progress=progress)


def own_kernel(spec: Spec, progress: Progress) -> Kernel:
    """Return the kernel of a specification whose tree is built as it stands, to build its module against.

    Raises UserError where it does not build, or the tree is not there.
    """
    recipe = recipe_of(spec)
    if spec.kernel.compiler:
        recipe = replace(recipe, compiler=spec.kernel.compiler[0].name)
    tree = spec.path(spec.kernel.tree or "").resolve()
    # Such a guest is saved: that a bzImage takes longer to boot counts once.
    built = build_as_it_stands(tree, recipe, image="bzImage", modules=True, progress=progress)
    if built.kernel is None:
        raise UserError(f"the kernel does not build: {built.error}", hint=f"see {built.log}")
    return replace(built.kernel, headers=build_folder(tree, recipe.config, recipe.compiler))


def check_ends(lab: TreeLab, good: str, bad: str) -> None:
    """Raise UserError where neither end of a range builds and boots: then nothing in it can be told."""
    failed = []
    for which, commit in (("bad", bad), ("good", good)):
        outcome = lab.boots(commit)
        lab.strict = False
        if outcome.kind not in (OutcomeKind.BUILD_FAILED, OutcomeKind.BOOT_FAILED):
            return
        lab.progress(f"the {which} revision {commit[:12]}: {outcome.kind}: {outcome.detail}")
        failed.append(outcome)
    what = "builds" if all(one.kind is OutcomeKind.BUILD_FAILED for one in failed) else "boots"
    raise UserError(
        f"neither the bad nor the good revision {what}: {failed[0].detail}",
        hint=f"all that it said is in {failed[0].directory}",
    )
