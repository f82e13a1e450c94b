"""Where logs come from: files, standard input, compressed files, pstore's pieces, logs that still grow."""

from __future__ import annotations

import io
import os
import re
import select
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, cast

from ktriage.errors import UserError

CHUNK = 4 << 20
_POLL_SECONDS = 0.2

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# "Panic#1 Part2": pstore keeps a crash's log in pieces, the last piece first.
_PSTORE = re.compile(rb"^[A-Z][a-z]+#(\d+) Part(\d+)\n")


def name_of(path: str) -> str:
    """Return how a source is called in findings and messages."""
    return "standard input" if path == "-" else path


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed")
        yield sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield file
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory", hint="name the log in it", path=path) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", path=path) from error


def chunks(path: str) -> Iterator[bytes]:
    """Yield the log at ``path`` ("-": standard input), decompressed, in chunks.

    A directory with pstore's files (``/sys/fs/pstore``) is one log, its pieces in order.

    Raises UserError where it can't be read, or where its compressed data is damaged or cut (after all that
    could be read has been yielded).
    """
    if path != "-" and Path(path).is_dir():
        yield _pstore(Path(path))
        return
    with _opened(path) as file:
        buffered = file if hasattr(file, "peek") else io.BufferedReader(cast("io.RawIOBase", file), CHUNK)
        head = cast("io.BufferedReader", buffered).peek(6)[:6]
        kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        yield from _plain(buffered) if kind is None else _decompressed(buffered, kind, path)


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


def _decompressed(stream: IO[bytes], kind: str, path: str) -> Iterator[bytes]:
    import bz2
    import gzip
    import lzma

    import zstandard

    openers: dict[str, Callable[[], IO[bytes]]] = {
        "gzip": lambda: cast("IO[bytes]", gzip.GzipFile(fileobj=stream)),
        "xz": partial(lzma.LZMAFile, stream),
        "bzip2": partial(bz2.BZ2File, stream),
        "zstd": lambda: zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True),
    }
    opened = openers[kind]()
    try:
        # Small steps: what comes before the damage is read.
        while chunk := opened.read(64 << 10):
            yield chunk
    except EOFError:
        raise UserError(f"{name_of(path)}: the {kind} data is cut short", path=path) from None
    except (OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise UserError(f"{name_of(path)}: damaged {kind} data ({error})", path=path) from None


def _pstore(directory: Path) -> bytes:
    pieces: list[tuple[int, int, bytes]] = []
    for file in sorted(directory.glob("dmesg-*")):
        with _opened(str(file)) as stream:
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
    with _opened(path) as file:
        descriptor = file.fileno()
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not regular:
            yield from _followed_stream(descriptor)
            return
    yield from _followed_file(path)


def _followed_stream(descriptor: int) -> Iterator[bytes]:
    while True:
        ready, _, _ = select.select([descriptor], [], [], _POLL_SECONDS)
        if not ready:
            yield b""
            continue
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return
        yield chunk


def _followed_file(path: str) -> Iterator[bytes]:
    inode, position = 0, 0
    while True:
        try:
            with Path(path).open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != inode or status.st_size < position:
                    inode, position = status.st_ino, 0
                file.seek(position)
                chunk = file.read(CHUNK)
        except FileNotFoundError:  # between two rotations
            chunk = b""
        position += len(chunk)
        yield chunk
        if not chunk:
            time.sleep(_POLL_SECONDS)
