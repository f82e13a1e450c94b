"""Copies a machine's dump to where it is safe, in a way that a half-dead machine can stand.

A kernel that kdump has booted has little memory, and reads of /proc/vmcore may fail where its own page cache
or a bounce buffer can't be had (ENOMEM), or where the old kernel's memory is bad (EIO, EFAULT). Reads are
small and in order, made smaller where they fail, and what can't be read at all becomes zeros and is said.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK = 1 << 20
"""Bytes read at a time where all is well."""
PAGE = 4096
"""Bytes of the smallest read, and what is given up where that fails."""
SYNC = 64 << 20
"""Bytes after which what was copied is on disk, and would not be copied again."""
TRANSIENT = (errno.ENOMEM, errno.EAGAIN, errno.EINTR)
BAD = (errno.EIO, errno.EFAULT, errno.ENXIO)
FILTER_LEVEL = 31
"""makedumpfile leaves out pages of zeros, caches, user memory and free ones (makedumpfile(8), -d)."""


class Digest(Protocol):
    """A checksum in the making, as hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Take in bytes."""


class Source(Protocol):
    """What is copied: ``read`` as os.pread, and its size in bytes."""

    size: int

    def read(self, size: int, offset: int) -> bytes:
        """Return bytes, fewer at the end; raises OSError."""


@dataclass(slots=True)
class FileSource:
    """A file, such as /proc/vmcore."""

    descriptor: int
    size: int

    def read(self, size: int, offset: int) -> bytes:
        """Return bytes, as os.pread does."""
        return os.pread(self.descriptor, size, offset)


@dataclass(frozen=True, slots=True)
class Collected:
    """A copy: its bytes, its SHA-256, the bytes that could not be read, and how it was made."""

    path: Path
    size: int
    sha256: str
    unreadable: int
    resumed: int
    how: str


def quiet(_done: int, _all: int) -> None:
    """Tell nobody."""


def collect(source: Path, target: Path, *, tell: Callable[[int, int], None] = quiet) -> Collected:
    """Copy the dump ``source`` to ``target``; goes on where an earlier try was broken off.

    What is under way is in ``target``.partial, and the checksum afterwards in ``target``.sha256 in the form
    that sha256sum(1) takes. ``tell`` is called with the bytes done and all. Raises UserError where there is
    no dump or ``target`` is there already, MachineryError where the disk is full.
    """
    check(source, target)
    with source.open("rb", buffering=0) as file:
        return copy(FileSource(file.fileno(), os.fstat(file.fileno()).st_size), target, tell=tell)


def copy(source: Source, target: Path, *, tell: Callable[[int, int], None] = quiet) -> Collected:
    """Copy ``source`` as ``collect`` does."""
    partial = target.with_name(f"{target.name}.partial")
    state = target.with_name(f"{target.name}.partial.json")
    done, lost = _resumed(partial, state, source.size)
    resumed, digest = done, hashlib.sha256()
    try:
        with partial.open("r+b" if done else "wb") as out:
            out.truncate(done)
            _hash(out.fileno(), done, digest)
            room = shutil.disk_usage(partial.parent).free
            if source.size - done > room:
                raise MachineryError(
                    f"{target}: {source.size - done} bytes are to be copied and {room} are free",
                    hint="makedumpfile, where it is installed, leaves out what a diagnosis does not need",
                )
            synced = done
            while done < source.size:
                data, gone = _read(source, min(CHUNK, source.size - done), done)
                _write(out.fileno(), data, done)
                digest.update(data)
                done, lost = done + len(data), lost + gone
                tell(done, source.size)
                if done - synced >= SYNC:
                    synced = done
                    _keep(out.fileno(), state, source.size, done, lost)
            out.truncate(done)
            os.fsync(out.fileno())
        _finish(partial, target, digest.hexdigest())
    except OSError as error:
        raise MachineryError(
            f"{target}: {error.strerror}", hint="the same command goes on where it was broken off"
        ) from error
    state.unlink(missing_ok=True)
    return Collected(target, done, digest.hexdigest(), lost, resumed, "copied")


def filtered(source: Path, target: Path, *, level: int = FILTER_LEVEL) -> Collected:
    """Have makedumpfile write what matters of ``source``, compressed; that can't be gone on with.

    Raises UserError as ``collect`` and where makedumpfile is not installed, MachineryError where it fails.
    """
    check(source, target)
    program = shutil.which("makedumpfile")
    if program is None:
        raise UserError("makedumpfile is not installed", hint="Debian: apt-get install makedumpfile")
    partial = target.with_name(f"{target.name}.partial")
    command = [program, "-c", "-d", str(level), "--message-level", "4", str(source), str(partial)]
    done = subprocess.run([*command[:1], "-f", *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode or not partial.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise MachineryError(f"makedumpfile failed: {said[-1] if said else f'exit code {done.returncode}'}")
    digest = hashlib.sha256()
    with partial.open("rb") as out:
        os.fsync(out.fileno())
        size = partial.stat().st_size
        _hash(out.fileno(), size, digest)
    _finish(partial, target, digest.hexdigest())
    return Collected(target, size, digest.hexdigest(), 0, 0, f"makedumpfile -d {level}")


def check(source: Path, target: Path) -> None:
    """Raise UserError where ``source`` can't be copied to ``target``."""
    if not source.is_file():
        raise UserError(
            f"{source}: no such file",
            hint="/proc/vmcore is there in the kernel that kdump booted, and only there",
        )
    if not os.access(source, os.R_OK):
        raise UserError(f"{source}: may not be read", hint="run as root")
    if target.exists():
        raise UserError(f"{target}: is there already")
    if not target.resolve().parent.is_dir():
        raise UserError(f"{target}: no such directory: {target.parent}")


