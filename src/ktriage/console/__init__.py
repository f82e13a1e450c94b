"""Console logs read into crashes.

``read_crashes`` takes the bytes of a log and returns every crash in it, in order.
"""

from __future__ import annotations

from ktriage.console.types import Crash, Frame

__all__ = ["Crash", "Frame", "read_crashes"]


def read_crashes(data: bytes, source: str = "") -> list[Crash]:
    """Return every crash in the console log ``data``, in order.

    ``source`` is kept in each crash as where it was read from. Nothing in ``data`` is an error: what is not
    a kernel's log has no crash in it.
    """
    from ktriage.console.region import Region

    return Region(data.decode("latin-1"), source=source).crashes()
