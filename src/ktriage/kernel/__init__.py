"""Kernels and modules: fetched or built, kept by what they are made of."""

from ktriage.kernel.debian import packaged_kernel
from ktriage.kernel.module import ModuleBuild, build_module
from ktriage.kernel.sources import FolderSources, RevisionSources, Sources
from ktriage.kernel.types import Kernel

__all__ = [
    "FolderSources",
    "Kernel",
    "ModuleBuild",
    "RevisionSources",
    "Sources",
    "build_module",
    "packaged_kernel",
]
