"""One QEMU process: started so that it can't outlive us, talked to over sockets that have no names.

Every channel (QMP, the console, the control line, the steps' output) is a socketpair handed to QEMU as a
file descriptor, and the payload is an anonymous file: nothing is left behind, whatever ends us.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from ktriage.errors import MachineryError, UserError

PAYLOAD_BYTES = 64 << 20
"""Size of the payload disk. It is part of the saved machine's state, so all guests have the same."""
END_OF_PANIC = b"---[ end Kernel panic"
CHANNEL_BYTES = 64 << 20
RESTORE_SECONDS = 60.0
QMP_SECONDS = 300.0
"""How long a QMP command may take: a dump of many gigabytes is the longest."""

TRACE_PORT = "ktriage.trace"
PUMP = "pump"

# The library logs an error whenever QEMU goes away; ours to judge, and to report.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the guest's machine is made of; a saved guest can be restored only on the same.

    With ``trace`` it has a line on which it can send what it records: the virtio port ``ktriage.trace``.
    """

    kernel: Path
    initrd: Path | None
    cmdline: str
    memory_mib: int = 256
    cpus: int = 1
    accel: str = "tcg"
    trace: bool = False

    def arguments(self) -> list[str]:
        """Return QEMU's arguments for the machine, without its channels."""
        accel = "kvm" if self.accel == "kvm" else "tcg,thread=multi,tb-size=256"
        command = ["-accel", accel, "-cpu", "host" if self.accel == "kvm" else "qemu64,+smep,+smap"]
        command += ["-M", "pc", "-m", f"{self.memory_mib}M", "-smp", str(self.cpus)]
        command += ["-nodefaults", "-no-user-config", "-display", "none"]
        command += ["-action", "panic=pause,reboot=shutdown,shutdown=pause"]
        command += ["-device", "pvpanic-pci", "-device", "vmcoreinfo"]
        command += ["-kernel", str(self.kernel), "-append", self.cmdline]
        if self.initrd is not None:
            command += ["-initrd", str(self.initrd)]
        if self.trace:
            command += ["-device", "virtio-serial-pci"]
        return command


def qemu_binary() -> str:
    """Return QEMU's path; raises UserError where it is not installed."""
    path = os.environ.get("KTRIAGE_QEMU") or shutil.which("qemu-system-x86_64")
    if path is None or not os.access(path, os.X_OK):
        what = f"{path} is no QEMU" if path else "no qemu-system-x86_64 on this machine"
        raise UserError(what, hint="apt-get install qemu-system-x86")
    return path


_running: dict[subprocess.Popen[bytes], int] = {}
"""Each QEMU that runs, and the thread that runs it."""
_running_lock = threading.Lock()


def kill_all(thread: int | None = None) -> None:
    """Kill every QEMU of this process; their runs end as infrastructure failures.

    With ``thread``, as ``threading.get_ident`` gives it, only those of that one.
    """
    with _running_lock:
        for process, its in _running.items():
            if thread in (None, its):
                process.kill()


def _spawn(command: list[str], fds: tuple[int, ...], log: Path) -> subprocess.Popen[bytes]:
    # PR_SET_PDEATHSIG (prctl(2)) is sent when the *thread* that forked ends: whoever runs a VM stays in
    # its thread until the VM is gone. The shell closes the gap before the signal was armed.
    guard = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "sh",
        "-c",
        'test "$PPID" = "$0" && exec "$@"',
        str(os.getpid()),
    ]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=fds,
            start_new_session=True,
        )
    with _running_lock:
        _running[process] = threading.get_ident()
    return process


