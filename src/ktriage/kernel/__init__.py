"""Kernels and modules: fetched or built, kept by what they are made of."""

from ktriage.kernel.built import Built, build_as_it_stands, build_revision
from ktriage.kernel.checkers import checkers_for
from ktriage.kernel.checkout import Checkout, check_revision
from ktriage.kernel.config import DEFAULT_BASE, NEEDED, PLAIN, READABLE, RECORDING, SMALL, Config
from ktriage.kernel.debian import packaged_kernel
from ktriage.kernel.module import ModuleBuild, build_module
from ktriage.kernel.sources import FolderSources, RevisionSources, Sources
from ktriage.kernel.tree import Recipe
from ktriage.kernel.types import Kernel

__all__ = [
    "DEFAULT_BASE",
    "NEEDED",
    "PLAIN",
    "READABLE",
    "RECORDING",
    "SMALL",
    "Built",
    "Checkout",
    "Config",
    "FolderSources",
    "Kernel",
    "ModuleBuild",
    "Recipe",
    "RevisionSources",
    "Sources",
    "build_as_it_stands",
    "build_module",
    "build_revision",
    "check_revision",
    "checkers_for",
    "packaged_kernel",
]
