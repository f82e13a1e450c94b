"""Where a kernel's debug information is: what is named, what a package installed, what debuginfod has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from ktriage.errors import UserError

DEBUG_ROOT = Path("/usr/lib/debug")
"""Where distributions' packages put debug information."""
DEBUGINFOD_SECONDS = 600
"""How long debuginfod-find may take: a kernel's debug information is hundreds of megabytes."""


def find_vmlinux(named: Path | None, release: str, build_id: str | None) -> Path:
    """Return the vmlinux of a kernel: ``named``, in the build directory ``named``, installed, or fetched.

    It is fetched only where DEBUGINFOD_URLS is set and elfutils' debuginfod-find is installed. Raises
    UserError where there is none, saying which package has it.
    """
    if named is not None:
        vmlinux = named / "vmlinux" if named.is_dir() else named
        if named.is_dir() and not vmlinux.is_file():
            raise UserError(f"{named}: no vmlinux in this directory", path=str(named))
        return vmlinux
    found = next((place for place in _places(release, build_id) if place.is_file()), None)
    found = found or _debuginfod(build_id)
    if found is None:
        raise UserError(
            f"no vmlinux with debug information for Linux {release}",
            hint=package_hint(release),
            release=release,
        )
    return found


def installed_modules(release: str) -> list[Path]:
    """Return the folders in which a package's modules with debug information are."""
    place = DEBUG_ROOT / "lib/modules" / release
    return [place] if place.is_dir() else []


def package_hint(release: str) -> str:
    """Say where to get a kernel's debug information."""
    return (
        f"Debian: apt-get install linux-image-{release}-dbg; others: the debuginfo package of the kernel, "
        "or DEBUGINFOD_URLS with elfutils' debuginfod-find"
    )


def _places(release: str, build_id: str | None) -> list[Path]:
    places = [
        DEBUG_ROOT / "boot" / f"vmlinux-{release}",
        DEBUG_ROOT / "lib/modules" / release / "vmlinux",
        Path("/lib/modules") / release / "build/vmlinux",
    ]
    if build_id:
        places.insert(0, DEBUG_ROOT / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug")
    return places


def _debuginfod(build_id: str | None) -> Path | None:
    program = shutil.which("debuginfod-find")
    if not (build_id and program and os.environ.get("DEBUGINFOD_URLS")):
        return None
    try:
        done = subprocess.run(
            [program, "debuginfo", build_id],
            capture_output=True, text=True, timeout=DEBUGINFOD_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = Path(done.stdout.strip())
    return path if done.returncode == 0 and path.is_file() else None
