"""A kernel that can be booted, and what goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel on disk.

    ``image`` is a bzImage or a vmlinux. ``modules`` is its /lib/modules/RELEASE folder with modules.dep,
    ``headers`` the folder to build modules against, ``vmlinux`` the file with its DWARF; each None where it
    is not at hand. ``package`` and ``version`` are the distribution's, where it came from one.
    """

    image: Path
    release: str
    modules: Path | None = None
    headers: Path | None = None
    vmlinux: Path | None = None
    package: str | None = None
    version: str | None = None
