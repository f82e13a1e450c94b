"""Folders of logs read into a case store, on all processors, each log once.

Logs are read in processes of their own, so that a log that kills its reader is said and passed over; what
they find is written by this process, many logs to a transaction.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.case.store import Store, open_store
from ktriage.case.store.store import KEPT
from ktriage.case.store.types import FindingKind
from ktriage.console import read_crashes
from ktriage.console.journal import boots, is_journal
from ktriage.console.sources import whole
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """A log to be read; ``when`` is the file's time, ``folder`` that of a crash that syz-manager kept."""

    path: Path
    when: float
    folder: Path | None = None


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
            yield Item(path, path.stat().st_mtime)


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
                yield Item(path, path.stat().st_mtime, root if syz else None)
        except OSError:
            continue


def import_logs(
    store: Store,
    paths: Sequence[Path],
    *,
    jobs: int | None = None,
    keep: int = KEPT,
    tell: Callable[[Imported], None] = lambda _: None,
) -> None:
    """Read all logs of ``paths`` into ``store``; ``tell`` is called for each when it is kept for good.

    Raises UserError where a path is missing. A log that can't be read is told, and left.
    """
    items = find_logs(paths)
    jobs = jobs or os.cpu_count() or 1
    url = store.engine.url.render_as_string(hide_password=False)
    pool = ProcessPoolExecutor(jobs, initializer=_set_up, initargs=(url,))
    try:
        pending: dict[Future[list[Read]], list[Item]] = {}
        while True:
            while len(pending) < jobs + 1 and (some := list(islice(items, AT_ONCE))):
                pending[pool.submit(read_items, some)] = some
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                batch = pending.pop(future)
                try:
                    results = future.result()
                except BrokenProcessPool:
                    pool.shutdown(wait=False, cancel_futures=True)
                    lost = [batch, *pending.values()]
                    pending.clear()
                    results = [one for items_ in lost for one in _one_by_one(items_, url)]
                    pool = ProcessPoolExecutor(jobs, initializer=_set_up, initargs=(url,))
                for told in _keep(store, results, keep):
                    tell(told)
                if not pending:
                    break
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(items: Sequence[Item], url: str) -> Iterator[Read]:
    """Read each log in a process of its own: one of them killed its reader."""
    for item in items:
        with ProcessPoolExecutor(1, initializer=_set_up, initargs=(url,)) as pool:
            try:
                yield from pool.submit(read_items, [item]).result()
            except BrokenProcessPool:
                yield Read(str(item.path), item.when, error="its reader died")


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


def _set_up(url: str) -> None:
    _stores[:] = [open_store(url)]


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
