"""Console logs read into crashes.

``read_crashes`` takes the bytes of a log and returns every crash in it, in order.
"""

from __future__ import annotations

from ktriage.console.types import Crash, Flood, Frame

__all__ = ["Crash", "Flood", "Frame", "read", "read_crashes"]


def read(data: bytes, source: str = "") -> list[Crash | Flood]:
    """Return every crash in the console log ``data``, in order, then its floods.

    ``source`` is kept in each as where it was read from. Nothing in ``data`` is an error: what is not a
    kernel's log has no crash in it.
    """
    from ktriage.console.reader import Reader

    return list(Reader(source).read(data))


def read_crashes(data: bytes, source: str = "") -> list[Crash]:
    """Return every crash in the console log ``data``, in order."""
    return [finding for finding in read(data, source) if isinstance(finding, Crash)]
