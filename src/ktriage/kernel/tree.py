"""A kernel's source tree, built out of tree into a folder that is kept, so that a step costs what changed.

A build is reproducible as far as kbuild allows (Documentation/kbuild/reproducible-builds.rst): user, host,
time and build number are fixed and paths are mapped, so that equal sources give equal binaries.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from ktriage.cache import cache_root, cached, digest, locked
from ktriage.errors import MachineryError, UserError
from ktriage.kernel.config import Config, configure
from ktriage.kernel.debian import fetch
from ktriage.kernel.make import run_make
from ktriage.kernel.types import Kernel

Progress = Callable[[str], None]

BUILD_TIMEOUT = 7200.0
STAMP = ".ktriage-configured"
NOT_CODE = (".notes", ".note.", ".BTF")
"""Sections of a vmlinux that say who and when, not what; by the beginning of their names."""


@dataclass(frozen=True, slots=True)
class TreeBuild:
    """A finished build. ``kernel`` and ``signature`` are None where it failed; ``error`` then says why.

    ``folder`` is the build folder, which the next build of the same tree and configuration changes; ``log``
    is what make printed. ``seconds`` is what configuring and building took.
    """

    kernel: Kernel | None
    signature: str | None
    error: str | None
    folder: Path
    log: Path
    seconds: float


def packaged_source(package: str = "linux-source-6.1", *, progress: Progress = lambda _: None) -> Path:
    """Return the source tree of Debian's package ``package``, fetched and unpacked where it is not at hand.

    Raises UserError where there is no such package, MachineryError where it can't be had.
    """
    shown = subprocess.run(
        ["apt-cache", "show", "--", package], capture_output=True, text=True, errors="replace", check=False
    )
    version = re.search(r"^Version: (\S+)", shown.stdout, re.MULTILINE)
    if version is None:
        raise UserError(f"no package {package} on the configured mirrors", hint="apt-get update")

    def make(folder: Path) -> None:
        fetch({package: version[1]}, folder, progress)
        progress(f"unpacking {package}")
        archive = folder / f"usr/src/{package}.tar.xz"
        done = subprocess.run(
            ["tar", "-xf", str(archive), "-C", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MachineryError(f"{archive.name} does not unpack: {done.stderr.strip()}")
        shutil.rmtree(folder / "usr")

    return cached("source", f"{package}_{version[1]}".replace(":", "."), make) / package


def build_folder(tree: Path, config: Config, compiler: str = "gcc") -> Path:
    """Return the folder that ``tree`` is built in with ``config`` and ``compiler``; it may not exist yet."""
    if shutil.which(compiler) is None:
        raise UserError(f"no compiler {compiler} on this machine")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    base = config.base.read_bytes() if isinstance(config.base, Path) else config.base
    return cache_root() / "tree" / digest(str(tree.resolve()), base, *config.fragments, version)


def build_tree(
    tree: Path,
    config: Config,
    *,
    compiler: str = "gcc",
    jobs: int | None = None,
    timeout: float = BUILD_TIMEOUT,
    progress: Progress = lambda _: None,
) -> TreeBuild:
    """Build the kernel in ``tree``; a tree that does not build is an answer, not an error.

    The build folder is kept and used again, under a lock. The kernel that is returned holds its bzImage, its
    vmlinux and itself as headers; it stands in the build folder until the next build there. Raises UserError
    where there is no kernel source or the configuration can't be had as asked for, MachineryError where the
    machine could not build (no room, no memory, killed).
    """
    out = build_folder(tree, config, compiler)
    log = out / "build.log"
    with locked(out.with_name(out.name + ".lock")):
        began = time.monotonic()
        if not _is_configured(tree, out):
            configure(tree, out, config, compiler=compiler)
        progress(f"building {tree.name} in {out}")
        command = ["make", "-C", str(tree), f"O={out}", f"CC={compiler}", f"-j{jobs or os.cpu_count() or 1}"]
        # Without the map the tree's folder would stand in the debug information.
        command += [f"KCFLAGS=-ffile-prefix-map={tree}/=", "bzImage", "modules"]
        error = run_make(command, log, timeout)
        if error is not None:
            error = error.replace(f"{tree}/", "").replace(f"{out}/", "")
            return TreeBuild(None, None, error, out, log, time.monotonic() - began)
        (out / STAMP).write_text(_configuration(tree, out))
        kernel = _built(out)
        seconds = time.monotonic() - began
    assert kernel.vmlinux
    return TreeBuild(kernel, image_signature(kernel.vmlinux), None, out, log, seconds)


def _configuration(tree: Path, out: Path) -> str:
    """Return a hash of the .config and of all Kconfig files that it came from; empty where not known.

    kconfig lists the files in include/config/auto.conf.cmd, relative to the tree.
    """
    try:
        listed = (out / "include/config/auto.conf.cmd").read_text().split("\n\n", 1)[0]
        names = listed.replace("\\\n", " ").removeprefix("deps_config :=").split()
        return digest(out / ".config", *(path for name in names if (path := tree / name).is_file()))
    except FileNotFoundError:
        return ""


def _is_configured(tree: Path, out: Path) -> bool:
    """Return whether configuring again would change nothing: it takes longer than many a build."""
    stamp = out / STAMP
    return stamp.is_file() and stamp.read_text() == _configuration(tree, out) != ""


def _built(out: Path) -> Kernel:
    release = (out / "include/config/kernel.release").read_text().strip()
    return Kernel(image=out / "arch/x86/boot/bzImage", release=release, headers=out, vmlinux=out / "vmlinux")


def image_signature(vmlinux: Path) -> str:
    """Return a hash (64 hex digits) of what a vmlinux is once loaded: its allocated sections.

    Build ids and BTF are left out; user, host, time and build number were fixed when it was built. Raises
    UserError where the file is not ELF.
    """
    total = hashlib.sha256()
    try:
        with vmlinux.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or section.name.startswith(NOT_CODE):
                    continue
                name = section.name.encode()
                size = section["sh_size"]
                total.update(struct.pack("<IQ", len(name), size) + name)
                if section["sh_type"] != "SHT_NOBITS":
                    total.update(section.data())
    except (ELFError, OSError, struct.error) as error:
        raise UserError(f"{vmlinux} is no kernel: {error}") from error
    return total.hexdigest()