class Channel:
    """One line into the guest: what comes out goes to a file, with the time of each piece beside it.

    ``FILE.times`` has a line ``OFFSET SECONDS`` for each piece: its first byte's offset in ``FILE`` and
    seconds since the channel was opened.
    """

    def __init__(self, path: Path | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.data = bytearray()
        self.listeners: list[Callable[[bytes], None]] = []
        self.reader = reader
        self.writer = writer
        self.error: OSError | None = None

    @classmethod
    async def open(cls, sock: socket.socket, path: Path | None) -> Channel:
        """Return the channel over ``sock``, kept in the file ``path`` where one is given."""
        return cls(path, *await asyncio.open_connection(sock=sock))

    async def pump(self) -> None:
        """Read until the other end is closed; a failure to write is noted in ``error``.

        Over ``CHANNEL_BYTES`` nothing more is kept: a guest that floods its console must not fill the disk.
        """
        started = time.monotonic()
        with ExitStack() as files:
            keep = self._keeper(files)
            with suppress(ConnectionError):
                while piece := await self.reader.read(1 << 16):
                    if len(self.data) > CHANNEL_BYTES:
                        continue
                    keep(time.monotonic() - started, piece)
                    self.data += piece
                    for listener in self.listeners:
                        listener(piece)

    def _keeper(self, files: ExitStack) -> Callable[[float, bytes], None]:
        if self.path is None:
            return lambda _seconds, _piece: None
        out = files.enter_context(self.path.open("wb", buffering=0))
        times = files.enter_context(self.path.with_name(self.path.name + ".times").open("wb", buffering=0))

        def keep(seconds: float, piece: bytes) -> None:
            try:
                times.write(f"{len(self.data)} {seconds:.6f}\n".encode())
                if out.write(piece) != len(piece):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self.error = error

        return keep


class Vm:
    """A running machine; made by ``running``."""

    def __init__(
        self, process: subprocess.Popen[bytes], qmp: QMPClient, channels: dict[str, Channel]
    ) -> None:
        self.process = process
        self.qmp = qmp
        self.console = channels["console"]
        self.control = channels["control"]
        self.output = channels["output"]
        self.trace = channels.get("trace")
        self.events: dict[str, asyncio.Event] = {}
        self.gone = asyncio.Event()
        self.panicked = self.event("GUEST_PANICKED")
        self._scanned = 0
        self.console.listeners.append(self._look_for_panic)

    def _look_for_panic(self, _: bytes) -> None:
        # Before its driver is loaded, pvpanic says nothing: the console does, as its last line.
        if self.console.data.find(END_OF_PANIC, self._scanned) >= 0:
            self.panicked.set()
        self._scanned = max(0, len(self.console.data) - len(END_OF_PANIC))

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> object:
        """Run a QMP command; raises MachineryError where QEMU refuses it, does not answer, or is gone."""
        try:
            return await asyncio.wait_for(self.qmp.execute(command, arguments), QMP_SECONDS)
        except TimeoutError:
            raise MachineryError(f"QEMU did not answer {command}", command=command) from None
        except ExecuteError as error:
            raise MachineryError(f"QEMU refused {command}: {error}", command=command) from error
        except (QMPError, OSError, EOFError) as error:
            raise MachineryError(f"QEMU went away at {command}", command=command) from error

    async def start(self, *, restoring: bool) -> None:
        """Let the machine run, once its state is loaded; raises MachineryError where that never ends."""
        deadline = time.monotonic() + RESTORE_SECONDS
        while restoring:
            answer = await self.execute("query-status")
            restoring = isinstance(answer, dict) and answer["status"] == "inmigrate"
            if restoring and time.monotonic() > deadline:
                raise MachineryError("QEMU did not restore the guest")
            await asyncio.sleep(0.005 if restoring else 0)
        await self.execute("cont")

    async def memory(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes at a virtual address, by the page tables of the guest's first processor.

        Raises LookupError where nothing is there.
        """
        fd = os.memfd_create("ktriage-memory", os.MFD_CLOEXEC)
        try:
            # QMP's integers are signed, and addresses of a kernel are above that.
            place = {"val": address - (1 << 64) if address >> 63 else address, "size": size}
            await self.execute("memsave", {**place, "filename": f"/proc/{os.getpid()}/fd/{fd}"})
            data = os.pread(fd, size, 0)
        except MachineryError as error:
            raise LookupError(f"no memory at {address:#x}: {error.message}") from error
        finally:
            os.close(fd)
        if len(data) < size:
            raise LookupError(f"no memory at {address:#x}")
        return data

    def event(self, name: str) -> asyncio.Event:
        """Return the event that is set once QEMU has sent the QMP event ``name``."""
        return self.events.setdefault(name, asyncio.Event())

    async def watch_events(self) -> None:
        """Set an asyncio event for each QMP event; ends when QEMU does."""
        with suppress(QMPError, EOFError):
            async for message in self.qmp.events:
                self.event(str(message["event"])).set()

    def send(self, text: str) -> None:
        """Write to the guest's control line."""
        self.control.writer.write(text.encode())

    async def settle(self, quiet: float = 0.03, limit: float = 1.0) -> None:
        """Wait until the console has said nothing for ``quiet`` seconds, ``limit`` at the most."""
        deadline = time.monotonic() + limit
        size = -1
        while size != len(self.console.data) and time.monotonic() < deadline:
            size = len(self.console.data)
            await asyncio.sleep(quiet)


def _payload_fd(payload: bytes) -> int:
    writable = os.memfd_create("ktriage-payload", os.MFD_CLOEXEC)
    try:
        if len(payload) > PAYLOAD_BYTES:
            raise UserError(f"the files of a trial are {len(payload)} bytes, over {PAYLOAD_BYTES}")
        os.write(writable, payload)
        os.ftruncate(writable, PAYLOAD_BYTES)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


@asynccontextmanager
async def running(
    hardware: Hardware, directory: Path, *, payload: bytes = b"", restore: Path | None = None
) -> AsyncIterator[Vm]:
    """Run a machine while the block lasts, booted or restored from a saved guest.

    ``directory`` gets ``console.log`` and ``output.log`` with their times, and ``qemu.log`` where QEMU had
    something to say. Raises MachineryError where QEMU does not start. The process is gone afterwards.
    """
    serial = ("console", "control", "output")
    names = ("qmp", *serial, *(("trace",) if hardware.trace else ()))
    ours: dict[str, socket.socket] = {}
    theirs: list[int] = []
    command = [qemu_binary(), *hardware.arguments()]
    try:
        for name in names:
            ours[name], other = socket.socketpair()
            theirs.append(other.detach())
            command += ["-chardev", f"socket,id={name},fd={theirs[-1]}"]
        command += ["-mon", "chardev=qmp,mode=control"]
        for name in serial:
            command += ["-serial", f"chardev:{name}"]
        if hardware.trace:
            command += ["-device", f"virtserialport,chardev=trace,name={TRACE_PORT}"]
        theirs.append(_payload_fd(payload))
        command += ["-add-fd", f"fd={theirs[-1]},set=1", "-blockdev"]
        command += ["driver=file,node-name=payload,filename=/dev/fdset/1,read-only=on,locking=off"]
        command += ["-device", "virtio-blk-pci,drive=payload"]
        if restore is not None:
            theirs.append(os.open(restore, os.O_RDONLY | os.O_CLOEXEC))
            command += ["-incoming", f"fd:{theirs[-1]}"]
        # An event that comes while QMP is negotiated confuses the client, and one before it is lost.
        command += ["-S"]
        process = _spawn(command, tuple(theirs), directory / "qemu.log")
    except BaseException:
        for sock in ours.values():
            sock.close()
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    paths = {"console": directory / "console.log", "control": None, "output": directory / "output.log"}
    if hardware.trace:
        paths["trace"] = None
    channels: dict[str, Channel] = {}
    qmp = QMPClient("ktriage")
    tasks: list[asyncio.Task[None]] = []
    try:
        for name, path in paths.items():
            channels[name] = await Channel.open(ours[name], path)
        vm = Vm(process, qmp, channels)
        pumps = [asyncio.create_task(channel.pump(), name=PUMP) for channel in channels.values()]
        pumps[0].add_done_callback(lambda _: vm.gone.set())
        tasks += pumps
        try:
            await asyncio.wait_for(qmp.connect(ours["qmp"]), 30)
        except (QMPError, OSError, TimeoutError) as error:
            raise MachineryError(f"QEMU did not start: {_last_words(directory)}") from error
        tasks.append(asyncio.create_task(vm.watch_events()))
        await vm.start(restoring=restore is not None)
        yield vm
    finally:
        await _end(process, qmp, tasks, list(channels.values()))
        log = directory / "qemu.log"
        if log.exists() and log.stat().st_size == 0:
            log.unlink()


async def _end(
    process: subprocess.Popen[bytes],
    qmp: QMPClient,
    tasks: list[asyncio.Task[None]],
    channels: list[Channel],
) -> None:
    process.kill()
    process.wait()
    with _running_lock:
        _running.pop(process, None)
    # What QEMU wrote before it was killed is still in the sockets: let the pumps reach their end.
    pumps = [task for task in tasks if task.get_name() == PUMP]
    if pumps:
        await asyncio.wait(pumps, timeout=1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        channel.writer.close()
    with suppress(QMPError, OSError, EOFError):
        await qmp.disconnect()
    for channel in channels:
        if channel.error is not None:
            raise MachineryError(f"{channel.path}: {channel.error.strerror}") from channel.error


def _last_words(directory: Path) -> str:
    log = directory / "qemu.log"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
