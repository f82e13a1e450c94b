"""Folders of logs read into a case store, on all processors, each log once.

Logs are read in processes of their own, so that a log that kills its reader is said and passed over; what
they find is written by this process, many logs to a transaction.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ktriage.case.store import Store, open_store
from ktriage.case.store.store import KEPT
from ktriage.case.store.types import FindingKind
from ktriage.console import read_crashes
from ktriage.console.journal import boots, is_journal
from ktriage.console.sources import whole
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import BaseContext

    from ktriage.console import Crash

AT_ONCE = 64
"""Logs that are read by one call, and written in one transaction."""
LARGEST_LOG = 1 << 30
"""Bytes of the largest log that is read whole."""
SYZ_LOG = re.compile(r"(?:log|report)\d+(?:\.\w+)?")
"""What syz-manager names a crash's logs in its folder ``crashes/HASH`` (pkg/manager/crash.go)."""
SYZ_REPRODUCERS = ("repro.prog", "repro.cprog")
LARGEST_REPRODUCER = 4 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """A log to be read: ``when`` is the file's time, ``size`` its bytes as it lies there, perhaps compressed.

    ``folder`` is that of a crash that syz-manager kept.
    """

    path: Path
    when: float
    folder: Path | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """What one log came to: ``known`` where the store has it, ``error`` where it could not be read."""

    source: str
    when: float
    data: bytes = b""
    crashes: tuple[Crash, ...] = ()
    known: bool = False
    error: str | None = None
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """One log's end, as it is told: the bugs that its crashes belong to, and which of them are new."""

    source: str
    bugs: tuple[int, ...] = ()
    new: tuple[int, ...] = ()
    known: bool = False
    error: str | None = None


def find_logs(paths: Sequence[Path]) -> Iterator[Item]:
    """Yield the logs in files and folders, in the order of their names; raises UserError for a missing one.

    Of a folder that syz-manager kept for a crash only its logs are.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or directory", path=str(path))
        if path.is_dir():
            for root, folders, names in os.walk(path):
                folders.sort()
                yield from _in_folder(Path(root), sorted(names))
        else:
            found = path.stat()
            yield Item(path, found.st_mtime, size=found.st_size)


def _in_folder(root: Path, names: Sequence[str]) -> Iterator[Item]:
    syz = "description" in names
    for name in names:
        path = root / name
        if name.startswith(".") or (syz and not SYZ_LOG.fullmatch(name)):
            continue
        # The report is a part of the log beside it.
        if syz and name.startswith("report") and f"log{name.removeprefix('report')}" in names:
            continue
        try:
            if path.is_file():
                found = path.stat()
                yield Item(path, found.st_mtime, root if syz else None, found.st_size)
        except OSError:
            continue


class Readers(Protocol):
    """What reads logs, some at a time, somewhere else than here."""

    room: int
    """How many calls are under way at once."""
    most: int
    """Bytes of files in one call, but for one file that alone is more."""

    def submit(self, items: Sequence[Item]) -> Future[list[Read]]:
        """Read some logs; the future raises BrokenProcessPool where one of them killed its reader."""

    def mend(self, lost: Sequence[Sequence[Item]]) -> Iterator[Read]:
        """Read again what was under way when a reader died, and be ready for more."""

    def close(self) -> None:
        """End what is under way."""


class Processes:
    """Reads logs in processes of this machine. ``url`` is the store that says which are known, if any."""

    most = 1 << 62

    def __init__(self, jobs: int, url: str | None, *, context: BaseContext | None = None) -> None:
        self.room = jobs + 1
        self._jobs, self._url, self._context = jobs, url, context
        self._pool = self._made(jobs)

    def _made(self, jobs: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            jobs, mp_context=self._context, initializer=_set_up, initargs=(self._url, os.getpid())
        )

    def submit(self, items: Sequence[Item]) -> Future[list[Read]]:
        """Read some logs."""
        return self._pool.submit(read_items, items)

    def mend(self, lost: Sequence[Sequence[Item]]) -> Iterator[Read]:
        """Read again, each log in a process of its own: one of them killed its reader."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._made(self._jobs)
        for items in lost:
            yield from self.one_by_one(items)

    def one_by_one(self, items: Sequence[Item]) -> Iterator[Read]:
        """Read each log in a process of its own."""
        for item in items:
            with self._made(1) as pool:
                try:
                    yield from pool.submit(read_items, [item]).result()
                except BrokenProcessPool:
                    yield Read(str(item.path), item.when, error="its reader died")

    def close(self) -> None:
        """End what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def import_logs(
    store: Store,
    paths: Sequence[Path],
    *,
    jobs: int | None = None,
    keep: int = KEPT,
    tell: Callable[[Imported], None] = lambda _: None,
    readers: Readers | None = None,
) -> None:
    """Read all logs of ``paths`` into ``store``; ``tell`` is called for each when it is kept for good.

    ``readers`` read them, ``jobs`` processes of this machine where there are none. Raises UserError where a
    path is missing. A log that can't be read is told, and left.
    """
    url = store.engine.url.render_as_string(hide_password=False)
    readers = readers or Processes(jobs or os.cpu_count() or 1, url)
    batches = _batches(find_logs(paths), readers.most)
    try:
        pending: dict[Future[list[Read]], list[Item]] = {}
        while True:
            while len(pending) < readers.room and (some := next(batches, None)):
                pending[readers.submit(some)] = some
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                batch = pending.pop(future)
                try:
                    results = future.result()
                except BrokenProcessPool:
                    lost = [batch, *pending.values()]
                    pending.clear()
                    results = list(readers.mend(lost))
                for told in _keep(store, results, keep):
                    tell(told)
                if not pending:
                    break
    finally:
        readers.close()


def _batches(items: Iterator[Item], most: int) -> Iterator[list[Item]]:
    """Put logs together, ``AT_ONCE`` or ``most`` bytes of them."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) >= AT_ONCE or sum(one.size for one in batch) + item.size > most):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _keep(store: Store, results: Sequence[Read], keep: int) -> list[Imported]:
    """Write what a batch of logs came to as one transaction."""
    told = []
    with store.batch():
        for read in results:
            if read.known or read.error:
                told.append(Imported(read.source, known=read.known, error=read.error))
                continue
            added = store.add_log(read.source, read.data, read.crashes, when=read.when, keep=keep)
            told.append(Imported(read.source, added.bugs, added.new, added.known))
            if read.folder is not None and added.bugs:
                _reproducers(store, read.folder, added.bugs[0])
    return told


