"""Files and folders by what is in them: what one machine has reaches another once, and is kept there.

A blob is a file, or a folder as the archive that ``parcel`` makes of it, and is called by the SHA-256 of its
bytes. It travels in pieces, each compressed (zstd, RFC 8878) with a checksum, and becomes visible by a
rename once all of it is there and is what it is called: whoever is killed in the middle, or sends rubbish,
leaves nothing that is taken for a blob. An entry is ``content/SHA256/data``, or ``content/SHA256/tree``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zstandard

from ktriage.cache import cache_root, digest, locked, touch
from ktriage.errors import MachineryError, UserError
from ktriage.jobs.fleet.parcel import members, pack, unpack

ROOM = "content"
PIECE = 8 << 20
"""Bytes of a blob that travel at once, before they are compressed."""
LEVEL = 3
KEPT_BYTES = 20 << 30
"""What the store may take; ``KTRIAGE_CONTENT_BYTES`` says otherwise."""
STALE_SECONDS = 24 * 3600
"""A transfer that got no piece for so long was given up."""

Kind = Literal["file", "folder"]


@dataclass(frozen=True, slots=True)
class Blob:
    """A file, or a folder's archive: the SHA-256 of its bytes in hex digits, and how many they are."""

    sha256: str
    size: int
    kind: Kind


class MissingError(Exception):
    """Blobs that this machine does not have; ``worker`` is its address, empty where that is not known."""

    def __init__(self, blobs: tuple[Blob, ...], worker: str = "") -> None:
        super().__init__(blobs, worker)  # what pickling makes it of again
        self.blobs = blobs
        self.worker = worker

    def __str__(self) -> str:
        names = ", ".join(blob.sha256[:12] for blob in self.blobs)
        return f"{self.worker or 'this machine'} does not have {names}"


_sources: dict[str, Path] = {}
"""Where this process has what it registered, by SHA-256."""


_offered: set[str] = set()
"""What this process offered and was not fetched, by SHA-256."""


def register(path: Path) -> Blob:
    """Return the blob of a file or a folder, which can be sent from where it lies as long as it stays so.

    What was hashed before is not read again while sizes and times are the same. Raises UserError where there
    is nothing, or nothing that can be read.
    """
    try:
        kind: Kind = "folder" if path.is_dir() else "file"
        stamp = _stamp(path, kind)
        known = cache_root() / ROOM / "known" / f"{stamp}.json"
        blob = _known(known) or _hashed(path, kind, known)
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror}") from error
    _sources[blob.sha256] = path.absolute()
    return blob


def _stamp(path: Path, kind: Kind) -> str:
    """Return a key that changes when a file's size or time does, or a folder's names, too."""
    found = path.stat()
    lines = [f"{kind} {path.resolve()} {found.st_mode:o} {found.st_size} {found.st_mtime_ns}"]
    if kind == "folder":
        for name, below in members(path.resolve()):
            # A folder's own time changes with files that come and go, and those are listed.
            times = "" if stat.S_ISDIR(below.st_mode) else f"{below.st_size} {below.st_mtime_ns}"
            lines.append(f"{name}\0{below.st_mode:o} {times}")
    return digest("1", *(line.encode(errors="surrogateescape") for line in lines))


