"""The guest's image: an initramfs with our init, busybox, the drivers it needs and the user's programs.

The archive is made by cpio(1) in the "newc" format that the kernel unpacks
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import zstandard

from ktriage.cache import cached, digest
from ktriage.errors import MachineryError, UserError

BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))

DRIVERS = ("pvpanic-pci", "pvpanic-mmio", "qemu_fw_cfg", "virtio_pci", "virtio_blk")
"""Drivers that every guest needs: to say that it panicked, to describe its memory, to read its payload."""

SYSCTLS = (
    "/proc/sys/kernel/sysrq=1",
    "/proc/sys/kernel/printk=8 4 1 7",
    "/proc/sys/kernel/unknown_nmi_panic=1",
)


@dataclass(frozen=True, slots=True)
class Program:
    """A C file that is compiled statically and put into the guest's /bin under its stem."""

    source: Path
    flags: tuple[str, ...] = ("-O2", "-Wall", "-pthread")


def busybox() -> Path:
    """Return the statically linked busybox; raises UserError where there is none."""
    for path in BUSYBOX:
        if path.is_file():
            return path
    raise UserError("no busybox on this machine", hint="apt-get install busybox-static")


def compile_static(program: Program) -> Path:
    """Compile one C file and return the binary, kept by its source and flags.

    Raises UserError with the compiler's first error where it does not compile.
    """
    if not program.source.is_file():
        raise UserError(f"no such file: {program.source}")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise UserError("no C compiler on this machine", hint="apt-get install gcc libc6-dev")
    name = program.source.stem

    def make(folder: Path) -> None:
        command = [compiler, "-static", *program.flags, "-o", str(folder / name), str(program.source)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
            raise UserError(f"{program.source} does not compile: {lines[0]}")

    return cached("program", digest(program.source, compiler, " ".join(program.flags)), make) / name


def driver_files(modules: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files of the modules ``names`` and of all they need, in the order of loading.

    ``modules`` is a /lib/modules/RELEASE folder with a modules.dep in it (depmod(8)). A name that it does
    not have is passed over: it may be built in, or of no use to this kernel.
    """
    needs: dict[str, list[str]] = {}
    dep = modules / "modules.dep"
    if not dep.is_file():
        raise UserError(f"{modules} has no modules.dep", hint=f"run depmod for {modules.name}")
    for line in dep.read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[Path(path).name.split(".ko")[0].replace("-", "_")] = [*reversed(rest.split()), path]
    wanted: dict[str, None] = {}
    for name in names:
        wanted.update(dict.fromkeys(needs.get(name.replace("-", "_"), ())))
    return [modules / path for path in wanted]


def plain_name(module: Path) -> str:
    """Return a module file's name without the ending of its compression."""
    return module.name.partition(".ko")[0] + ".ko"


def unpacked(module: Path) -> bytes:
    """Return the content of a module file, which some distributions compress (CONFIG_MODULE_COMPRESS)."""
    data = module.read_bytes()
    match module.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        case _:
            return data


def build_image(*, modules: Path | None, drivers: tuple[str, ...], programs: tuple[Path, ...]) -> Path:
    """Return an initramfs, kept by what is in it.

    It is not compressed: emulated processors unpack slowly.
    ``drivers`` are loaded, in order and with what they need, after those of ``DRIVERS``. ``programs`` go
    to /bin. Raises UserError where a tool is missing, MachineryError where one fails.
    """
    init_source = Path(str(resources.files("ktriage.machine") / "init.c"))
    init = compile_static(Program(init_source, ("-O2", "-Wall")))
    box = busybox()
    files = driver_files(modules, DRIVERS + drivers) if modules else []
    if shutil.which("cpio") is None:
        raise UserError("no cpio on this machine", hint="apt-get install cpio")
    names = "\n".join(f"/lib/ktriage/{plain_name(f)}" for f in files)
    key = digest(init, box, names, "\n".join(SYSCTLS), *files, *(p for q in programs for p in (q.name, q)))

    def make(folder: Path) -> None:
        root = folder / "root"
        for sub in ("bin", "dev", "etc/ktriage", "lib/ktriage", "proc", "run", "sys", "tmp", "ktriage"):
            (root / sub).mkdir(parents=True)
        (root / "sbin").symlink_to("bin")
        shutil.copy(init, root / "init")
        shutil.copy(box, root / "bin/busybox")
        for applet in subprocess.run(
            [box, "--list"], capture_output=True, text=True, check=True
        ).stdout.split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        for file in files:
            (root / "lib/ktriage" / plain_name(file)).write_bytes(unpacked(file))
        for program in programs:
            (root / "bin" / program.name).unlink(missing_ok=True)
            shutil.copy(program, root / "bin")
        (root / "etc/ktriage/modules").write_text(names + "\n" if names else "")
        (root / "etc/ktriage/sysctl").write_text("\n".join(SYSCTLS) + "\n")
        _archive(root, folder / "initrd.cpio")
        shutil.rmtree(root)

    return cached("image", key, make) / "initrd.cpio"


def _archive(root: Path, target: Path) -> None:
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    with target.open("wb") as out:
        done = subprocess.run(
            ["cpio", "--quiet", "--reproducible", "-o", "-H", "newc", "-R", "0:0"],
            cwd=root,
            input="\n".join(names).encode(),
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    if done.returncode or done.stderr:
        raise MachineryError(f"cpio failed: {done.stderr.decode(errors='replace').strip()}")
