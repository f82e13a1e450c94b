"""Files that people hand in: standard input by ``-``, compressed ones as they are, one line for what fails.

For rooms that read text of any length; what is in it is theirs.
"""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEP = 64 << 10
"""Bytes that are unpacked at a time: what comes before damage is read."""
ZSTD_STEP = 1 << 10
"""Packed bytes that are given to zstd at a time: a kilobyte may unpack to tens of megabytes."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def name_of(path: str) -> str:
    """Return how a source is called in findings and messages."""
    return "standard input" if path == "-" else path


@contextmanager
def opened(path: str, what: str) -> Iterator[IO[bytes]]:
    """Open the file at ``path``, or standard input for ``-``; ``what`` it is meant to be is for the hint.

    Raises UserError where it can't be opened.
    """
    if path == "-":
        if sys.stdin is None:
            raise UserError("standard input is closed")
        yield sys.stdin.buffer
        return
    try:
        with Path(path).open("rb") as file:
            yield file
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory", hint=f"name the {what} in it", path=path) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", path=path) from error


def packing(head: bytes) -> str | None:
    """Return how a file that begins with ``head`` is compressed, by name; None for one that is not."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def unpacked(stream: IO[bytes], kind: str, path: str) -> io.BufferedReader:
    """Return what is in a compressed stream.

    Reads of it raise UserError where the data is damaged or cut, after all that could be read.
    """
    return io.BufferedReader(_Unpacked(stream, kind, path), STEP)


class _Unpacked(io.RawIOBase):
    """A compressed stream as a plain one, whose errors are ours."""

    def __init__(self, stream: IO[bytes], kind: str, path: str) -> None:
        # Each costs time to load, which plain files need not pay.
        import bz2
        import gzip
        import lzma
        import zlib

        import zstandard

        openers: dict[str, Callable[[], object]] = {
            "gzip": lambda: gzip.GzipFile(fileobj=stream),
            "xz": partial(lzma.LZMAFile, stream),
            "bzip2": partial(bz2.BZ2File, stream),
            "zstd": lambda: _Zstd(stream),
        }
        self._inner = cast("IO[bytes]", openers[kind]())
        self._damage = (OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
        self._kind, self._path = kind, path

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer with the next bytes."""
        view = memoryview(cast("bytearray", buffer))
        try:
            data = self._inner.read(min(len(view), STEP))
        except EOFError:
            raise UserError(
                f"{name_of(self._path)}: the {self._kind} data is cut short", path=self._path
            ) from None
        except self._damage as error:
            raise UserError(
                f"{name_of(self._path)}: damaged {self._kind} data ({error})", path=self._path
            ) from None
        view[: len(data)] = data
        return len(data)


class _Zstd:
    """zstd's frames, one after the other; a cut one raises EOFError: the library's own reader does not."""

    def __init__(self, stream: IO[bytes]) -> None:
        import zstandard

        self._stream = stream
        self._new = zstandard.ZstdDecompressor
        self._frame = self._new().decompressobj()
        self._inside = False
        self._ready = b""

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes, none at the end."""
        while not self._ready:
            packed = self._stream.read(ZSTD_STEP)
            if not packed:
                if self._inside:
                    raise EOFError
                return b""
            self._ready = b"".join(self._frames(packed))
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def _frames(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            self._inside = True
            yield self._frame.decompress(packed)
            packed = b""
            if self._frame.eof:
                packed = self._frame.unused_data
                self._frame, self._inside = self._new().decompressobj(), False
