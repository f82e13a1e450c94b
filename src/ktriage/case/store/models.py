"""The tables of a case store.

Times are seconds since the epoch, UTC, as floats. What is long (logs, reports, pages of a bisection) is a
``Blob``: compressed, and kept once however often it came.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, LargeBinary, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

LONGEST_TITLE = 500
DIGEST = 64
"""Characters of a SHA-256 in hexadecimal."""


class Base(DeclarativeBase):
    """Root of all tables; constraints have names, so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class BugRow(Base):
    """A bug: what several crashes have in common.

    ``state`` is one of ``words.BugState``; ``duplicate_of`` is the bug that it is one of, ``fixed_by`` the
    commit that fixed it. ``crashes`` counts all that were seen, ``kept`` those whose logs are kept.
    ``words`` is what a search looks in: titles, functions and files in lower case.
    """

    __tablename__ = "bug"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(LONGEST_TITLE))
    type: Mapped[str | None] = mapped_column(String(80))
    state: Mapped[str] = mapped_column(String(16), default="open")
    duplicate_of: Mapped[int | None] = mapped_column(ForeignKey("bug.id"), index=True)
    fixed_by: Mapped[str | None] = mapped_column(String(200))
    frame: Mapped[str | None] = mapped_column(String(200))
    guilty_file: Mapped[str | None] = mapped_column(String(300))
    stack: Mapped[str] = mapped_column(Text, default="")
    """Functions of the best crash, innermost first, separated by spaces."""
    first_seen: Mapped[float] = mapped_column(Float)
    last_seen: Mapped[float] = mapped_column(Float)
    crashes: Mapped[int] = mapped_column(default=0)
    kept: Mapped[int] = mapped_column(default=0)
    culprit: Mapped[str | None] = mapped_column(String(64))
    words: Mapped[str] = mapped_column(Text, default="")

    __table_args__ = (
        Index("ix_bug_last_seen", "last_seen"),
        Index("ix_bug_crashes", "crashes"),
        Index("ix_bug_title", "title"),
        Index("ix_bug_state", "state", "last_seen"),
    )


class TitleRow(Base):
    """A title, and the bug that crashes of it belong to; a title has one bug."""

    __tablename__ = "title"

    title: Mapped[str] = mapped_column(String(LONGEST_TITLE), primary_key=True)
    bug_id: Mapped[int] = mapped_column(ForeignKey("bug.id"), index=True)
    crashes: Mapped[int] = mapped_column(default=0)
    """Crashes that had it as their own title, not as an alternative."""


class LogRow(Base):
    """A console log that was read, whether it is kept or not: a second import of it adds nothing.

    ``digest`` is of its bytes after decompression. ``blob`` is None where it is not kept.
    """

    __tablename__ = "log"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(DIGEST), unique=True)
    source: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    imported: Mapped[float] = mapped_column(Float)
    findings: Mapped[int] = mapped_column(default=0)
    blob: Mapped[str | None] = mapped_column(ForeignKey("blob.digest"), index=True)
    first_byte: Mapped[int] = mapped_column(BigInteger, default=0)
    """Offset in the log of the first byte that is kept: of a log too long to keep a part is."""


_KEPT = text("report IS NOT NULL")


class CrashRow(Base):
    """One crash. ``rank`` orders a bug's crashes by how much they tell, the best highest."""

    __tablename__ = "crash"

    id: Mapped[int] = mapped_column(primary_key=True)
    bug_id: Mapped[int] = mapped_column(ForeignKey("bug.id"))
    log_id: Mapped[int | None] = mapped_column(ForeignKey("log.id"), index=True)
    start: Mapped[int] = mapped_column(BigInteger, default=0)
    line: Mapped[int] = mapped_column(default=0)
    title: Mapped[str] = mapped_column(String(LONGEST_TITLE))
    when: Mapped[float] = mapped_column(Float)
    kernel: Mapped[str | None] = mapped_column(String(300))
    corrupted: Mapped[str | None] = mapped_column(String(300))
    rank: Mapped[float] = mapped_column(Float, default=0.0)
    report: Mapped[str | None] = mapped_column(ForeignKey("blob.digest"), index=True)
    """The crash as JSON, where it is kept."""

    __table_args__ = (
        Index("ix_crash_bug_when", "bug_id", "when"),
        Index("ix_crash_kept", "bug_id", "rank", "when", postgresql_where=_KEPT, sqlite_where=_KEPT),
    )


class BlobRow(Base):
    """Bytes by their SHA-256, compressed by zstd."""

    __tablename__ = "blob"

    digest: Mapped[str] = mapped_column(String(DIGEST), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class FunctionRow(Base):
    """A function on a bug's stacks, for the search by function and by likeness."""

    __tablename__ = "function"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    bug_id: Mapped[int] = mapped_column(ForeignKey("bug.id"), primary_key=True, index=True)


class FindingRow(Base):
    """What else was found about a bug, or about none yet: trials, a bisection, a ledger, a dump, a mail.

    ``kind`` is one of ``words.FindingKind``, ``digest`` of its content (a second time adds nothing),
    ``summary`` one line, ``data`` what lists and pages need at hand; ``blob`` has all of it.
    """

    __tablename__ = "finding"

    id: Mapped[int] = mapped_column(primary_key=True)
    bug_id: Mapped[int | None] = mapped_column(ForeignKey("bug.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(DIGEST), unique=True)
    when: Mapped[float] = mapped_column(Float)
    summary: Mapped[str] = mapped_column(Text, default="")
    data: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    blob: Mapped[str | None] = mapped_column(ForeignKey("blob.digest"), index=True)


class TokenRow(Base):
    """A token that lets a machine upload; only its hash is kept."""

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    hash: Mapped[str] = mapped_column(String(DIGEST), unique=True)
    created: Mapped[float] = mapped_column(Float)
    last_used: Mapped[float | None] = mapped_column(Float)
