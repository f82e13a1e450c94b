"""Watches where logs come from, and keeps what crashes: folders, files that grow, serial lines, journald."""

from __future__ import annotations

import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.console.reader import Reader
from ktriage.console.sources import Tail, chunks
from ktriage.console.types import Crash, Flood
from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.jobs.marks import Marks
from ktriage.jobs.streams import BAUD, Piece, checked, is_journal, listened

if TYPE_CHECKING:
    from ktriage.case.store import Store

POLL_SECONDS = 1.0
QUIET_SECONDS = 2.0
"""A file in a folder is read when it has not changed for so long; a crash of a stream is told then, too."""
HELD_SECONDS = 20.0
"""So long a crash of a stream that never falls quiet is waited for."""
AGAIN_SECONDS = 3.0
"""So long a store that does not answer is left alone before it is asked again."""
ENDING_SECONDS = 2.0
"""So long what was heard before the end is waited for."""
MOST_READERS = 256
"""Logs of one source that are read at a time: a journal has one for each boot of each machine."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A crash that came: its bug, and whether that is new; or, as ``note``, what became of a source.

    ``failed`` says that the source is not watched any more, because it could not be.
    """

    source: str
    title: str = ""
    bug: int | None = None
    new: bool = False
    note: str | None = None
    failed: bool = False


def watch(
    store: Store,
    sources: list[str],
    *,
    tell: Callable[[Seen], None],
    ended: threading.Event,
    baud: int = BAUD,
) -> None:
    """Watch until ``ended`` is set, or every stream has come to its end; ``tell`` is called for each crash.

    ``baud`` is the speed of the serial lines among ``sources``. Raises UserError where a source is missing.
    """
    for name in sources:
        checked(name, baud)
    found: queue.Queue[Seen | None] = queue.Queue()
    marks = Marks(str(store.engine.url))
    # A store that was begun anew has nothing of what was read.
    begin = {name: marks.of(name) if store.bugs(limit=1)[1] else (0, 0) for name in sources}
    threads = [
        threading.Thread(target=_source, args=(name, found, ended, baud, mark), daemon=True)
        for name, mark in begin.items()
    ]
    for thread in threads:
        thread.start()
    left = len(threads)
    deadline: float | None = None
    while left and (deadline is None or time.monotonic() < deadline):
        if ended.is_set() and deadline is None:  # what was heard until now is yet to come
            deadline = time.monotonic() + ENDING_SECONDS
        try:
            seen = found.get(timeout=0.2)
        except queue.Empty:
            continue
        if seen is None:
            left -= 1
        elif isinstance(seen, _Read):
            marks.note(seen.source, seen.inode, seen.offset)
        else:
            tell(_kept(store, seen, tell, ended))
    marks.write()


@dataclass(frozen=True, slots=True)
class _Found(Seen):
    """A crash with what is to be kept of it."""

    crash: Crash | None = None
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class _Read(Seen):
    """That a file was read up to ``offset``, and the crashes before it were handed over."""

    inode: int = 0
    offset: int = 0


def _kept(store: Store, seen: Seen, tell: Callable[[Seen], None], ended: threading.Event) -> Seen:
    """Keep a crash; a store that does not answer is asked until it does, or ``ended`` is set."""
    if not isinstance(seen, _Found) or seen.crash is None:
        return seen
    told = False
    while True:
        try:
            added = store.add_log(seen.source, seen.data, [seen.crash])
        except MachineryError as error:
            if not told:
                tell(Seen(seen.source, note=f"{seen.title}: not kept yet: {error.message}"))
                told = True
            if ended.wait(AGAIN_SECONDS):
                return Seen(seen.source, note=f"{seen.title}: not kept", failed=True)
            continue
        if added.known or not added.bugs:
            return Seen(seen.source, seen.title)
        return Seen(seen.source, seen.title, added.bugs[0], bool(added.new))


def _source(
    name: str, found: queue.Queue[Seen | None], ended: threading.Event, baud: int, mark: tuple[int, int]
) -> None:
    """Watch one source, in a thread; hand over what is found, and None at its end."""

    def say(note: str) -> None:
        found.put(Seen(name, note=note))

    try:
        if not is_journal(name) and Path(name).is_dir():
            crashes = _folder(Path(name), ended)
        elif not is_journal(name) and Path(name).is_file():
            crashes = _growing(Tail(name, *mark), ended)
        else:
            crashes = _crashes(listened(name, ended, say, baud=baud))
        for seen in crashes:
            found.put(seen)
    except (KtriageError, OSError) as error:
        text = error.message if isinstance(error, KtriageError) else error.strerror or str(error)
        found.put(Seen(name, note=text.removeprefix(f"{name}: "), failed=True))
    finally:
        found.put(None)


@dataclass(slots=True)
class _Log:
    """One log of a stream: its reader, when it last said something, and since when a crash is waited for."""

    name: str
    reader: Reader
    heard: float = field(default_factory=time.monotonic)
    since: float | None = None

    def take(self, piece: bytes) -> Iterator[Seen]:
        """Yield the crashes that are whole with ``piece``."""
        self.heard = time.monotonic()
        yield from _told(self.name, self.reader.feed(piece))

    def end(self) -> Iterator[Seen]:
        """Yield the crashes that are not told yet."""
        yield from _told(self.name, self.reader.close())

    def rest(self) -> Iterator[Seen]:
        """Yield the crashes that have been waited for long enough."""
        now = time.monotonic()
        if not self.reader.waiting:
            self.since = None
            return
        self.since = self.since or now
        if now - self.heard > QUIET_SECONDS or now - self.since > HELD_SECONDS:
            self.since = None
            yield from _told(self.name, self.reader.flush())


def _growing(tail: Tail, ended: threading.Event) -> Iterator[Seen]:
    """Yield the crashes of a file that grows, and how far it was read whenever none is under way."""
    log, inode, rest, marked = _Log(tail.path, Reader(tail.path)), tail.inode, 0, -1
    for piece in tail.pieces():
        if ended.is_set():
            return  # what is under way is read again
        if tail.inode != inode:
            yield from log.end()
            log, inode, rest = _Log(tail.path, Reader(tail.path)), tail.inode, 0
        if piece:
            yield from log.take(piece)
            end = piece.rfind(b"\n") + 1
            rest = len(piece) - end if end else rest + len(piece)
        yield from log.rest()
        # A line that is not whole yet may announce a crash.
        offset = max(0, tail.position - rest)
        if not log.reader.waiting and offset != marked:
            marked = offset
            yield _Read(tail.path, inode=inode, offset=offset)


def _crashes(pieces: Iterator[Piece]) -> Iterator[Seen]:
    """Yield the crashes of a stream's logs, each when it is whole or its log has fallen quiet."""
    logs: dict[str, _Log] = {}
    for name, piece in pieces:
        if piece is None and name in logs:
            yield from logs.pop(name).end()
        elif piece:
            log = logs.pop(name, None) or _Log(name, Reader(name))
            logs[name] = log  # at the end: the first is the one that has been quiet for longest
            yield from log.take(piece)
            if len(logs) > MOST_READERS:
                yield from logs.pop(next(iter(logs))).end()
        for log in logs.values():
            yield from log.rest()
    for log in logs.values():
        yield from log.end()


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
        yield Seen(str(path), note=str(error))
    yield from _told(str(path), reader.close())
