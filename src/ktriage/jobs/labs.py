"""The laboratory that a specification asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ktriage.jobs.lab import Lab
from ktriage.jobs.module_lab import ModuleLab
from ktriage.jobs.tree_lab import open_tree_lab, own_kernel
from ktriage.kernel import Kernel, packaged_kernel
from ktriage.trial import Spec, named_kernel, set_up

Progress = Callable[[str], None]


def kernel_of(spec: Spec, *, debuginfo: bool = False, progress: Progress = lambda _: None) -> Kernel:
    """Return the kernel that a specification names, fetched where it is a package.

    Raises UserError where it is not to be had.
    """
    if spec.kernel.tree is not None:
        return own_kernel(spec, progress)
    if spec.kernel.package is None:
        return named_kernel(spec)
    return packaged_kernel(
        spec.kernel.package, headers=spec.module is not None, debuginfo=debuginfo, progress=progress
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
    kernel does not come up; a kernel that is built from a tree is built and booted at the first trial.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if spec.kernel_under_test:
        return open_tree_lab(spec, directory.resolve(), repo=repo, restore=restore, progress=progress)
    kernel = kernel_of(spec, debuginfo=debuginfo, progress=progress)
    bench = set_up(spec, kernel, restore=restore, progress=progress)
    return ModuleLab(bench, directory.resolve(), repo)
