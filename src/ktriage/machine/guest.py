"""A guest that is ready to run trials: its image, and its state saved at the moment when it is up."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from ktriage.cache import cached, digest, keep_newest, touch
from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.machine import accel as accelerators
from ktriage.machine.image import Program, build_image, compile_static
from ktriage.machine.vm import Hardware, Vm, running

KEPT_GUESTS = 8
"""Saved guests that stay in the cache; each takes some 100 MB."""

SETTLE_SECONDS = 1.0
"""What a guest still does after init runs: it calibrates its TSC and switches clocks in that time."""

BZIMAGE_MAGIC_AT = 0x202
BZIMAGE_MAGIC = b"HdrS"
ELF_MAGIC = b"\x7fELF"

CMDLINE = "console=ttyS0,115200 ignore_loglevel log_buf_len=1M loglevel=8 oops=panic"


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What to boot, on what, with what in it. ``modules`` is a /lib/modules/RELEASE folder, or None.

    With ``trace`` the guest can record trace events (tracer.c) and send them to the host.
    """

    kernel: Path
    modules: Path | None = None
    drivers: tuple[str, ...] = ()
    programs: tuple[Program, ...] = ()
    memory_mib: int = 256
    cpus: int = 1
    cmdline: str = ""
    accel: str = "auto"
    boot_timeout: float = 60.0
    trace: bool = False


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest whose image is made; ``state`` is its saved state, None where it is booted each time."""

    hardware: Hardware
    state: Path | None
    boot_timeout: float


class BootFailedError(KtriageError):
    """The kernel did not come up; ``console`` is all that it printed."""

    def __init__(self, message: str, console: bytes) -> None:
        super().__init__(message)
        self.console = console


Progress = Callable[[str], None]


def prepare(spec: GuestSpec, *, restore: bool = True, progress: Progress = lambda _: None) -> Guest:
    """Make the guest's image and, with ``restore``, boot it once and save its state; both are kept.

    Raises UserError where something is missing, BootFailedError where the kernel does not come up,
    MachineryError where QEMU or the disk fails.
    """
    check_image(spec.kernel)
    tracer = (Program(Path(str(resources.files("ktriage.machine") / "tracer.c"))),) if spec.trace else ()
    programs = tuple(compile_static(program) for program in (*spec.programs, *tracer))
    drivers = (*spec.drivers, "virtio_console") if spec.trace else spec.drivers
    image = build_image(modules=spec.modules, drivers=drivers, programs=programs)
    hardware = Hardware(
        kernel=spec.kernel,
        initrd=image,
        cmdline=f"{CMDLINE} {spec.cmdline}".strip(),
        memory_mib=spec.memory_mib,
        cpus=spec.cpus,
        trace=spec.trace,
    )
    names = accelerators.candidates(spec.accel)
    for name in names:
        last = name == names[-1]
        hardware = replace(hardware, accel=name)
        guest = Guest(hardware, None, spec.boot_timeout if last else accelerators.PROBE_SECONDS)
        try:
            if len(names) > 1:
                progress(f"probing {name.upper()} by booting a guest")
            if restore:
                guest = replace(guest, state=_saved(guest, progress), boot_timeout=spec.boot_timeout)
            elif len(names) > 1:
                with tempfile.TemporaryDirectory() as folder:
                    asyncio.run(_boot_and_save(guest, Path(folder), None))
        except (BootFailedError, MachineryError):
            if last:
                raise
            continue
        if len(names) > 1:
            accelerators.remember(name)
        return guest
    raise AssertionError("there is always an accelerator to try")


def check_image(path: Path) -> None:
    """Raise UserError where ``path`` is neither a bzImage nor a vmlinux.

    The bzImage's magic is at 0x202 (Documentation/arch/x86/boot.rst, "header").
    """
    if not path.is_file():
        raise UserError(f"no kernel at {path}")
    with path.open("rb") as file:
        head = file.read(BZIMAGE_MAGIC_AT + len(BZIMAGE_MAGIC))
    if not head.startswith(ELF_MAGIC) and head[BZIMAGE_MAGIC_AT:] != BZIMAGE_MAGIC:
        raise UserError(f"{path} is no kernel: neither a bzImage nor a vmlinux")


def _saved(guest: Guest, progress: Progress) -> Path:
    hardware = guest.hardware
    plain = replace(hardware, kernel=Path("kernel"), initrd=Path("initrd")).arguments()
    key = digest(accelerators.qemu_version(), *plain, hardware.kernel, hardware.initrd or b"")

    def make(folder: Path) -> None:
        needed = (hardware.memory_mib << 20) + (64 << 20)
        if shutil.disk_usage(folder).free < needed:
            raise MachineryError(f"no room to save a guest: {folder} needs {needed >> 20} MiB")
        progress(f"booting {hardware.kernel.name} once ({hardware.accel.upper()}) to save its state")
        asyncio.run(_boot_and_save(guest, folder, folder / "state"))

    entry = cached("guest", key, make)
    touch(entry)
    keep_newest("guest", KEPT_GUESTS)
    return entry / "state"


async def _boot_and_save(guest: Guest, folder: Path, state: Path | None) -> None:
    async with running(guest.hardware, folder) as vm:
        await come_up(vm, guest.boot_timeout)
        if state is None:
            return
        await asyncio.sleep(SETTLE_SECONDS)
        await save(vm, state)


async def come_up(vm: Vm, timeout: float) -> None:
    """Wait until a booting guest says that it is ready; raises BootFailedError where it does not."""
    ready = asyncio.Event()
    vm.control.listeners.append(lambda _: ready.set() if b"ready\n" in vm.control.data else None)
    ends = {
        "it panicked": vm.panicked,
        "it shut down": vm.event("SHUTDOWN"),
        "QEMU ended": vm.gone,
    }
    waits = {asyncio.create_task(event.wait()): why for why, event in {"": ready, **ends}.items()}
    done, pending = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if not ready.is_set():
        await vm.settle()
        why = waits[done.pop()] if done else f"it was not up after {timeout:.0f} s"
        raise BootFailedError(f"the kernel did not boot: {why}", bytes(vm.console.data))


async def save(vm: Vm, state: Path) -> None:
    """Write the running machine's state to the file ``state``; the machine is stopped afterwards."""
    with state.open("wb") as file:
        vm.qmp.send_fd_scm(file.fileno())
        await vm.execute("getfd", {"fdname": "state"})
        await vm.execute("migrate-set-parameters", {"max-bandwidth": 1 << 34})
        await vm.execute("migrate", {"uri": "fd:state"})
        while True:
            answer = await vm.execute("query-migrate")
            status = answer.get("status") if isinstance(answer, dict) else None
            if status == "completed":
                break
            if status in ("failed", "cancelled") or vm.gone.is_set():
                raise MachineryError(f"QEMU could not save the guest: {answer}")
            await asyncio.sleep(0.01)
        os.fsync(file.fileno())