def _known(path: Path) -> Blob | None:
    try:
        return Blob(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _hashed(path: Path, kind: Kind, known: Path) -> Blob:
    total, size = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal size
        total.update(data)
        size += len(data)

    _read(path, take)
    blob = Blob(total.hexdigest(), size, kind)
    known.parent.mkdir(parents=True, exist_ok=True)
    draft = known.with_suffix(f".{uuid.uuid4().hex}")
    draft.write_text(json.dumps({"sha256": blob.sha256, "size": blob.size, "kind": blob.kind}))
    draft.replace(known)
    return blob


def _read(path: Path, sink: Callable[[bytes], object]) -> None:
    if path.is_dir():
        pack(path, sink)
        return
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            sink(data)


def send(blob: Blob, give: Callable[[int, bytes], object]) -> None:
    """Call ``give(offset, piece)`` for each piece of a blob that was registered here or is in the store.

    Raises MissingError where it is neither, MachineryError where what was registered has changed.
    """
    entry = _entry(blob)
    source = _sources.get(blob.sha256, entry / ("tree" if blob.kind == "folder" else "data"))
    if not source.exists():
        raise MissingError((blob,))
    compress = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress
    waiting, offset, total = bytearray(), 0, hashlib.sha256()

    def take(data: bytes) -> None:
        nonlocal offset
        total.update(data)
        waiting.extend(data)
        while len(waiting) >= PIECE:
            give(offset, compress(bytes(waiting[:PIECE])))
            del waiting[:PIECE]
            offset += PIECE

    try:
        _read(source, take)
    except OSError as error:
        raise MachineryError(f"{source} can't be sent: {error.strerror}") from error
    if total.hexdigest() != blob.sha256:
        raise MachineryError(f"{source} changed while it was in use")
    if waiting or not offset:
        give(offset, compress(bytes(waiting)))


def _entry(blob: Blob) -> Path:
    if len(blob.sha256) != 64 or not set(blob.sha256) <= set("0123456789abcdef"):
        raise MachineryError(f"no name of a blob: {blob.sha256[:80]!r}")
    return cache_root() / ROOM / blob.sha256


def _place(blob: Blob) -> Path:
    return _entry(blob) / ("tree" if blob.kind == "folder" else "data")


def missing(blobs: Iterable[Blob]) -> tuple[Blob, ...]:
    """Return those of the blobs that are not in this machine's store."""
    return tuple(blob for blob in dict.fromkeys(blobs) if not _place(blob).exists())


def put(blob: Blob, transfer: str, offset: int, piece: bytes) -> bool:
    """Take a piece of a blob as ``send`` gives it; return whether the blob is whole now, and in the store.

    ``transfer`` names one sender's attempt. Raises MachineryError for a piece that is not the next, is broken
    or too long, and where the whole is not what the blob is called; the transfer is void then.
    """
    entry = _entry(blob)
    if _place(blob).exists():
        return True
    draft = entry.with_name(f"{blob.sha256}.{digest(transfer)}.draft")
    try:
        done = _append(draft, blob, offset, piece) == blob.size
        if done:
            _publish(draft, blob, entry)
    except (MachineryError, OSError) as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MachineryError(f"{blob.sha256[:12]} can't be kept: {error}") from error
        raise
    return done


def _append(draft: Path, blob: Blob, offset: int, piece: bytes) -> int:
    """Append a piece to a draft and return how long that is now."""
    try:
        data = zstandard.ZstdDecompressor().decompress(piece, max_output_size=PIECE)
    except zstandard.ZstdError as error:
        raise MachineryError(f"a piece of {blob.sha256[:12]} is broken: {error}") from error
    if len(data) > PIECE or offset + len(data) > blob.size:
        raise MachineryError(f"a piece of {blob.sha256[:12]} is too long")
    if not offset:
        _sweep(draft.parent)
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        if shutil.disk_usage(draft.parent).free < 2 * blob.size:
            raise MachineryError(f"no room for {blob.size >> 20} MiB in {draft.parent}")
    with draft.open("ab") as file:
        if file.tell() != offset:
            raise MachineryError(
                f"a piece of {blob.sha256[:12]} is not the next: {offset}, not {file.tell()}"
            )
        file.write(data)
        return file.tell()


def _publish(draft: Path, blob: Blob, entry: Path) -> None:
    """Make an entry of a whole draft, where it is what it should be."""
    with draft.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.sha256:
        raise MachineryError(f"what came for {blob.sha256[:12]} is {found[:12]}")
    made = draft.with_suffix(".made")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        if blob.kind == "folder":
            unpack(draft, made / "tree")
            draft.unlink()
        else:
            draft.rename(made / "data")
        _rename(made, entry)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    evict()


def _rename(made: Path, entry: Path) -> None:
    """Put an entry in its place; another process's that is there already will do as well."""
    (made / "bytes").write_text(str(sum(found.st_size for _, found in members(made))))
    try:
        made.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
        shutil.rmtree(made, ignore_errors=True)


def adopt(path: Path) -> Blob:
    """Put a copy of a file or a folder into this machine's store and return its blob.

    Raises UserError as ``register``, OSError where there is no room.
    """
    blob = register(path)
    if not _place(blob).exists():
        put_all(blob)
    _sources.pop(blob.sha256, None)
    return blob


def put_all(blob: Blob) -> None:
    """Put what was registered into this machine's own store."""
    transfer = uuid.uuid4().hex
    send(blob, lambda offset, piece: put(blob, transfer, offset, piece))


def offer(path: Path) -> Blob:
    """Make a file or a folder ready to be fetched from this machine, piece by piece; return its blob.

    It is kept as it is now until ``withdraw``, or for a day. Raises OSError where there is no room.
    """
    root = cache_root() / ROOM
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    draft = root / f"{uuid.uuid4().hex}.draft"
    total, size = hashlib.sha256(), 0
    with draft.open("wb") as file:

        def take(data: bytes) -> None:
            nonlocal size
            total.update(data)
            size += len(data)
            file.write(data)

        _read(path, take)
    blob = Blob(total.hexdigest(), size, "folder" if path.is_dir() else "file")
    draft.replace(_entry(blob).with_suffix(".offer"))
    _offered.add(blob.sha256)
    return blob


def offering() -> bool:
    """Return whether something that this process offered was not fetched yet."""
    return bool(_offered)


def offered(blob: Blob, offset: int) -> bytes:
    """Return the piece at ``offset`` of a blob that was offered, as ``put`` takes it. Raises MissingError."""
    try:
        with _entry(blob).with_suffix(".offer").open("rb") as file:
            file.seek(offset)
            data = file.read(PIECE)
    except FileNotFoundError:
        raise MissingError((blob,)) from None
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)


