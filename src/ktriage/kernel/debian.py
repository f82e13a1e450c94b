"""Kernels from Debian's packages: fetched with apt, unpacked without being installed, kept in the cache.

A kernel's packages (deb(5), and the dependencies of Debian's source package "linux"):
linux-image-RELEASE holds the image and the modules; linux-headers-RELEASE, linux-headers-ABI-common and
linux-kbuild-VERSION what modules are built against; linux-image-RELEASE-dbg the vmlinux with DWARF. Meta
packages such as linux-image-amd64 depend on the newest of them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ktriage.cache import cache_root, cached, locked
from ktriage.errors import MachineryError, UserError
from ktriage.kernel.types import Kernel

RELEASE = re.compile(r"linux-image-(\d\S*?)(-unsigned)?$")
Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def _apt(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise UserError(
            f"no {command[0]} on this machine: kernel packages come from Debian",
            hint="name a kernel by its files instead: [kernel] image, modules, headers",
        )
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if not done.returncode else ""


def resolve(package: str) -> tuple[str, str]:
    """Return the name and version of the package that ``package`` stands for.

    ``package`` is a versioned package or a meta package, with ``=VERSION`` behind it where not the newest is
    wanted. Where apt knows nothing of it (no lists, no mirror), what it stood for last time is taken if that
    is still in the cache. Raises UserError where there is neither.
    """
    name, _, wanted = package.partition("=")
    # Not by the name: linux-image-6.12-cloud-amd64 is a meta package.
    for _ in range(4):
        depends = re.findall(
            r"^\s*Depends: (linux-image-\S+)",
            _apt("apt-cache", "depends", f"{name}={wanted}" if wanted else name),
            re.MULTILINE,
        )
        if not depends:
            break
        name, wanted = depends[0], ""
    versions = re.findall(r"^Version: (\S+)", _apt("apt-cache", "show", "--", name), re.MULTILINE)
    if RELEASE.fullmatch(name) and versions and (not wanted or wanted in versions):
        _remember(package, name, wanted or versions[0])
        return name, wanted or versions[0]
    last = _remembered().get(package)
    if last and (cache_root() / "kernel" / _key(*last)).is_dir():
        return last
    what = f"{package} at version {wanted}" if wanted and versions else package
    raise UserError(
        f"no kernel package {what} on the configured mirrors", hint="apt-get update, or another name"
    )


def _key(name: str, version: str) -> str:
    return f"{name}_{version}".replace(":", ".")


def _resolutions() -> Path:
    return cache_root() / "kernel" / "resolved.json"


def _remembered() -> dict[str, tuple[str, str]]:
    try:
        return {
            package: (name, version)
            for package, (name, version) in json.loads(_resolutions().read_text()).items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _remember(package: str, name: str, version: str) -> None:
    if _remembered().get(package) == (name, version):
        return
    path = _resolutions()
    with locked(path.with_suffix(".lock")):
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({**_remembered(), package: (name, version)}))
        draft.replace(path)


def fetch(names: dict[str, str], folder: Path, progress: Progress = _silent) -> None:
    """Download packages (name to version, empty for the newest) and unpack them into ``folder``.

    Raises MachineryError where the mirror or the disk fails.
    """
    needed = [f"{name}={version}" if version else name for name, version in names.items()]
    progress("downloading " + ", ".join(needed))
    debs = folder / "debs"
    debs.mkdir()
    done = subprocess.run(
        ["apt-get", "download", "-q", *needed],
        cwd=debs,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr.strip()]
        raise MachineryError(f"apt-get download failed: {lines[0]}", hint="apt-get update", packages=needed)
    for deb in sorted(debs.iterdir()):
        progress(f"unpacking {deb.name}")
        done = subprocess.run(
            ["dpkg-deb", "-x", str(deb), str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise MachineryError(f"{deb.name} does not unpack: {done.stderr.strip()}")
    shutil.rmtree(debs)


def _image(name: str, version: str, folder: Path, progress: Progress) -> None:
    fetch({name: version}, folder, progress)
    modules = next((folder / "lib/modules").iterdir())
    command = ["depmod", "-b", str(folder), modules.name]
    if shutil.which("depmod") is None:
        command[0] = "/sbin/depmod"
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise MachineryError(f"depmod failed: {done.stderr.strip()}")


def _headers(release: str, version: str, folder: Path, progress: Progress) -> None:
    name = f"linux-headers-{release}"
    depends = re.findall(
        r"^\s*Depends: (linux-(?:headers|kbuild)-\S+)",
        _apt("apt-cache", "depends", f"{name}={version}"),
        re.MULTILINE,
    )
    if not depends:
        raise UserError(f"no package {name} on the configured mirrors: modules can't be built for {release}")
    fetch({name: version, **dict.fromkeys(depends, "")}, folder, progress)
    # The makefile includes its companion by an absolute path, which would be the installed one, if any.
    makefile = folder / "usr/src" / name / "Makefile"
    text = makefile.read_text().replace("/usr/src/", "$(dir $(lastword $(MAKEFILE_LIST)))../")
    makefile.write_text(text)


def packaged_kernel(
    package: str, *, headers: bool = False, debuginfo: bool = False, progress: Progress = _silent
) -> Kernel:
    """Return the kernel of a Debian package, downloaded where it is not in the cache.

    With ``headers`` it comes with what modules are built against, with ``debuginfo`` with its vmlinux; where
    the -dbg package was fetched before, ``vmlinux`` is set anyway. Raises UserError where there is no such
    package, MachineryError where it can't be had.
    """
    name, version = resolve(package)
    matched = RELEASE.fullmatch(name)
    assert matched
    release = matched[1]
    key = _key(name, version)
    root = cached("kernel", key, lambda folder: _image(name, version, folder, progress))
    kernel = Kernel(
        image=root / "boot" / f"vmlinuz-{release}",
        release=release,
        modules=root / "lib/modules" / release,
        package=name,
        version=version,
    )
    if headers:
        place = cached(
            "kernel", f"{key}-headers", lambda folder: _headers(release, version, folder, progress)
        )
        kernel = replace(kernel, headers=place / "usr/src" / f"linux-headers-{release}")
    debug = f"{key}-dbg"
    if debuginfo:
        cached("kernel", debug, lambda folder: fetch({f"{name}-dbg": version}, folder, progress))
    vmlinux = cache_root() / "kernel" / debug / "usr/lib/debug/boot" / f"vmlinux-{release}"
    return replace(kernel, vmlinux=vmlinux) if vmlinux.is_file() else kernel
