"""What a worker process is, and what it does just now, as it tells its scheduler with every heartbeat."""

from __future__ import annotations

import hashlib
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import ktriage
from ktriage.cache import cache_root

Kind = Literal["trial", "build", "command", "import", "dump"]

_now: dict[int, list[tuple[Kind, str, float]]] = {}
"""By thread: what it does, the outermost first, since when (monotonic)."""
_lock = threading.Lock()


@contextmanager
def doing(kind: Kind, what: str) -> Iterator[None]:
    """Say that this thread does this; where it is nested, the inner one is told."""
    me = threading.get_ident()
    with _lock:
        _now.setdefault(me, []).append((kind, what, time.monotonic()))
    try:
        yield
    finally:
        with _lock:
            _now[me].pop()
            if not _now[me]:
                del _now[me]


def under_way() -> list[dict[str, Any]]:
    """Return what each thread of this process does: ``kind``, ``what`` and ``seconds``, the longest first."""
    at = time.monotonic()
    with _lock:
        inner = [stack[-1] for stack in _now.values()]
    inner.sort(key=lambda one: one[2])
    return [{"kind": kind, "what": what, "seconds": round(at - since, 1)} for kind, what, since in inner]


def report() -> dict[str, Any]:
    """Return what changes: ``doing``, and ``free`` bytes where the cache is."""
    place = cache_root()
    while not place.exists():
        place = place.parent
    return {"doing": under_way(), "free": shutil.disk_usage(place).free}


@cache
def identity() -> dict[str, str]:
    """Return what calls must agree on: ktriage's ``version``, its ``code`` as a hash, ``python``'s version.

    The hash is over the sources, so that two checkouts of one version that differ are told apart.
    """
    root = Path(ktriage.__file__).parent
    total = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if path.is_relative_to(root / "examples"):  # a wheel has them there, a checkout does not
            continue
        total.update(f"{path.relative_to(root)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    python = ".".join(platform.python_version_tuple()[:2])
    return {"version": ktriage.__version__, "code": total.hexdigest()[:12], "python": python}


def unlike(other: dict[str, str] | None) -> str | None:
    """Say why calls between this process and one of another identity can't be made; None where they can.

    ``other`` is None for a worker that does not say, one that ``dask worker`` started.
    """
    mine = identity()
    if other is None:
        return None
    if other.get("version") != mine["version"]:
        return f"ktriage {other.get('version')} there, {mine['version']} here"
    if other.get("python") != mine["python"]:
        return f"Python {other.get('python')} there, {mine['python']} here"
    return None


def differs(other: dict[str, str] | None) -> str | None:
    """Say how an identity differs from this process's, be it that calls can be made still."""
    if other is not None and not unlike(other) and other.get("code") != identity()["code"]:
        return f"ktriage {other.get('version')} on both sides, of different sources"
    return unlike(other)
