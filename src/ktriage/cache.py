"""A cache of things that are costly to make, kept by what they are made of.

Entries are folders under ``$XDG_CACHE_HOME/ktriage`` (XDG Base Directory Specification 0.8). An entry is
made in a folder beside its place and renamed there when it is whole, under a lock of its own: whoever is
killed in the middle leaves nothing that is taken for an entry, and two processes never make the same one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """Return the folder that holds the cache; it may not exist yet."""
    home = os.environ.get("KTRIAGE_CACHE")
    if home:
        return Path(home)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ktriage"


def digest(*parts: str | bytes | Path) -> str:
    """Return a key of 20 hex digits for ``parts``; a path stands for the bytes of its file."""
    total = hashlib.sha256()
    for part in parts:
        data = (
            part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        )
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()[:20]


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock on the file ``path``, which is made where missing; an exclusive one unless ``shared``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def cached(room: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of entry ``key`` in ``room``, calling ``make(folder)`` where there is none.

    What ``make`` raises is passed on, and leaves no entry.
    """
    place = cache_root() / room / key
    if place.is_dir():
        return place
    with locked(place.with_name(key + ".lock")):
        if place.is_dir():
            return place
        draft = place.with_name(key + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            make(draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        draft.rename(place)
    return place


IN_USE_SECONDS = 6 * 3600
"""An entry that was used since then may be in use still, by us or by another process."""


def keep_newest(room: str, count: int) -> None:
    """Remove all but the ``count`` entries of ``room`` that were used last (see ``touch``) and long ago."""
    root = cache_root() / room
    entries = [e for e in root.iterdir() if e.is_dir() and e.suffix != ".draft"] if root.is_dir() else []
    entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in entries[count:]:
        if time.time() - entry.stat().st_mtime < IN_USE_SECONDS:
            continue
        with locked(entry.with_name(entry.name + ".lock")):
            shutil.rmtree(entry, ignore_errors=True)


def touch(entry: Path) -> None:
    """Note that ``entry`` was used now."""
    os.utime(entry)
