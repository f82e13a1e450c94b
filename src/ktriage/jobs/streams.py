"""What can be listened to: serial lines, sockets, pipes, files that grow, journald.

Each yields pieces of logs as they come, and an empty piece now and then while it is quiet.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import socket
import stat
import subprocess
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ktriage.console.journal import LARGEST_FIELD, objects, printed
from ktriage.console.sources import followed, streamed
from ktriage.errors import MachineryError, UserError

Piece = tuple[str, bytes | None]
"""Whose log a piece belongs to, and the piece; None where that log ends and another one begins."""

JOURNAL = "journal"
"""Stands for journald; ``journal:PATH`` for journals below PATH, as systemd-journal-remote writes them."""
BAUD = 115200
ARCHIVED_SECONDS = 30.0
"""So long a journal is followed on after it was archived or deleted."""
AGAIN_SECONDS = 1.0
"""So long a line that went away is left alone before it is tried again."""


def checked(source: str, baud: int = BAUD) -> str:
    """Return a source that can be listened to, or is a folder; raises UserError for any other."""
    if not hasattr(termios, f"B{baud}") or not baud:
        raise UserError(f"{baud}: no speed of a serial line", hint="9600, 115200, 1500000, ...")
    if is_journal(source):
        if shutil.which("journalctl") is None:
            raise UserError("journalctl is not installed: there is no journal to watch")
        source = source.removeprefix(JOURNAL).removeprefix(":") or "."
    if not Path(source).exists():
        raise UserError(f"{source}: no such file or directory", path=source)
    return source


def is_journal(source: str) -> bool:
    """Return whether a source is journald's."""
    return source == JOURNAL or source.startswith(f"{JOURNAL}:")


def listened(
    source: str, ended: threading.Event, say: Callable[[str], None], *, baud: int = BAUD
) -> Iterator[Piece]:
    """Yield what comes from ``source`` until it is at its end or ``ended`` is set.

    A serial line or a socket that goes away is waited for; ``say`` is told so. Raises MachineryError where it
    can't be opened at first, and where journalctl fails.
    """
    if is_journal(source):
        yield from _journal(source, ended)
        return
    pieces: Iterator[bytes | None]
    mode = Path(source).stat().st_mode
    if stat.S_ISCHR(mode):
        pieces = _line(source, lambda: _device(source, baud), ended, say)
    elif stat.S_ISSOCK(mode):
        pieces = _line(source, lambda: _socket(source), ended, say)
    else:
        pieces = followed(source)  # a pipe
    for piece in pieces:
        if ended.is_set():
            return
        yield source, piece


def _line(
    source: str, opened: Callable[[], int], ended: threading.Event, say: Callable[[str], None]
) -> Iterator[bytes | None]:
    """Yield what a line says; when it goes, wait until it is back."""
    try:
        descriptor = opened()
    except OSError as error:
        raise MachineryError(f"{source}: {_reason(error)}", path=source) from error
    while True:
        try:
            yield from streamed(descriptor)
        finally:
            os.close(descriptor)
        yield None
        say("went away; waiting for it to come back")
        while True:
            yield b""
            if ended.wait(AGAIN_SECONDS):
                return
            try:
                descriptor = opened()
                break
            except OSError:
                continue
        say("is back")


def _reason(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return "another program listens to it"
    if isinstance(error, PermissionError):
        return "may not be opened; serial lines are for members of the group dialout"
    return error.strerror or str(error)


def _device(path: str, baud: int) -> int:
    """Open a serial line raw, without becoming its session's or waiting for a carrier."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if os.isatty(descriptor):
            # Two that listen would each get half of what is said. Terminal programs ask the same lock.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _set_up(descriptor, getattr(termios, f"B{baud}"))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _set_up(descriptor: int, speed: int) -> None:
    """Make a terminal a raw line of 8 bits (termios(3)): nothing is echoed to the machine that speaks."""
    tty.setraw(descriptor, termios.TCSANOW)
    attributes = termios.tcgetattr(descriptor)
    attributes[0] |= termios.IGNBRK | termios.IGNPAR
    attributes[2] |= termios.CLOCAL | termios.CREAD
    attributes[2] &= ~(termios.HUPCL | termios.CRTSCTS)  # hanging up resets some boards
    attributes[4] = attributes[5] = speed
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _socket(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(AGAIN_SECONDS)
        connection.connect(path)
        connection.setblocking(False)
        return connection.detach()


@dataclass(slots=True)
class _Journalctl:
    """A journalctl that follows this machine's journal, or one file; ``left`` is when that was last there."""

    process: subprocess.Popen[bytes]
    rest: bytes = b""
    left: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, file: Path | None, *, whole: bool) -> _Journalctl:
        """Start it; with ``whole`` at the journal's beginning, else at its end."""
        command = ["journalctl", "--follow", f"--lines={'all' if whole else 0}", "--output=json", "--all"]
        command += [] if file is None else [f"--file={file}"]
        # --dmesg would ask for this machine's boot, which another machine's journal does not have.
        command.append("_TRANSPORT=kernel")
        pipe = subprocess.PIPE
        return cls(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe))

    def fileno(self) -> int:
        """Return what to wait for."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def read(self, source: str) -> Iterator[Piece]:
        """Yield what it has to say; raises MachineryError where it ended."""
        piece = os.read(self.fileno(), 1 << 16)
        if not piece:
            assert self.process.stderr is not None
            reason = self.process.stderr.read().decode(errors="replace").strip().splitlines() or ["it ended"]
            raise MachineryError(f"journalctl: {reason[-1]}")
        whole, newline, self.rest = (self.rest[:LARGEST_FIELD] + piece).rpartition(b"\n")
        for entry in objects(whole + newline):
            host, boot = (entry.get(name, b"").decode(errors="replace") for name in ("_HOSTNAME", "_BOOT_ID"))
            yield f"{source} {host} boot {boot}", printed(entry)

    def end(self) -> None:
        """Stop it."""
        self.process.kill()
        self.process.communicate()


def _journal(source: str, ended: threading.Event) -> Iterator[Piece]:
    """Yield the kernel's messages of journals, a log for each boot of each machine.

    Each file has a journalctl of its own: one that follows several puts their entries in order by their
    machines' clocks, and passes over what is late by these.
    """
    place = source.partition(":")[2]
    following: dict[int, _Journalctl] = {}
    try:
        if not place:
            following[0] = _Journalctl.of(None, whole=False)
        else:
            _look(Path(place), following, whole=False)
        while not ended.is_set():
            ready, _, _ = select.select(list(following.values()), [], [], AGAIN_SECONDS / 5)
            for one in ready:
                yield from one.read(source)
            yield source, b""
            if place:
                _look(Path(place), following, whole=True)
    finally:
        for one in following.values():
            one.end()


def _look(place: Path, following: dict[int, _Journalctl], *, whole: bool) -> None:
    """Follow the journals at ``place`` that are new, and no longer those that were archived a while ago."""
    for file in [place] if place.is_file() else place.rglob("*.journal"):
        try:
            inode = file.stat().st_ino
        except OSError:
            continue
        if "@" in file.name and file != place:  # so systemd calls an archived one
            continue
        if inode in following:
            following[inode].left = time.monotonic()
        else:
            following[inode] = _Journalctl.of(file, whole=whole)
    now = time.monotonic()
    for inode in [inode for inode, one in following.items() if now - one.left > ARCHIVED_SECONDS]:
        following.pop(inode).end()
