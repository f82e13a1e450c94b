"""One run inside a guest: hand it files and a plan, follow it to its end, keep what it left behind."""

from __future__ import annotations

import asyncio
import io
import os
import re
import tarfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ktriage.errors import KtriageError, MachineryError
from ktriage.machine.guest import BootFailedError, Guest, come_up
from ktriage.machine.vm import END_OF_PANIC, Vm, running

SEED_BYTES = 32
NMI_SECONDS = 3.0
"""How long a guest that hangs gets to print its backtraces after each of SysRq and NMI."""

PANIC_SECONDS = 3.0
"""How long a guest that panicked gets to print the rest."""

CRASH_GRACE_SECONDS = 10.0
"""How long a guest may go on after it printed an oops; most panic at once (``oops=panic``)."""

OOPS = re.compile(rb"Oops: |general protection fault|kernel BUG at |Internal error: |Unable to handle kernel")


class End(StrEnum):
    """How a run ended."""

    DONE = "done"
    PANICKED = "panicked"
    SHUT_DOWN = "shut-down"
    """The guest powered off or reset (a triple fault, a reboot)."""
    TIMED_OUT = "timed-out"
    NOT_UP = "not-up"
    """The guest did not come up, or did not wake when restored."""
    MACHINE_FAILED = "machine-failed"
    """QEMU went away or refused to work."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was started: its exit code and seconds, or None for both where it never ended."""

    name: str
    code: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do in the guest.

    ``files`` are unpacked at the root, by path without a leading slash. ``lines`` are the plan that the
    guest's init follows (``file NAME PATH``, ``step NAME``, ``must NAME``; init.c has the grammar).
    """

    lines: tuple[str, ...]
    files: dict[str, bytes | Path] = field(default_factory=dict)

    def archive(self) -> bytes:
        """Return the payload: a tar archive (ustar) of the files and the plan."""
        plan = "".join(line + "\n" for line in self.lines).encode()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, content in {**self.files, "ktriage/plan": plan}.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o755
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class GuestRun:
    """What a run left behind.

    ``provoked`` is the offset into ``console`` where what we asked a hanging guest for begins, or None.
    ``trace`` is what came on its trace line, ``remains`` what the autopsy found.
    Seconds are the host's: until the guest was up, the plan, the dump.
    """

    end: End
    detail: str
    steps: tuple[Step, ...]
    files: dict[str, bytes]
    warnings: tuple[str, ...]
    console: bytes
    provoked: int | None
    vmcore: Path | None
    start_seconds: float
    run_seconds: float
    dump_seconds: float
    trace: bytes = b""
    remains: bytes = b""


class ControlReader:
    """Read what the guest's init says: lines, and after ``file NAME LENGTH`` raw bytes."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.files: dict[str, bytes] = {}
        self.warnings: list[str] = []
        self.awake = asyncio.Event()
        self.done = asyncio.Event()
        self._pending = b""
        self._file: tuple[str, int] | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._pending += piece
        while True:
            if self._file is not None:
                name, size = self._file
                if len(self._pending) < size:
                    return
                self.files[name], self._pending, self._file = self._pending[:size], self._pending[size:], None
            line, newline, rest = self._pending.partition(b"\n")
            if not newline:
                return
            self._pending = rest
            self._line(line.decode(errors="replace").split(" "))

    def _line(self, words: list[str]) -> None:
        match words:
            case ["file", name, size] if size.isdigit():
                self._file = (name, int(size))
            case ["start", name]:
                self.steps[name] = Step(name)
            case ["exit", name, code, micros]:
                self.steps[name] = Step(name, int(code), int(micros) / 1e6)
            case ["warn", *text]:
                self.warnings.append(" ".join(text))
            case ["awake"]:
                self.awake.set()
            case ["done"]:
                self.done.set()


def never(_: End) -> bool:
    """Want no vmcore."""
    return False


async def nothing(_vm: Vm, _trace: bytes) -> bytes:
    """Look at nothing of a guest that did not come to the end."""
    return b""


def run(
    guest: Guest,
    plan: Plan,
    directory: Path,
    *,
    timeout: float,
    vmcore: Callable[[End], bool] = never,
    autopsy: Callable[[Vm, bytes], Awaitable[bytes]] = nothing,
) -> GuestRun:
    """Run ``plan`` in ``guest`` once, restored where its state was saved, else booted.

    ``timeout`` bounds the plan, in seconds; a guest that is not done by then is asked for its backtraces by
    SysRq and by an NMI. Where ``vmcore`` of its end is true, its memory is dumped as ELF to
    ``directory``/vmcore. ``autopsy`` is called with the machine, and with what it had sent on its trace line,
    of a guest that did not come to the plan's end; it may stop it. What fails of the machinery is an
    ``End``, not an error.
    """
    return asyncio.run(_run(guest, plan, directory, timeout, vmcore, autopsy))


