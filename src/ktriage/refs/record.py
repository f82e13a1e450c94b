"""Record references on the running kernel, in a tracing instance of our own that nothing is left of.

Instances and groups of kprobes carry the process that made them in their name, with the time when it began:
whoever comes next removes those of processes that are gone (after kill -9).
"""

from __future__ import annotations

import errno
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ktriage.errors import MachineryError, UserError
from ktriage.refs.record_events import Wanted, Write, heading, kprobes, writes

TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
OWN = re.compile(r"ktriage[-_](\d+)[-_](\d+)")
CLOCK = "mono"
"""The same on all processors, and the monotonic clock of everything else."""

PIECE = 1 << 18
TICK_SECONDS = 0.25
BUSY_TRIES = 50
"""An instance is busy for a moment after its last file was closed."""

Sink = Callable[[bytes], None]
Watch = Callable[["Progress"], bool]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording has come: seconds, events, bytes of text."""

    seconds: float
    events: int
    size: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recording came to; ``lost`` are events that the buffer had no room for."""

    seconds: float
    events: int
    size: int
    lost: int


def tracefs() -> Path:
    """Return where tracefs is; raises UserError where there is none, or it is not ours to use."""
    for path in TRACEFS:
        instances = path / "instances"
        try:
            if not instances.is_dir():
                continue
        except PermissionError:
            raise UserError(f"{path} is not ours to use", hint="run it as root") from None
        if not os.access(instances, os.W_OK | os.X_OK):
            raise UserError(f"{path} is not ours to use", hint="run it as root")
        return path
    raise UserError(f"no tracefs at {TRACEFS[0]}", hint=f"mount -t tracefs nodev {TRACEFS[0]}")


def _began(pid: int) -> str | None:
    # The 22nd field, counted after the command in parentheses (proc(5)).
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _own_name() -> str:
    return f"{os.getpid()}-{_began(os.getpid())}"


def _is_stale(name: str) -> bool:
    found = OWN.fullmatch(name)
    return found is not None and _began(int(found[1])) != found[2]


def clean_up(root: Path) -> list[str]:
    """Remove the instances and kprobes of recordings whose process is gone; return their names."""
    stale = [path for path in sorted((root / "instances").iterdir()) if _is_stale(path.name)]
    for instance in stale:
        _remove_instance(instance)
    probes = _groups(root)
    groups = [group for group in probes if _is_stale(group)]
    for group in groups:
        _remove_probes(root, group, probes[group])
    return [path.name for path in stale] + groups


def _put(path: Path, text: str, *, append: bool) -> None:
    # Python's own mode "a" seeks to the end, and tracefs has none.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC))
    try:
        os.write(fd, text.encode() + b"\n")
    finally:
        os.close(fd)


