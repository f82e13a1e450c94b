"""Watches where logs come from, and keeps what crashes: folders, files that grow, serial lines, journald."""

from __future__ import annotations

import queue
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.console.reader import Reader
from ktriage.console.sources import chunks, followed
from ktriage.console.types import Crash, Flood
from ktriage.errors import KtriageError, UserError

if TYPE_CHECKING:
    from ktriage.case.store import Store

JOURNAL = "journal"
"""The name that stands for journald's kernel messages."""
POLL_SECONDS = 1.0
QUIET_SECONDS = 2.0
"""A file in a folder is read when it has not changed for so long; a crash of a stream is told then, too."""
LARGEST = 256 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """A crash that came: its bug, and whether that is new; or why a source could not be read."""

    source: str
    title: str = ""
    bug: int | None = None
    new: bool = False
    error: str | None = None


def watch(store: Store, sources: list[str], *, tell: Callable[[Seen], None], ended: threading.Event) -> None:
    """Watch until ``ended`` is set, or every stream has come to its end; ``tell`` is called for each crash.

    Raises UserError where a source is missing.
    """
    found: queue.Queue[Seen | None] = queue.Queue()
    threads = [
        threading.Thread(target=_source, args=(name, found, ended), daemon=True) for name in _checked(sources)
    ]
    for thread in threads:
        thread.start()
    left = len(threads)
    while left and not ended.is_set():
        try:
            seen = found.get(timeout=0.2)
        except queue.Empty:
            continue
        if seen is None:
            left -= 1
        else:
            tell(_kept(store, seen))


def _checked(sources: list[str]) -> list[str]:
    for name in sources:
        if name == JOURNAL:
            if shutil.which("journalctl") is None:
                raise UserError("journalctl is not installed: there is no journal to watch")
        elif not Path(name).exists():
            raise UserError(f"{name}: no such file or directory", path=name)
    return sources


@dataclass(frozen=True, slots=True)
class _Found(Seen):
    """A crash with what is to be kept of it."""

    crash: Crash | None = None
    data: bytes = b""


def _kept(store: Store, seen: Seen) -> Seen:
    if not isinstance(seen, _Found) or seen.crash is None:
        return seen
    added = store.add_log(seen.source, seen.data, [seen.crash])
    if added.known or not added.bugs:
        return Seen(seen.source, seen.title)
    return Seen(seen.source, seen.title, added.bugs[0], bool(added.new))


def _source(name: str, found: queue.Queue[Seen | None], ended: threading.Event) -> None:
    """Watch one source, in a thread; hand over what is found, and None at its end."""
    try:
        for seen in _folder(Path(name), ended) if _is_folder(name) else _crashes(name, _pieces(name, ended)):
            found.put(seen)
    except (KtriageError, OSError) as error:
        text = error.message if isinstance(error, KtriageError) else error.strerror or str(error)
        found.put(Seen(name, error=text))
    finally:
        found.put(None)


def _is_folder(name: str) -> bool:
    return name != JOURNAL and Path(name).is_dir()


def _pieces(name: str, ended: threading.Event) -> Iterator[bytes]:
    """Yield what a stream says, and an empty piece now and then while it is quiet."""
    if name == JOURNAL:
        yield from _journal(ended)
        return
    for piece in followed(name):
        if ended.is_set():
            return
        yield piece


def _journal(ended: threading.Event) -> Iterator[bytes]:
    command = ["journalctl", "--dmesg", "--follow", "--lines=0", "--output=short-monotonic"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            for piece in followed(f"/proc/self/fd/{process.stdout.fileno()}"):
                if ended.is_set():
                    return
                yield piece
        finally:
            process.terminate()


def _crashes(name: str, pieces: Iterator[bytes]) -> Iterator[Seen]:
    """Yield the crashes of a stream, each when it is whole or the stream has fallen quiet."""
    reader, heard = Reader(name), time.monotonic()
    for piece in pieces:
        if piece:
            heard = time.monotonic()
            yield from _told(name, reader.feed(piece))
        elif reader.waiting and time.monotonic() - heard > QUIET_SECONDS:
            yield from _told(name, reader.flush())
    yield from _told(name, reader.close())


def _told(name: str, findings: Iterator[Crash | Flood]) -> Iterator[Seen]:
    for finding in findings:
        if isinstance(finding, Crash) and finding.cause is None:
            data = finding.text.encode(errors="replace")
            crash = replace(finding, start=0, end=len(data))
            yield _Found(name, finding.title, crash=crash, data=data)


def _folder(folder: Path, ended: threading.Event) -> Iterator[Seen]:
    """Yield the crashes of a folder's files, each file when it has come to rest; those that changed again."""
    read: dict[Path, tuple[int, int]] = {}
    while not ended.is_set():
        for path in sorted(folder.rglob("*")):
            try:
                status = path.stat()
            except OSError:
                continue
            now = (status.st_mtime_ns, status.st_size)
            if not stat.S_ISREG(status.st_mode) or path.name.startswith(".") or read.get(path) == now:
                continue
            if time.time() - status.st_mtime < QUIET_SECONDS:
                continue
            read[path] = now
            yield from _file(path)
        ended.wait(POLL_SECONDS)


def _file(path: Path) -> Iterator[Seen]:
    reader = Reader(str(path))
    try:
        for piece in chunks(str(path)):
            yield from _told(str(path), reader.feed(piece))
    except (UserError, OSError) as error:
        yield Seen(str(path), error=str(error))
    yield from _told(str(path), reader.close())
