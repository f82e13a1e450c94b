"""Kernels and modules: fetched or built, kept by what they are made of."""

from ktriage.kernel.debian import packaged_kernel
from ktriage.kernel.module import ModuleBuild, build_module
from ktriage.kernel.types import Kernel

__all__ = ["Kernel", "ModuleBuild", "build_module", "packaged_kernel"]
