"""A kernel's source tree, built out of tree into a folder that is kept, so that a step costs what changed.

A build is reproducible as far as kbuild allows (Documentation/kbuild/reproducible-builds.rst): user, host,
time and build number are fixed and paths are mapped, so that equal sources give equal binaries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ktriage.cache import cache_root, cached, digest, keep_newest, locked, touch
from ktriage.errors import MachineryError, UserError
from ktriage.kernel import compiler as compilers
from ktriage.kernel.compiler import BUILT_WITH, compiler_version
from ktriage.kernel.config import Config, configure, parse_config
from ktriage.kernel.debian import fetch
from ktriage.kernel.kconfig import SOURCE_ARCH
from ktriage.kernel.make import TOO_LONG, errors_of, run_make
from ktriage.kernel.signature import image_signature
from ktriage.kernel.types import Kernel

Progress = Callable[[str], None]

BUILD_TIMEOUT = 7200.0
STAMP = ".ktriage-configured"
HALF_MADE_TOOLS = re.compile(r"^make.* \*\*\* \[(\S+ )?tools/", re.MULTILINE)
ROOM = "tree"
KEPT = 6
"""Build folders that stay in the cache; each takes some 300 MB, with DWARF some GB."""

TOOLS = {
    "make": "make", "flex": "flex", "bison": "bison", "bc": "bc", "ld": "binutils", "objcopy": "binutils",
    "perl": "perl", "setpriv": "util-linux",
}  # fmt: skip
"""Programs that every kernel build runs, with the Debian packages that have them
(Documentation/process/changes.rst)."""
HEADERS = {"gelf.h": "libelf-dev"}
"""Headers that the tools of every build include: objtool's."""
FOR_SYMBOLS = {
    "DEBUG_INFO_BTF": ("pahole", "dwarves"), "IKHEADERS": ("cpio", "cpio"), "KERNEL_LZ4": ("lz4", "lz4"),
    "KERNEL_LZO": ("lzop", "lzop"), "KERNEL_XZ": ("xz", "xz-utils"), "KERNEL_ZSTD": ("zstd", "zstd"),
    "MODULE_SIG": ("openssl/opensslv.h", "libssl-dev"),
    "SYSTEM_TRUSTED_KEYRING": ("openssl/opensslv.h", "libssl-dev"),
}  # fmt: skip
"""Programs and headers that a build needs where a symbol is set, with the Debian packages that have them."""