def _reproducers(store: Store, folder: Path, bug: int) -> None:
    for name in SYZ_REPRODUCERS:
        path = folder / name
        try:
            if path.is_file() and path.stat().st_size <= LARGEST_REPRODUCER:
                content = path.read_bytes()
                store.add_finding(
                    FindingKind.REPRODUCER, f"{bug} {hashlib.sha256(content).hexdigest()}", name,
                    {"name": name, "source": str(path)}, bug=bug, content=content,
                )  # fmt: skip
        except OSError:
            continue


_stores: list[Store] = []
"""The store as a reading process sees it: it only asks what is known already."""


def _set_up(url: str | None, owner: int) -> None:
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    _stores[:] = [open_store(url)] if url else []


def _end_with(owner: int) -> None:
    """End this process with the one that wants it: the pool's own way is not taken where that is killed."""
    try:
        select.select([os.pidfd_open(owner)], [], [])
    finally:
        os._exit(1)


def read_items(items: Sequence[Item]) -> list[Read]:
    """Read some logs, in a process that ``_set_up`` has prepared."""
    return [one for item in items for one in _read(item)]


def _read(item: Item) -> Iterator[Read]:
    source = str(item.path)
    try:
        if item.path.stat().st_size > LARGEST_LOG:
            yield Read(
                source, item.when, error=f"over {LARGEST_LOG >> 20} MiB: `ktriage report` reads it in pieces"
            )
            return
        data = whole(source, LARGEST_LOG)
    except UserError as error:
        yield Read(source, item.when, error=error.message)
        return
    except OSError as error:
        yield Read(source, item.when, error=error.strerror or str(error))
        return
    logs = [(source, data, item.when)]
    if is_journal(data[:65536]):
        logs = [(f"{source} boot {boot.boot}", boot.text, boot.when or item.when) for boot in boots(data)]
    for name, text, when in logs:
        if _stores and _stores[0].has_log(hashlib.sha256(text).hexdigest()):
            yield Read(name, when, known=True)
            continue
        yield Read(name, when, text, tuple(read_crashes(text, name)), folder=item.folder)