async def _run(
    guest: Guest,
    plan: Plan,
    directory: Path,
    timeout: float,
    vmcore: Callable[[End], bool],
    autopsy: Callable[[Vm, bytes], Awaitable[bytes]],
) -> GuestRun:
    began = time.monotonic()
    reader = ControlReader()
    times = [0.0, 0.0, 0.0]
    console = trace = remains = b""
    provoked: int | None = None
    core: Path | None = None
    payload = plan.archive()
    try:
        async with running(guest.hardware, directory, payload=payload, restore=guest.state) as vm:
            try:
                await _wake(vm, guest, reader, len(payload))
                times[0] = time.monotonic() - began
                end, detail = await _follow(vm, reader, timeout)
                times[1] = time.monotonic() - began - times[0]
                if end is End.PANICKED:
                    await _finish_panic(vm)
                if end is End.TIMED_OUT:
                    provoked = len(vm.console.data)
                    await _backtraces(vm)
                if end is not End.DONE:
                    remains = await autopsy(vm, bytes(vm.trace.data) if vm.trace else b"")
                if vmcore(end):
                    core = await dump(vm, directory / "vmcore")
                    times[2] = time.monotonic() - began - times[0] - times[1]
            finally:
                await vm.settle()
                console = bytes(vm.console.data)
                trace = bytes(vm.trace.data) if vm.trace else b""
    except BootFailedError as error:
        end, detail = End.NOT_UP, error.message
    except KtriageError as error:
        end, detail = End.MACHINE_FAILED, error.message
    return GuestRun(
        end=end,
        detail=detail,
        steps=tuple(reader.steps.values()),
        files=reader.files,
        warnings=tuple(reader.warnings),
        console=console,
        provoked=provoked,
        vmcore=core,
        start_seconds=times[0],
        run_seconds=times[1],
        dump_seconds=times[2],
        trace=trace,
        remains=remains,
    )


def not_up(error: BootFailedError) -> GuestRun:
    """Return the run of a guest that did not come up when it was prepared."""
    return GuestRun(End.NOT_UP, error.message, (), {}, (), error.console, None, None, 0.0, 0.0, 0.0)


async def _wake(vm: Vm, guest: Guest, reader: ControlReader, payload_bytes: int) -> None:
    if guest.state is None:
        await come_up(vm, guest.boot_timeout)
    vm.control.listeners.append(reader.feed)
    vm.send(f"go {time.time_ns()} {os.urandom(SEED_BYTES).hex()} {payload_bytes}\n")
    try:
        await asyncio.wait_for(reader.awake.wait(), guest.boot_timeout)
    except TimeoutError:
        raise MachineryError("the restored guest did not wake") from None


async def _follow(vm: Vm, reader: ControlReader, timeout: float) -> tuple[End, str]:
    oops = asyncio.Event()

    def look(_: bytes) -> None:
        if not oops.is_set() and OOPS.search(vm.console.data):
            oops.set()

    vm.console.listeners.append(look)
    look(b"")
    ends = {
        reader.done: (End.DONE, "the plan was followed to its end"),
        vm.panicked: (End.PANICKED, "the guest panicked"),
        vm.event("SHUTDOWN"): (End.SHUT_DOWN, "the guest shut down or reset"),
        vm.gone: (End.MACHINE_FAILED, "QEMU ended"),
    }
    waits = {asyncio.create_task(event.wait()): answer for event, answer in ends.items()}
    patience = asyncio.create_task(_patience(oops, timeout))
    done, pending = await asyncio.wait({*waits, patience}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task, answer in waits.items():
        if task in done:
            return answer
    if oops.is_set():
        return End.PANICKED, "the guest went on after an oops, without an end"
    return End.TIMED_OUT, f"not done after {timeout:.0f} s"


async def _patience(oops: asyncio.Event, timeout: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(oops.wait(), timeout)
        await asyncio.sleep(min(CRASH_GRACE_SECONDS, timeout))


async def _backtraces(vm: Vm) -> None:
    # SysRq w (blocked tasks) and l (all CPUs) on the serial line need interrupts; the NMI does not
    # (Documentation/admin-guide/sysrq.rst; unknown_nmi_panic in kernel-parameters.txt).
    for key in "wl":
        await vm.execute("chardev-send-break", {"id": "console"})
        vm.console.writer.write(key.encode())
        await vm.settle(quiet=0.3, limit=NMI_SECONDS)
    await vm.execute("inject-nmi")
    with suppress(TimeoutError):
        await asyncio.wait_for(vm.panicked.wait(), NMI_SECONDS)
        await _finish_panic(vm)


async def _finish_panic(vm: Vm) -> None:
    # pvpanic's notifier stops the machine before panic() has flushed what was printed in NMI context, and
    # before it prints "Kernel Offset" (kernel/panic.c, v6.1).
    await vm.execute("cont")
    deadline = time.monotonic() + PANIC_SECONDS
    while END_OF_PANIC not in vm.console.data and time.monotonic() < deadline and not vm.gone.is_set():
        await asyncio.sleep(0.01)


async def dump(vm: Vm, path: Path) -> Path:
    """Dump the guest's memory to ``path`` as ELF; raises MachineryError where QEMU can't.

    The guest is stopped first and stays so. Runs of zero pages become holes of the file.
    """
    await vm.execute("stop")
    with path.open("wb") as file:
        vm.qmp.send_fd_scm(file.fileno())
        await vm.execute("getfd", {"fdname": "vmcore"})
        await vm.execute("dump-guest-memory", {"paging": False, "protocol": "fd:vmcore", "format": "elf"})
    process = await asyncio.create_subprocess_exec("fallocate", "--dig-holes", str(path))
    await process.wait()
    return path