def withdraw(blob: Blob) -> None:
    """Let go of what was offered."""
    _entry(blob).with_suffix(".offer").unlink(missing_ok=True)
    _offered.discard(blob.sha256)


def path_of(blob: Blob) -> Path:
    """Return the file of a blob. It may go unless it is held by ``using``. Raises MissingError."""
    place = _place(blob)
    if not place.exists():
        raise MissingError((blob,))
    with suppress(FileNotFoundError):
        touch(_entry(blob))
    return place


def unpacked(blob: Blob) -> Path:
    """Return the folder of a blob; as ``path_of``. What is in it is for reading only."""
    return path_of(blob)


@contextmanager
def using(*blobs: Blob) -> Iterator[tuple[Path, ...]]:
    """Hold blobs in the store while the block lasts; give the file or folder of each.

    Raises MissingError with all that are missing.
    """
    with ExitStack() as stack:
        for blob in dict.fromkeys(blobs):
            stack.enter_context(locked(_entry(blob).with_suffix(".lock"), shared=True))
        if lacking := missing(blobs):
            raise MissingError(lacking)
        yield tuple(path_of(blob) for blob in blobs)


def discard(blob: Blob) -> None:
    """Remove a blob from the store unless it is in use."""
    _remove(_entry(blob))


def claim(blob: Blob, target: Path) -> None:
    """Move a folder's content out of the store, to ``target``, which may be there. Raises MissingError."""
    with using(blob) as (tree,):
        # Of now: no time came with it, and what is made of it may be younger than what it is made of.
        shutil.copytree(tree, target, symlinks=True, dirs_exist_ok=True, copy_function=shutil.copy)
    discard(blob)


def evict(most: int | None = None) -> None:
    """Remove the blobs that were used longest ago until all take ``most`` bytes; those in use stay."""
    if most is None:
        most = int(os.environ.get("KTRIAGE_CONTENT_BYTES") or KEPT_BYTES)
    total = 0
    for entry in sorted(_entries(), key=_used, reverse=True):
        try:
            total += int((entry / "bytes").read_text())
        except (OSError, ValueError):
            continue
        if total > most:
            _remove(entry)


def _entries() -> list[Path]:
    root = cache_root() / ROOM
    return [one for one in root.iterdir() if len(one.name) == 64] if root.is_dir() else []


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(entry: Path) -> None:
    lock = entry.with_suffix(".lock")
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = entry.with_suffix(f".{uuid.uuid4().hex}.made")
        entry.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        return
    finally:
        os.close(fd)


def _sweep(root: Path) -> None:
    """Remove what transfers left that were given up."""
    for left in [*root.glob("*.draft"), *root.glob("*.made"), *root.glob("*.offer")]:
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
