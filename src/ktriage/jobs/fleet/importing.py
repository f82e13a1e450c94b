"""Logs read by a cluster's workers: the files' bytes go there, what they hold comes back to the one store."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ktriage.console.journal import is_journal
from ktriage.inputs import packing
from ktriage.jobs.fleet.under_way import doing
from ktriage.jobs.importing import Item, Processes, Read

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from ktriage.case.store import Store
    from ktriage.jobs.fleet.crew import Crew

MOST_SENT = 8 << 20
"""Bytes of files that go to a worker at once. A larger file is read here: sending it takes longer."""
MOST_RETURNED = 32 << 20
"""Bytes of logs that come back at once; what unpacks to more is read here."""
CALL_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A log as it is sent: its number in the call, its file's bytes and time."""

    number: int
    data: bytes
    when: float


class Away:
    """Reads logs on the workers of a cluster; ``Readers`` says how it is called.

    A log that the store knows as it lies there is not sent.
    """

    most = MOST_SENT

    def __init__(self, crew: Crew, store: Store) -> None:
        self.room = 2 * crew.room
        self._crew, self._store = crew, store
        # The store is asked by threads of this process, so that these processes need not know it.
        self._here = Processes(1, None, context=_context())
        self._threads = ThreadPoolExecutor(self.room, thread_name_prefix="import")

    def submit(self, items: Sequence[Item]) -> Future[list[Read]]:
        """Read some logs."""
        return self._threads.submit(self._read, items)

    def mend(self, lost: Sequence[Sequence[Item]]) -> Iterator[Read]:
        """Read again here; workers see to their own readers, so that this is never asked for."""
        return (read for items in lost for read in self._here.one_by_one(items))

    def close(self) -> None:
        """End what is under way."""
        self._crew.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._here.close()

    def _read(self, items: Sequence[Item]) -> list[Read]:
        results: list[Read] = []
        sent: list[Sent] = []
        for number, item in enumerate(items):
            data = None
            if item.size <= MOST_SENT:
                try:
                    data = item.path.read_bytes()
                except OSError as error:
                    results.append(Read(str(item.path), item.when, error=error.strerror or str(error)))
                    continue
            if data is None or len(data) > MOST_SENT:
                results += self._here.one_by_one([item])
            elif self._known(data):
                results.append(Read(str(item.path), item.when, known=True))
            else:
                sent.append(Sent(number, data, item.when))
        return results + (self._read_away(items, sent) if sent else [])

    def _known(self, data: bytes) -> bool:
        as_it_is = packing(data[:6]) is None and not is_journal(data[:65536])
        return as_it_is and self._store.has_log(hashlib.sha256(data).hexdigest())

    def _read_away(self, items: Sequence[Item], sent: list[Sent]) -> list[Read]:
        data = {one.number: one.data for one in sent}
        results: list[Read] = []
        for back in self._crew.call(read_sent, sent, seconds=CALL_SECONDS):
            item = items[back.number]
            if back.reads is None:
                results += self._here.one_by_one([item])
                continue
            results += [_at_home(back, read, item, data[back.number]) for read in back.reads]
        return results


@dataclass(frozen=True, slots=True)
class Back:
    """What a log that was sent came to, as ``place``; None where that is too much to be sent back.

    A text that is the same as what was sent stays away.
    """

    number: int
    place: str
    reads: tuple[Read, ...] | None
    same: bool = False


def _at_home(back: Back, read: Read, item: Item, data: bytes) -> Read:
    """Return what came back as it had been had the log been read here."""
    source = read.source.replace(back.place, str(item.path))
    return replace(
        read,
        source=source,
        data=data if back.same else read.data,
        crashes=tuple(replace(crash, source=source) for crash in read.crashes),
        error=read.error and read.error.replace(back.place, str(item.path)),
        folder=item.folder,
    )


def _context() -> BaseContext:
    """Return how processes are made beside threads: forked from one that has none, and ends with this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ktriage.jobs.importing"])
    return context


_pool: list[Processes] = []
_lock = threading.Lock()


def read_sent(sent: Sequence[Sent]) -> list[Back]:
    """Read logs that were sent, on a worker.

    In processes of its own: a log that kills its reader costs no guest.
    """
    with doing("import", f"{len(sent)} logs"), TemporaryDirectory(prefix="ktriage-import-") as scratch:
        items = [Item(Path(scratch) / f"{one.number:04d}", one.when, size=len(one.data)) for one in sent]
        for item, one in zip(items, sent, strict=True):
            item.path.write_bytes(one.data)
        reads = _read_safely(items)
    backs, room = [], MOST_RETURNED
    for item, one in zip(items, sent, strict=True):
        back = _back(one, str(item.path), [read for read in reads if read.source.startswith(str(item.path))])
        size = sum(len(read.data) for read in back.reads or ())
        backs.append(back if size <= room else Back(one.number, back.place, None))
        room -= size if size <= room else 0
    return backs


def _back(one: Sent, place: str, reads: Sequence[Read]) -> Back:
    if len(reads) == 1 and reads[0].data == one.data:
        return Back(one.number, place, (replace(reads[0], data=b""),), same=True)
    return Back(one.number, place, tuple(reads))


def _read_safely(items: Sequence[Item]) -> list[Read]:
    with _lock:
        if not _pool:
            _pool.append(Processes(os.cpu_count() or 1, None, context=_context()))
        pool = _pool[0]
    try:
        return pool.submit(items).result()
    except (BrokenProcessPool, RuntimeError):
        with _lock:
            if _pool and _pool[0] is pool:
                _pool.clear()
        # It broke under this call or under one beside it.
        return list(pool.one_by_one(items))
