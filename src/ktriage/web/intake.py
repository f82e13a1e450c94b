"""A log that someone hands in: unpacked within bounds, read, kept."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ktriage.console import read_crashes
from ktriage.console.sources import whole
from ktriage.errors import UserError

if TYPE_CHECKING:
    from ktriage.case.store import Store
    from ktriage.case.store.types import Added
    from ktriage.console import Crash

LARGEST_UNPACKED = 256 << 20
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a log: how it was kept, and the crashes in it."""

    added: Added
    crashes: tuple[Crash, ...]


def take_in(store: Store, name: str, data: bytes, *, keep: int) -> Taken:
    """Read a log and keep what is in it; raises UserError where it is empty, damaged or too long."""
    if not data.strip():
        raise UserError("the log is empty")
    text = unpacked(data)
    source = f"upload {name[:LONGEST_NAME]}".strip()
    crashes = tuple(read_crashes(text, source))
    return Taken(store.add_log(source, text, crashes, keep=keep), crashes)


def unpacked(data: bytes) -> bytes:
    """Return a log's bytes as they are after decompression."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return whole(file.name, LARGEST_UNPACKED)
        except UserError as error:
            raise UserError(error.message.replace(file.name, "the log")) from None