def _resumed(partial: Path, state: Path, size: int) -> tuple[int, int]:
    """Return the bytes that an earlier try has copied for good, and those of them that could not be read."""
    try:
        kept = json.loads(state.read_text())
        done, lost = int(kept["done"]), int(kept["unreadable"])
        if kept["size"] != size or not 0 <= done <= partial.stat().st_size:
            return 0, 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0
    return done, lost


def _hash(descriptor: int, size: int, digest: Digest) -> None:
    for offset in range(0, size, CHUNK):
        digest.update(os.pread(descriptor, min(CHUNK, size - offset), offset))


def _read(source: Source, size: int, offset: int) -> tuple[bytes, int]:
    """Return the next bytes and how many of them are zeros for want of the real ones."""
    while True:
        try:
            data = source.read(size, offset)
            if not data:
                raise MachineryError(f"the dump ends after {offset} bytes, not after {source.size}")
            return data, 0
        except OSError as error:
            if error.errno not in (*TRANSIENT, *BAD):
                raise
            if size <= PAGE:
                if error.errno == errno.EINTR:
                    continue
                return bytes(size), size
            # Up to the next multiple of the smaller size, so that reads stay aligned.
            size = max(PAGE, size // 2)
            size -= (offset + size) % PAGE if size > PAGE else 0


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """Write the pages that are not all zeros; the others become holes."""
    start = None
    for place in range(0, len(data) + PAGE, PAGE):
        page = data[place : place + PAGE]
        if page.strip(b"\0"):
            start = place if start is None else start
        elif start is not None:
            _write_all(descriptor, memoryview(data)[start:place], offset + start)
            start = None


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _keep(descriptor: int, state: Path, size: int, done: int, lost: int) -> None:
    # A hole at the end is not in the file's size yet.
    if os.fstat(descriptor).st_size < done:
        os.ftruncate(descriptor, done)
    os.fsync(descriptor)
    draft = state.with_name(f"{state.name}.new")
    draft.write_text(json.dumps({"size": size, "done": done, "unreadable": lost}))
    draft.replace(state)


def _finish(partial: Path, target: Path, digest: str) -> None:
    target.with_name(f"{target.name}.sha256").write_text(f"{digest}  {target.name}\n")
    partial.replace(target)
    folder = os.open(target.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
