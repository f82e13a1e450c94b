"""Console logs read into crashes.

``read_crashes`` takes the bytes of a log and returns every crash in it, in order.
"""

from __future__ import annotations

from pathlib import Path

from ktriage.console.types import Crash, Flood, Frame

__all__ = ["Crash", "Flood", "Frame", "read", "read_crashes"]


def read(data: bytes | Path, source: str | None = None) -> list[Crash | Flood]:
    """Return every crash in a console log, in order, then its floods.

    ``data`` is the log, or the file that it is in, which may be compressed. ``source`` is kept in each
    finding as where it was read from. Nothing in a log is an error: what is not a kernel's has no crash in
    it. Raises UserError where a file can't be read, or its compressed data is damaged.
    """
    from ktriage.console.reader import Reader

    if isinstance(data, bytes):
        return list(Reader(source or "").read(data))
    from ktriage.console.sources import chunks

    reader = Reader(str(data) if source is None else source)
    found = [finding for chunk in chunks(str(data)) for finding in reader.feed(chunk)]
    return [*found, *reader.close()]


def read_crashes(data: bytes, source: str = "") -> list[Crash]:
    """Return every crash in the console log ``data``, in order; ``source`` is where it was read from."""
    return [finding for finding in read(data, source) if isinstance(finding, Crash)]
