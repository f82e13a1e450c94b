"""Where logs come from: files, standard input, compressed files, pstore's pieces, logs that still grow."""

from __future__ import annotations

import errno
import io
import os
import re
import select
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ktriage.errors import UserError
from ktriage.inputs import STEP, name_of, opened, packing, unpacked

CHUNK = 4 << 20
_POLL_SECONDS = 0.2
_GONE = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ECONNRESET}
"""What reading says of a terminal that was hung up, a device that was unplugged, a socket that was reset."""

# "Panic#1 Part2": pstore keeps a crash's log in pieces, the last piece first.
_PSTORE = re.compile(rb"^[A-Z][a-z]+#(\d+) Part(\d+)\n")


def chunks(path: str) -> Iterator[bytes]:
    """Yield the log at ``path`` ("-": standard input), decompressed, in chunks.

    A directory with pstore's files (``/sys/fs/pstore``) is one log, its pieces in order.

    Raises UserError where it can't be read, or where its compressed data is damaged or cut (after all that
    could be read has been yielded).
    """
    if path != "-" and Path(path).is_dir():
        yield _pstore(Path(path))
        return
    with opened(path, "log") as file:
        buffered = file if hasattr(file, "peek") else io.BufferedReader(cast("io.RawIOBase", file), CHUNK)
        head = cast("io.BufferedReader", buffered).peek(6)[:6]
        kind = packing(head)
        if kind is None:
            yield from _plain(buffered)
            return
        reader = unpacked(buffered, kind, path)
        while chunk := reader.read1(STEP):
            yield chunk


def whole(path: str, most: int) -> bytes:
    """Return all of the log at ``path``; raises UserError as ``chunks``, and for over ``most`` bytes."""
    parts, size = [], 0
    for chunk in chunks(path):
        size += len(chunk)
        if size > most:
            raise UserError(f"{name_of(path)}: unpacks to over {most >> 20} MiB", path=path)
        parts.append(chunk)
    return b"".join(parts)


def _plain(stream: IO[bytes]) -> Iterator[bytes]:
    read = getattr(stream, "read1", stream.read)
    raw = getattr(stream, "raw", None)
    first = read(CHUNK)
    if first:
        yield first
    # What is left of a regular file comes faster past the buffer.
    read = raw.read if raw is not None else read
    while chunk := read(CHUNK):
        yield chunk


def _pstore(directory: Path) -> bytes:
    pieces: list[tuple[int, int, bytes]] = []
    for file in sorted(directory.glob("dmesg-*")):
        with opened(str(file), "log") as stream:
            data = stream.read()
        match = _PSTORE.match(data)
        if match is not None:
            pieces.append((int(match[1]), -int(match[2]), data[match.end() :]))
        else:
            pieces.append((0, 0, data))
    if not pieces:
        raise UserError(
            f"{directory}: a directory with no pstore files in it",
            hint="name the log in it",
            path=str(directory),
        )
    return b"".join(data if data.endswith(b"\n") else data + b"\n" for _, _, data in sorted(pieces))


def followed(path: str) -> Iterator[bytes]:
    """Yield what is in the log at ``path`` and what is added to it, without end; nothing when it is quiet.

    Empty chunks come a few times a second while nothing is added. A file that was cut or replaced is read
    from its beginning. A pipe or a serial line ends when its writer goes.
    """
    with opened(path, "log") as file:
        descriptor = file.fileno()
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not regular:
            yield from streamed(descriptor)
            return
    yield from Tail(path).pieces()


def streamed(descriptor: int) -> Iterator[bytes]:
    """Yield all of a pipe, a socket or a device until its other side goes; nothing while it is quiet."""
    while True:
        ready, _, _ = select.select([descriptor], [], [], _POLL_SECONDS)
        if not ready:
            yield b""
            continue
        try:
            chunk = os.read(descriptor, 1 << 16)
        except (BlockingIOError, BrokenPipeError):  # EPIPE: /dev/kmsg has dropped what was not read in time
            continue
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        if not chunk:
            return
        yield chunk


@dataclass(slots=True)
class Tail:
    """A file that is read as it grows: ``inode`` and ``position`` say how far, and where to begin."""

    path: str
    inode: int = 0
    position: int = 0

    def pieces(self) -> Iterator[bytes]:
        """Yield what is added, without end; nothing when it is quiet; a new file is read from its start."""
        while True:
            try:
                with Path(self.path).open("rb") as file:
                    status = os.fstat(file.fileno())
                    if status.st_ino != self.inode or status.st_size < self.position:
                        self.inode, self.position = status.st_ino, 0
                    file.seek(self.position)
                    chunk = file.read(CHUNK)
            except FileNotFoundError:  # between two rotations
                chunk = b""
            self.position += len(chunk)
            yield chunk
            if not chunk:
                time.sleep(_POLL_SECONDS)
