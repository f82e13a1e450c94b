"""A crew's calls where they are made: in a worker's threads, and in its loop, where nothing may take long."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

from ktriage.errors import MachineryError
from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.content import Blob, MissingError

LOOK_SECONDS = 0.5

Answer = tuple[Literal["done", "failed", "missing"], Any]


async def missing(blobs: Sequence[Blob]) -> tuple[Blob, ...]:
    """Return those of the blobs that this machine lacks."""
    return await asyncio.to_thread(content.missing, blobs)


async def put(blob: Blob, transfer: str, offset: int, piece: bytes) -> bool:
    """Take a piece of a blob."""
    return await asyncio.to_thread(content.put, blob, transfer, offset, piece)


async def piece_of(blob: Blob, offset: int) -> bytes:
    """Return a piece of what was offered."""
    return await asyncio.to_thread(content.offered, blob, offset)


async def withdraw(blob: Blob) -> None:
    """Let go of what was offered."""
    await asyncio.to_thread(content.withdraw, blob)


def work(topic: str, key: str, fn: Callable[..., Any], args: tuple[Any, ...]) -> Answer:
    """Make a call; what it raises is part of the answer. That it has begun is told on ``topic``."""
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(topic, key)
    with _watched(worker, key):
        try:
            return "done", fn(*args)
        except MissingError as error:
            return "missing", error.blobs
        except Exception as error:  # noqa: BLE001 (a call may raise anything, and its worker goes on)
            return "failed", _sendable(error)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    except Exception:  # noqa: BLE001 (whatever it is that can't be sent)
        return MachineryError(f"{type(error).__name__}: {error}")
    return error


_running: dict[str, tuple[Any, int]] = {}
"""Calls under way in this process, by key: the worker and the thread."""
_lock = threading.Lock()


@contextmanager
def _watched(worker: Any, key: str) -> Iterator[None]:  # noqa: ANN401 (distributed has no types)
    """See to it that a call that nobody waits for any more has its guests and builds ended."""
    with _lock:
        _watcher()
        _running[key] = worker, threading.get_ident()
    try:
        yield
    finally:
        with _lock:
            del _running[key]


@cache
def _watcher() -> threading.Thread:
    thread = threading.Thread(target=_watch, name="unwanted", daemon=True)
    thread.start()
    return thread


def _watch() -> None:
    from ktriage.jobs.lab import stop_all

    while True:
        time.sleep(LOOK_SECONDS)
        with _lock:  # no call ends meanwhile, and gives its thread to another
            for key, (worker, thread) in _running.items():
                if not _wanted(worker, key):
                    # Again and again while it lasts: it may be between two guests.
                    stop_all(thread)


def _wanted(worker: Any, key: str) -> bool:  # noqa: ANN401
    """Return whether the scheduler still asks for a call.

    It does not once the client that did has let go of it, or its connection has ended.
    """
    task = worker.state.tasks.get(key)
    return task is not None and task.state in ("executing", "long-running")
