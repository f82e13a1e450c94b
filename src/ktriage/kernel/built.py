"""Kernels built from revisions, kept apart from the folder that the next build changes.

An entry is kept by what it was made of: what of the tree a build reads, with patches applied, the
configuration, the compiler. It holds what is booted, what reports are symbolized with, and how it was made;
a revision that does not build is kept as such.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ktriage.cache import cache_root, cached, digest, locked, touch
from ktriage.errors import MachineryError, UserError
from ktriage.kernel.checkout import Checkout
from ktriage.kernel.compiler import compiler_version
from ktriage.kernel.config import parse_config
from ktriage.kernel.kconfig import SOURCE_ARCH
from ktriage.kernel.make import TOO_LONG, stops
from ktriage.kernel.signature import module_signature
from ktriage.kernel.tree import (
    Recipe,
    TreeBuild,
    build_locked,
    check_tools,
    make_tree,
)
from ktriage.kernel.types import Kernel

Progress = Callable[[str], None]
Image = Literal["vmlinux", "bzImage"]

ROOM = "built"
ENTRY = "2"
"""What an entry holds; another word makes all of them anew."""

KEPT_BYTES = 12 << 30
IN_USE_SECONDS = 2 * 3600
"""An entry that was used since then may be in use still."""


@dataclass(frozen=True, slots=True)
class Built:
    """A revision's kernel, or why there is none.

    ``error`` is the first error of a build that failed, ``errors`` are the first few. ``fresh`` is false
    where it was built before, for an equal revision, too; ``seconds`` is what building took then, and
    ``make_seconds`` what make took of that. ``used``
    says what it was built with: ``compiler``, ``config`` (a hash of the .config), ``patches`` (a hash of
    each), ``absent`` (symbols that were asked for and that this tree does not have), ``release``.
    ``folder`` is the entry.
    """

    kernel: Kernel | None
    signature: str | None
    error: str | None
    errors: tuple[str, ...]
    log: Path
    folder: Path
    seconds: float
    fresh: bool
    used: dict[str, Any] = field(default_factory=dict)
    make_seconds: float = 0.0


def build_revision(
    checkout: Checkout,
    commit: str,
    recipe: Recipe,
    *,
    image: Image = "vmlinux",
    modules: bool = False,
    patches: tuple[str, ...] = (),
    progress: Progress = lambda _: None,
) -> Built:
    """Build the kernel of a commit with ``patches`` on top, or return the one that was built before.

    ``image`` is what will be booted. With ``modules`` they are built and installed, too. Raises UserError
    where a tool is missing or the configuration can't be had as asked for, MachineryError where the machine
    could not build (no room, no memory, stopped).
    """
    began = time.monotonic()
    tree, complaint = checkout.tree_of(commit, patches)
    if tree is None:
        return unpatched(commit, complaint, patches, time.monotonic() - began)
    return build_tree(
        checkout, tree, recipe, what=commit[:12], image=image, modules=modules, patches=patches,
        progress=progress,
    )  # fmt: skip


def build_tree(
    checkout: Checkout,
    tree: str,
    recipe: Recipe,
    *,
    what: str,
    image: Image,
    modules: bool,
    patches: tuple[str, ...] = (),
    progress: Progress = lambda _: None,
) -> Built:
    """Build the kernel of a tree, given by its id, or return the one that was built before.

    ``what`` is what people call it, ``patches`` those that it has already. Raises as ``build_revision``.
    """
    since = stops()
    recipe = replace(recipe, targets=_targets(image, modules))
    check_tools(recipe.compiler)
    used = _patches(patches)
    key = tree_key(checkout, tree, recipe, image=image, modules=modules)
    made: list[bool] = []

    def make(folder: Path) -> None:
        made.append(True)
        with checkout.held():
            place = checkout.move(tree)
            with build_locked(place, recipe) as out:
                progress(f"building {what}")
                build = make_tree(place, recipe, out, since=since, progress=progress)
                _publish(build, folder, image, modules=modules)
        _note(folder, build, used, recipe)

    try:
        folder = cached(ROOM, key, make)
    except _TooLongError as error:
        return _too_long(error.build, used)
    except OSError as error:
        raise _no_room(error) from error
    return _finish(folder, image, fresh=bool(made), used=used, strict=not recipe.lenient)


def tree_key(
    checkout: Checkout, tree: str, recipe: Recipe, *, image: Image, modules: bool, version: str | None = None
) -> str:
    """Return the key in the cache of a tree's kernel, built with this machine's compiler.

    ``version`` is what stands for the compiler, where it is not that one.
    """
    version = compiler_version(recipe.compiler) if version is None else version
    code = checkout.code_of(tree)
    return digest(ENTRY, code, *recipe.config.texts(), version, *_targets(image, modules))


def kept_kernel(
    key: str, image: Image, *, patches: tuple[str, ...] = (), lenient: bool, fresh: bool = False
) -> Built | None:
    """Return the kernel of that key where it is in the cache.

    Raises UserError where a symbol is absent, unless ``lenient``.
    """
    folder = cache_root() / ROOM / key
    if not folder.is_dir():
        return None
    return _finish(folder, image, fresh=fresh, used=_patches(patches), strict=not lenient)


def _patches(patches: tuple[str, ...]) -> dict[str, Any]:
    return {"patches": [digest(patch) for patch in patches]}


def build_as_it_stands(
    tree: Path,
    recipe: Recipe,
    *,
    image: Image = "vmlinux",
    modules: bool = False,
    progress: Progress = lambda _: None,
) -> Built:
    """Build the kernel in a folder as it stands. Raises as ``build_revision``."""
    since = stops()
    tree = tree.resolve()
    recipe = replace(recipe, targets=_targets(image, modules))
    check_tools(recipe.compiler)
    with build_locked(tree, recipe) as out:
        progress(f"building {tree}")
        build = make_tree(tree, recipe, out, since=since, progress=progress)
        parts: list[str | Path] = [build.signature or build.error or "", out / ".config", *recipe.targets]
        if build.kernel and build.kernel.vmlinux:
            parts.append(build.kernel.vmlinux)

        def make(folder: Path) -> None:
            _publish(build, folder, image, modules=modules)
            _note(folder, build, {"patches": []}, recipe)

        try:
            folder = cached(ROOM, digest(ENTRY, *parts), make)
        except _TooLongError:
            return _too_long(build, {})
        except OSError as error:
            raise _no_room(error) from error
    return _finish(folder, image, fresh=True, used={}, strict=not recipe.lenient)


def _targets(image: Image, modules: bool) -> tuple[str, ...]:
    return (image, "modules") if modules else (image,)


def unpatched(commit: str, complaint: str, patches: tuple[str, ...], seconds: float) -> Built:
    """Return what comes of a revision that its patches don't apply to; ``complaint`` is git's."""

    def make(folder: Path) -> None:
        (folder / "build.log").write_text(f"{commit}: {complaint}\n")

    folder = cached(ROOM, digest(ENTRY, commit, complaint), make)
    log = folder / "build.log"
    return Built(None, None, complaint, (complaint,), log, folder, seconds, True, _patches(patches))


def _publish(build: TreeBuild, folder: Path, image: Image, *, modules: bool) -> None:
    """Copy what is needed of a build to ``folder``; what failed leaves its log."""
    shutil.copy(build.log, folder / "build.log")
    out = build.folder
    shutil.copy(out / ".config", folder / "config")
    if build.error and build.error.startswith(TOO_LONG):
        raise _TooLongError(build)
    if build.kernel is None or build.kernel.vmlinux is None:
        return
    shutil.copy(out / "System.map", folder / "System.map")
    if image == "vmlinux":
        # QEMU reads the loaded parts only; whoever saves a guest hashes all of it.
        _run("objcopy", "-S", "-R", ".comment", str(out / "vmlinux"), str(folder / "image"))
    else:
        shutil.copy(out / f"arch/{SOURCE_ARCH}/boot/bzImage", folder / "image")
    values = parse_config((out / ".config").read_text())
    if values.get("DEBUG_INFO") == "y":
        shutil.copy(build.kernel.vmlinux, folder / "vmlinux")
    if modules:
        _install(out, build.kernel.release, folder, strip=values.get("DEBUG_INFO") != "y")


class _TooLongError(MachineryError):
    """A build that took too long: an answer, but none to keep, as another machine may be faster."""

    def __init__(self, build: TreeBuild) -> None:
        super().__init__(build.error or TOO_LONG, log=str(build.log))
        self.build = build


def _too_long(build: TreeBuild, used: dict[str, Any]) -> Built:
    error = build.error or TOO_LONG
    return Built(None, None, error, (error,), build.log, build.folder, build.seconds, True, used)


def _install(out: Path, release: str, folder: Path, *, strip: bool) -> None:
    """Copy the modules of a build to ``folder``/lib/modules, as ``make modules_install`` does, but at once.

    modules.order lists them by their .ko, since v6.3 by their .o (f65a486821cf).
    """
    depmod = shutil.which("depmod") or shutil.which("depmod", path="/usr/sbin:/sbin")
    if depmod is None:
        raise UserError("no depmod on this machine", hint="apt-get install kmod")
    place = folder / "lib/modules" / release
    place.mkdir(parents=True)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (out / name).is_file():
            shutil.copy(out / name, place / name)
    for line in (out / "modules.order").read_text().splitlines():
        module = Path(line).with_suffix(".ko")
        target = place / "kernel" / module
        target.parent.mkdir(parents=True, exist_ok=True)
        if strip:
            _run("objcopy", "--strip-debug", str(out / module), str(target))
        else:
            shutil.copy(out / module, target)
    _run(depmod, "-b", str(folder), release)


def _note(folder: Path, build: TreeBuild, used: dict[str, Any], recipe: Recipe) -> None:
    signature = build.signature
    if signature is not None and (installed := sorted(folder.glob("lib/modules/**/*.ko"))):
        signature = digest(signature, *(module_signature(module) for module in installed))
    result = {
        "signature": signature,
        "error": build.error,
        "errors": build.errors,
        "seconds": build.seconds,
        "make_seconds": build.make_seconds,
        "used": {
            "compiler": compiler_version(recipe.compiler).splitlines()[0],
            "config": digest(folder / "config"),
            "absent": list(build.absent),
            "release": build.kernel.release if build.kernel else None,
            **used,
        },
    }
    (folder / "result.json").write_text(json.dumps(result))


def _finish(folder: Path, image: Image, *, fresh: bool, used: dict[str, Any], strict: bool) -> Built:
    touch(folder)
    if fresh:
        prune()
    result = json.loads((folder / "result.json").read_text())
    used = {**result["used"], **used, "image": image}
    if strict and used["absent"]:
        names = ", ".join(f"CONFIG_{name}" for name in used["absent"][:3])
        raise UserError(f"this tree has no such symbol: {names}", hint="[kernel] options and fragments")
    kernel = None
    if result["error"] is None:
        release = used["release"]
        modules, vmlinux = folder / "lib/modules" / release, folder / "vmlinux"
        kernel = Kernel(
            image=folder / "image",
            release=release,
            modules=modules if modules.is_dir() else None,
            vmlinux=vmlinux if vmlinux.is_file() else None,
        )
    return Built(
        kernel=kernel,
        signature=result["signature"],
        error=result["error"],
        errors=tuple(result["errors"]),
        log=folder / "build.log",
        folder=folder,
        seconds=result["seconds"],
        make_seconds=result["make_seconds"],
        fresh=fresh,
        used=used,
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise MachineryError(f"{command[0]} failed: {done.stderr.strip()}")


def _no_room(error: OSError) -> MachineryError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineryError(f"the build was cut short: {error.strerror}: {error.filename or cache_root()}")
    return MachineryError(f"the build can't be kept: {error}")


def prune(most: int = KEPT_BYTES) -> None:
    """Remove the kernels that were used longest ago until they take ``most`` bytes, recent ones apart."""
    root = cache_root() / ROOM
    entries = [e for e in root.iterdir() if e.is_dir() and e.suffix != ".draft"] if root.is_dir() else []
    entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    total = 0
    for entry in entries:
        total += sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
        if total > most and time.time() - entry.stat().st_mtime > IN_USE_SECONDS:
            with locked(entry.with_name(entry.name + ".lock")):
                shutil.rmtree(entry, ignore_errors=True)