@dataclass(frozen=True, slots=True)
class TreeBuild:
    """A finished build. ``kernel`` and ``signature`` are None where it failed; ``error`` then says why.

    ``folder`` is the build folder, which the next build of the same tree and configuration changes; ``log``
    is what make printed. ``seconds`` is what configuring and building took, ``make_seconds`` make alone.
    ``absent`` are symbols that were asked for and that this tree does not have; ``errors`` are the first few
    of a build that failed.
    """

    kernel: Kernel | None
    signature: str | None
    error: str | None
    folder: Path
    log: Path
    seconds: float
    absent: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    make_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to build: the configuration, the compiler's name (see ``kernel.compiler``), make's targets.

    ``jobs`` is how many compilers run at a time (None: as many as there are processors); ``timeout`` is in
    seconds. With ``lenient``, symbols that a tree does not have are no error.
    """

    config: Config
    compiler: str = "gcc"
    targets: tuple[str, ...] = ("bzImage", "modules")
    jobs: int | None = None
    timeout: float = BUILD_TIMEOUT
    lenient: bool = False


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


def check_tools(compiler: str, config: Path | None = None) -> None:
    """Raise UserError where something is missing that kernels are built with; it names Debian's package.

    With a .config, what its symbols need counts, too.
    """
    compiler_version(compiler)
    needed = {**TOOLS, **HEADERS, **compilers.tools(compiler)}
    if config is not None:
        values = parse_config(config.read_text())
        needed.update(pair for symbol, pair in FOR_SYMBOLS.items() if values.get(symbol) == "y")
    missing = {
        name: package for name, package in needed.items() if not _is_here(name, compilers.program(compiler))
    }
    if missing:
        what = ", ".join(f"{name} ({package})" for name, package in sorted(missing.items()))
        packages = " ".join(sorted(set(missing.values())))
        raise UserError(f"the kernel can't be built here without {what}", hint=f"apt-get install {packages}")


@lru_cache
def _is_here(name: str, compiler: str) -> bool:
    if not name.endswith(".h"):
        return shutil.which(name) is not None
    command = [compiler, "-fsyntax-only", "-include", name, "-x", "c", "/dev/null"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build_folder(tree: Path, config: Config, compiler: str = "gcc") -> Path:
    """Return the folder that ``tree`` is built in with ``config`` and ``compiler``; it may not exist yet."""
    return cache_root() / ROOM / digest(str(tree.resolve()), *config.texts(), compiler_version(compiler))


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
    recipe = Recipe(config, compiler, jobs=jobs, timeout=timeout)
    with build_locked(tree, recipe) as out:
        return make_tree(tree, recipe, out, progress=progress)


@contextmanager
def build_locked(tree: Path, recipe: Recipe) -> Iterator[Path]:
    """Hold the build folder of a tree, and give its path; nobody else builds in it while the block lasts."""
    out = build_folder(tree, recipe.config, recipe.compiler)
    with locked(out.with_name(out.name + ".lock")):
        new = not out.is_dir()
        out.mkdir(parents=True, exist_ok=True)
        touch(out)
        yield out
    if new:
        keep_newest(ROOM, KEPT)


def make_tree(
    tree: Path, recipe: Recipe, out: Path, *, since: int | None = None, progress: Progress = lambda _: None
) -> TreeBuild:
    """Configure where needed and build in ``out``, which the caller holds; raises as ``build_tree``."""
    log = out / "build.log"
    began = time.monotonic()
    if not _is_configured(tree, out):
        configure(tree, out, recipe.config, compiler=recipe.compiler, lenient=recipe.lenient)
    check_tools(recipe.compiler, out / ".config")
    (out / BUILT_WITH).write_text(recipe.compiler)
    absent = absent_symbols(out / ".config", recipe.config)
    progress(f"building {tree.name} in {out}")
    command = [
        "make",
        "-C",
        str(tree),
        f"O={out}",
        *compilers.make_arguments(recipe.compiler),
        "LOCALVERSION=",
    ]
    # Without the map the tree's folder would stand in the debug information.
    command += [f"-j{recipe.jobs or os.cpu_count() or 1}", f"KCFLAGS=-ffile-prefix-map={tree}/="]
    making = time.monotonic()
    try:
        error = run_make(
            [*command, *recipe.targets],
            log,
            recipe.timeout,
            since=since,
            watch=lambda seconds: progress(f"building for {seconds:.0f} s: {_made(log)} files made"),
        )
    except MachineryError:
        _drop_half_made(out, log)
        raise
    making = time.monotonic() - making
    if stamp := _configuration(tree, out):
        (out / STAMP).write_text(stamp)
    if error is not None:
        failed = log.read_text(errors="replace").replace(f"{tree}/", "").replace(f"{out}/", "")
        errors = (error,) if error.startswith(TOO_LONG) else tuple(errors_of(failed))
        return TreeBuild(None, None, errors[0], out, log, time.monotonic() - began, absent, errors, making)
    kernel = _built(out)
    assert kernel.vmlinux
    signature = image_signature(kernel.vmlinux, kernel.release)
    return TreeBuild(kernel, signature, None, out, log, time.monotonic() - began, absent, (), making)


def _drop_half_made(out: Path, log: Path) -> None:
    """Remove the tools of a build that was cut short while these were made.

    kbuild deletes what it could not finish; tools/build does not (no .DELETE_ON_ERROR, v6.1 to v6.12), and a
    table or object that stopped in the middle is newer than its source: no later build would come through.
    """
    if HALF_MADE_TOOLS.search(log.read_text(errors="replace")):
        shutil.rmtree(out / "tools", ignore_errors=True)


def _made(log: Path) -> int:
    return log.read_bytes().count(b"\n  ")


def absent_symbols(config: Path, wanted: Config) -> tuple[str, ...]:
    """Return the symbols that a person asked for and that are not in a .config as ``configure`` left it."""
    values = parse_config(config.read_text())
    asked = {name: value for text in wanted.fragments for name, value in parse_config(text).items()}
    return tuple(name for name, value in asked.items() if values.get(name, "n") != value)


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
    image = out / f"arch/{SOURCE_ARCH}/boot/bzImage"
    return Kernel(image=image, release=release, headers=out, vmlinux=out / "vmlinux")
