"""An out-of-tree kernel module, built at a revision against a kernel's headers.

A build is kept by what it was made of: the sources (documents left out), the headers, the compiler and the
patches. Two revisions with the same sources share one build, and a build that failed is kept as a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ktriage.cache import cache_root, cached, digest
from ktriage.errors import UserError
from ktriage.history.tree import apply_patches
from ktriage.kernel.make import run_make
from ktriage.kernel.signature import module_signature
from ktriage.kernel.sources import Sources
from ktriage.kernel.types import Kernel

DOCUMENT = re.compile(
    r"(^|/)(Documentation|docs?|LICENSES)/|\.(md|rst|txt)$|(^|/)(README|COPYING|LICENSE|CHANGELOG)[^/]*$"
)
"""Paths that no build reads."""

ARGUMENTS = ("CONFIG_DEBUG_INFO_BTF_MODULES=",)
"""For make: BTF needs pahole and a vmlinux, and nothing here reads it."""

ENTRY = "signature kept"
"""What a cache entry holds; another word makes all of them anew."""

BUILD_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class ModuleBuild:
    """A finished build. ``module`` and ``signature`` are None where it failed; ``error`` then says why.

    ``seconds`` is what building took when it was done; ``fresh`` is false where it came from the cache.
    ``folder`` holds the sources as they were built, and ``log`` is what make printed.
    """

    folder: Path
    log: Path
    module: Path | None
    signature: str | None
    error: str | None
    seconds: float
    fresh: bool


def compiler_of(headers: Path) -> str:
    """Return the compiler that the headers ask for (Debian's .kernelvariables), else gcc."""
    variables = headers / ".kernelvariables"
    named = (
        re.search(r"^CC = .*?([\w-]*gcc[\w.-]*)$", variables.read_text(), re.MULTILINE)
        if variables.is_file()
        else None
    )
    compiler = named[1] if named else "gcc"
    if shutil.which(compiler) is None:
        raise UserError(
            f"no {compiler} on this machine: the kernel's modules are built with it",
            hint=f"apt-get install {compiler}",
        )
    return compiler


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def build_module(
    sources: Sources,
    *,
    kernel: Kernel,
    name: str,
    patches: tuple[str, ...] = (),
    timeout: float = BUILD_TIMEOUT,
) -> ModuleBuild:
    """Build the module ``name`` of ``sources``; a failed build is an answer, not an error.

    ``patches`` are texts of patches to the whole tree. Raises UserError where the sources or the headers are
    not there, MachineryError where the machine could not build (no room, killed).
    """
    headers = kernel.headers
    if headers is None or not (headers / "Makefile").is_file():
        raise UserError(f"no headers to build modules against for {kernel.release}")
    compiler = compiler_of(headers)
    files = sorted(f"{blob} {path}" for blob, path in sources.files() if not DOCUMENT.search(path))
    if not any(line.split(" ", 1)[1] in ("Makefile", "Kbuild") for line in files):
        raise UserError(f"no Makefile or Kbuild in {sources}", hint="[module] source")
    key = digest(ENTRY, *files, str(headers), _version(compiler), name, *ARGUMENTS, *patches)
    fresh = not (cache_root() / "module" / key).is_dir()

    def make(folder: Path) -> None:
        place = sources.write(folder / "src", whole=bool(patches))
        complaint = apply_patches(folder / "src", patches)
        error, seconds = (
            _make(folder, place, headers, name, timeout) if complaint is None else (complaint, 0.0)
        )
        signature = module_signature(folder / f"{name}.ko") if error is None else None
        result = {"error": error, "seconds": seconds, "signature": signature}
        (folder / "result.json").write_text(json.dumps(result))

    folder = cached("module", key, make)
    result = json.loads((folder / "result.json").read_text())
    module = folder / f"{name}.ko"
    return ModuleBuild(
        folder=folder / "src",
        log=folder / "build.log",
        module=module if module.is_file() else None,
        signature=result["signature"],
        error=result["error"],
        seconds=result["seconds"],
        fresh=fresh,
    )


def _make(folder: Path, source: Path, headers: Path, name: str, timeout: float) -> tuple[str | None, float]:
    # Without the maps the build's folder would stand in WARN's file names and in the debug information,
    # and equal sources would give unequal modules.
    maps = f"-fmacro-prefix-map={source}/= -ffile-prefix-map={source}=."
    command = [
        "make",
        "-C",
        str(headers),
        f"M={source}",
        f"KCFLAGS={maps}",
        f"-j{os.cpu_count() or 1}",
        *ARGUMENTS,
        "modules",
    ]
    began = time.monotonic()
    error = run_make(command, folder / "build.log", timeout)
    seconds = time.monotonic() - began
    if error is not None:
        return error.replace(f"{source}/", ""), seconds
    built = source / f"{name}.ko"
    if not built.is_file():
        others = ", ".join(sorted(str(path.relative_to(source)) for path in source.rglob("*.ko"))) or "none"
        raise UserError(f"the build makes no {name}.ko (modules it makes: {others})", hint="[module] name")
    shutil.copy(built, folder / f"{name}.ko")
    return None, seconds
