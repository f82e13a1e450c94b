"""An out-of-tree kernel module, built at a revision against a kernel's headers.

A build is kept by what it was made of: the sources (documents left out), the headers, the compiler and the
patches. Two revisions with the same sources share one build, and a build that failed is kept as a failure.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ktriage.cache import cache_root, cached, digest
from ktriage.errors import UserError
from ktriage.history.tree import apply_patches
from ktriage.kernel.compiler import BUILT_WITH, compiler_version, make_arguments
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

ENTRY = "by the headers' content"
"""What a cache entry holds; another word makes all of them anew."""

ROOM = "module"
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
    """Return the compiler that the headers ask for, else gcc.

    Debian's say it in .kernelvariables, the build folders of kernels of one's own in a file of ours.
    """
    if (headers / BUILT_WITH).is_file():
        return (headers / BUILT_WITH).read_text()
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


READ_OF_HEADERS = ("include", "arch/x86", "scripts")
"""Folders of a kernel's headers that hold what modules are built with."""
READ_OF_TREE = ("include", "arch/x86/include")


def identity_of(kernel: Kernel) -> str:
    """Return what tells a kernel's headers from others', wherever they lie: a key of what is in them.

    Of a package its name and version will do. Raises UserError where there are none.
    """
    headers = kernel.headers
    if headers is None or not (headers / "Makefile").is_file():
        raise UserError(f"no headers to build modules against for {kernel.release}")
    if kernel.package and kernel.version:
        return f"{kernel.package} {kernel.version}"
    tops = [headers / name for name in ("Makefile", ".config", "Module.symvers")]
    times = tuple(path.stat().st_mtime_ns if path.is_file() else 0 for path in tops)
    return _content(headers, times)


@cache
def _content(headers: Path, times: tuple[int, ...]) -> str:
    """Return a key of the files that a build reads; ``times`` are those of files that each build writes."""
    del times
    total = hashlib.sha256()
    below = [path for name in READ_OF_HEADERS for path in (headers / name).rglob("*")]
    if (headers / "source").is_symlink():
        # Built out of tree: most headers are the tree's.
        below += [path for name in READ_OF_TREE for path in (headers / "source" / name).rglob("*.h")]
    for path in sorted([*below, *(headers / name for name in ("Makefile", ".config", "Module.symvers"))]):
        if path.suffix in (".o", ".cmd", ".a") or not path.is_file():
            continue
        total.update(f"{path.relative_to(headers)}\0".encode(errors="surrogateescape"))
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def sources_identity(sources: Sources, kernel: Kernel, name: str, patches: tuple[str, ...] = ()) -> str:
    """Return a key of all that a build is made of, the compiler apart.

    Raises UserError where the sources or the headers are not there.
    """
    files = sorted(f"{blob} {path}" for blob, path in sources.files() if not DOCUMENT.search(path))
    if not any(line.split(" ", 1)[1] in ("Makefile", "Kbuild") for line in files):
        raise UserError(f"no Makefile or Kbuild in {sources}", hint="[module] source")
    return digest(ENTRY, *files, identity_of(kernel), name, *ARGUMENTS, *patches)


def module_key(sources: Sources, kernel: Kernel, name: str, patches: tuple[str, ...] = ()) -> str:
    """Return the key in the cache of a build with this machine's compiler.

    Raises UserError as ``sources_identity``, and where the compiler is not there.
    """
    identity = sources_identity(sources, kernel, name, patches)
    assert kernel.headers is not None
    return digest(identity, compiler_version(compiler_of(kernel.headers)))


def kept_module(key: str, name: str, *, fresh: bool = False) -> ModuleBuild | None:
    """Return the build of that key where it is in the cache."""
    folder = cache_root() / ROOM / key
    if not folder.is_dir():
        return None
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
    key = module_key(sources, kernel, name, patches)
    headers = kernel.headers
    assert headers is not None
    fresh = not (cache_root() / ROOM / key).is_dir()

    def make(folder: Path) -> None:
        place = sources.write(folder / "src", whole=bool(patches))
        complaint = apply_patches(folder / "src", patches)
        error, seconds = (
            _make(folder, place, headers, name, timeout) if complaint is None else (complaint, 0.0)
        )
        signature = module_signature(folder / f"{name}.ko") if error is None else None
        result = {"error": error, "seconds": seconds, "signature": signature}
        (folder / "result.json").write_text(json.dumps(result))

    cached(ROOM, key, make)
    build = kept_module(key, name, fresh=fresh)
    assert build is not None
    return build


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
        *(make_arguments(compiler_of(headers)) if (headers / BUILT_WITH).is_file() else ()),
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
