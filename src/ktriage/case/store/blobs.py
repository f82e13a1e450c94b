"""Bytes by their content: compressed, and kept once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import zstandard
from sqlalchemy import bindparam, insert, select

from ktriage.case.store.models import BlobRow
from ktriage.errors import MachineryError

if TYPE_CHECKING:
    from sqlalchemy import Connection

LEVEL = 6
"""zstd's level: a console log shrinks to an eighth, at 100 MB a second."""
_NAMED = BlobRow.digest == bindparam("digest")
_THERE = select(BlobRow.digest).where(_NAMED)
_CONTENT = select(BlobRow.data, BlobRow.size).where(_NAMED)
_INSERT = insert(BlobRow)
LARGEST = 64 << 20
"""Bytes of the largest blob that is read back."""


def digest_of(data: bytes) -> str:
    """Return the name under which ``data`` is kept."""
    return hashlib.sha256(data).hexdigest()


def put(connection: Connection, data: bytes) -> str:
    """Keep ``data`` and return its digest; nothing is written where it is there already."""
    digest = digest_of(data)
    if connection.execute(_THERE, {"digest": digest}).first() is None:
        packed = zstandard.ZstdCompressor(level=LEVEL).compress(data)
        connection.execute(_INSERT, {"digest": digest, "size": len(data), "data": packed})
    return digest


def get(connection: Connection, digest: str) -> bytes | None:
    """Return what is kept under ``digest``, or None. Raises MachineryError where it is spoilt."""
    row = connection.execute(_CONTENT, {"digest": digest}).first()
    if row is None:
        return None
    try:
        data = zstandard.ZstdDecompressor().decompress(row.data, max_output_size=max(row.size, 1))
    except zstandard.ZstdError as error:
        raise MachineryError(f"blob {digest[:12]}: {error}") from error
    if digest_of(data) != digest:
        raise MachineryError(f"blob {digest[:12]} is not what was put there")
    return data