def _groups(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with suppress(FileNotFoundError):
        text = (root / "kprobe_events").read_text()
        for group, name in re.findall(r"^[pr]\d*:([\w.-]+)/(\S+)", text, re.MULTILINE):
            found.setdefault(group, []).append(name)
    return found


def _remove_probes(root: Path, group: str, names: list[str]) -> None:
    for name in names:
        with suppress(OSError):
            _put(root / "kprobe_events", f"-:{group}/{name}", append=True)


def _remove_instance(instance: Path) -> None:
    with suppress(OSError):
        (instance / "tracing_on").write_text("0")
    for _ in range(BUSY_TRIES):
        try:
            instance.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MachineryError(f"{instance}: {error.strerror}") from error
            time.sleep(0.02)
        else:
            return


def check(what: Wanted, *, expected: bool = True) -> None:
    """Raise UserError where a module is not loaded, unless it is only ``expected`` to be loaded later."""
    if what.module and not expected and not Path(f"/sys/module/{what.module}/refcnt").exists():
        raise UserError(f"no module {what.module} is loaded", hint="--wait records it from its loading on")


@contextmanager
def recording(what: Wanted) -> Iterator[Path]:
    """Record while the block lasts; yields the instance's folder. All is put back at the end.

    Raises UserError where the kernel can't record what is wanted, in one line with its reason.
    """
    root = tracefs()
    clean_up(root)
    name = _own_name()
    instance, group = root / "instances" / f"ktriage-{name}", f"ktriage_{name.replace('-', '_')}"
    try:
        instance.mkdir()
        for write in writes(what, group, clock=CLOCK):
            _write(root, instance, write)
        yield instance
    except PermissionError as error:
        raise UserError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
    finally:
        _remove_instance(instance)
        _remove_probes(root, group, [name for name, _ in kprobes(what, group)])


def _write(root: Path, instance: Path, write: Write) -> None:
    absolute = write.path.startswith("/")
    path = root / Path(write.path).relative_to(TRACEFS[0]) if absolute else instance / write.path
    try:
        _put(path, write.text, append=write.append)
    except PermissionError:
        raise
    except FileNotFoundError as error:
        if write.append and path.exists():
            raise UserError(_why_no_probe(root, write.text, error)) from error
        raise UserError(f"this kernel has no {path.relative_to(root)}") from error
    except OSError as error:
        if write.append:
            raise UserError(_why_no_probe(root, write.text, error)) from error
        if error.errno == errno.ENOMEM:
            raise UserError(f"no memory for {write.text} kB of buffer on each processor") from error
        raise UserError(f"{path.relative_to(root)} does not take {write.text!r}: {error.strerror}") from error


def _why_no_probe(root: Path, definition: str, error: OSError) -> str:
    symbol = definition.split()[1]
    function = symbol.rpartition(":")[2]
    if not _known(Path("/proc/kallsyms"), function, 2):
        return f"no function {function} in this kernel: it may be inlined, or in a module that is not loaded"
    if not _known(root / "available_filter_functions", function, 0):
        return (
            f"{function} can't be probed: it was built without tracing, as all of the kernel's lib/ is; "
            "name a function that calls it"
        )
    log = (root / "error_log").read_text(errors="replace") if (root / "error_log").exists() else ""
    reasons = re.findall(r"error: (.*)", log)
    return f"{function} can't be probed: {reasons[-1] if reasons else error.strerror}"


def _known(path: Path, function: str, field: int) -> bool:
    try:
        with path.open(errors="replace") as file:
            return any(function in line and line.split()[field] == function for line in file)
    except OSError:
        return True


def record(what: Wanted, sink: Sink, *, watch: Watch) -> Recorded:
    """Record into ``sink`` until ``watch``, called four times a second, returns true; then what is left."""
    events = size = 0
    with recording(what) as instance:
        began = time.monotonic()
        sink(heading(what, "").encode())
        pipe = os.open(instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            stop = watch(Progress(0.0, 0, 0))
            while True:
                piece = _read(pipe, 0.0 if stop else TICK_SECONDS)
                if piece:
                    sink(piece)
                    events += _events(piece)
                    size += len(piece)
                elif stop:
                    break
                if not stop and watch(Progress(time.monotonic() - began, events, size)):
                    stop = True
                    (instance / "tracing_on").write_text("0")
            lost = _lost(instance)
        finally:
            os.close(pipe)
    return Recorded(time.monotonic() - began, events, size, lost)


def _read(pipe: int, seconds: float) -> bytes:
    # trace_pipe has something to read as soon as an event has come; a read of it takes at most a page.
    select.select([pipe], [], [], seconds)
    pieces: list[bytes] = []
    with suppress(BlockingIOError):
        while sum(map(len, pieces)) < PIECE and (piece := os.read(pipe, PIECE)):
            pieces.append(piece)
    return b"".join(pieces)


def _events(piece: bytes) -> int:
    # What continues an event's text is indented by one blank; stacks are events of their own.
    lines = piece.count(b"\n") - piece.count(b"\n => ") - piece.startswith(b" => ")
    return lines - piece.count(b": <stack trace>")


def _lost(instance: Path) -> int:
    lost = 0
    for stats in instance.glob("per_cpu/cpu*/stats"):
        text = stats.read_text()
        lost += sum(map(int, re.findall(r"^(?:overrun|dropped events): (\d+)", text, re.MULTILINE)))
    return lost
