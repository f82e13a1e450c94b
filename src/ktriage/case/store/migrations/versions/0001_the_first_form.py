"""The first form."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Go to this form."""
    op.create_table(
        "blob",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blob")),
    )
    op.create_table(
        "bug",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column("type", sa.String(length=80), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("duplicate_of", sa.Integer(), nullable=True),
        sa.Column("fixed_by", sa.String(length=200), nullable=True),
        sa.Column("frame", sa.String(length=200), nullable=True),
        sa.Column("guilty_file", sa.String(length=300), nullable=True),
        sa.Column("stack", sa.Text(), nullable=False),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Integer(), nullable=False),
        sa.Column("culprit", sa.String(length=64), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["duplicate_of"], ["bug.id"], name=op.f("fk_bug_duplicate_of")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bug")),
    )
    op.create_index("ix_bug_crashes", "bug", ["crashes"], unique=False)
    op.create_index(op.f("ix_bug_duplicate_of"), "bug", ["duplicate_of"], unique=False)
    op.create_index("ix_bug_last_seen", "bug", ["last_seen"], unique=False)
    op.create_index("ix_bug_state", "bug", ["state", "last_seen"], unique=False)
    op.create_index("ix_bug_title", "bug", ["title"], unique=False)
    op.create_table(
        "token",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("last_used", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("hash", name=op.f("uq_token_hash")),
        sa.UniqueConstraint("name", name=op.f("uq_token_name")),
    )
    op.create_table(
        "finding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bug_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("when", sa.Float(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("blob", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["blob"], ["blob.digest"], name=op.f("fk_finding_blob")),
        sa.ForeignKeyConstraint(["bug_id"], ["bug.id"], name=op.f("fk_finding_bug_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
        sa.UniqueConstraint("key", name=op.f("uq_finding_key")),
    )
    op.create_index(op.f("ix_finding_blob"), "finding", ["blob"], unique=False)
    op.create_index(op.f("ix_finding_bug_id"), "finding", ["bug_id"], unique=False)
    op.create_table(
        "function",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("bug_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["bug_id"], ["bug.id"], name=op.f("fk_function_bug_id")),
        sa.PrimaryKeyConstraint("name", "bug_id", name=op.f("pk_function")),
    )
    op.create_index(op.f("ix_function_bug_id"), "function", ["bug_id"], unique=False)
    op.create_table(
        "log",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("imported", sa.Float(), nullable=False),
        sa.Column("findings", sa.Integer(), nullable=False),
        sa.Column("blob", sa.String(length=64), nullable=True),
        sa.Column("first_byte", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["blob.digest"], name=op.f("fk_log_blob")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log")),
        sa.UniqueConstraint("digest", name=op.f("uq_log_digest")),
    )
    op.create_index(op.f("ix_log_blob"), "log", ["blob"], unique=False)
    op.create_table(
        "title",
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column("bug_id", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["bug_id"], ["bug.id"], name=op.f("fk_title_bug_id")),
        sa.PrimaryKeyConstraint("title", name=op.f("pk_title")),
    )
    op.create_index(op.f("ix_title_bug_id"), "title", ["bug_id"], unique=False)
    op.create_table(
        "crash",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("bug_id", sa.Integer(), nullable=False),
        sa.Column("log_id", sa.Integer(), nullable=True),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("title", sa.String(length=500), nullable=False),
        sa.Column("when", sa.Float(), nullable=False),
        sa.Column("kernel", sa.String(length=300), nullable=True),
        sa.Column("corrupted", sa.String(length=300), nullable=True),
        sa.Column("rank", sa.Float(), nullable=False),
        sa.Column("report", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["bug_id"], ["bug.id"], name=op.f("fk_crash_bug_id")),
        sa.ForeignKeyConstraint(["log_id"], ["log.id"], name=op.f("fk_crash_log_id")),
        sa.ForeignKeyConstraint(["report"], ["blob.digest"], name=op.f("fk_crash_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crash")),
    )
    op.create_index("ix_crash_bug_kept", "crash", ["bug_id", "report", "rank"], unique=False)
    op.create_index("ix_crash_bug_when", "crash", ["bug_id", "when"], unique=False)
    op.create_index(op.f("ix_crash_log_id"), "crash", ["log_id"], unique=False)
    op.create_index(op.f("ix_crash_report"), "crash", ["report"], unique=False)


def downgrade() -> None:
    """Go back."""
    op.drop_index(op.f("ix_crash_report"), table_name="crash")
    op.drop_index(op.f("ix_crash_log_id"), table_name="crash")
    op.drop_index("ix_crash_bug_when", table_name="crash")
    op.drop_index("ix_crash_bug_kept", table_name="crash")
    op.drop_table("crash")
    op.drop_index(op.f("ix_title_bug_id"), table_name="title")
    op.drop_table("title")
    op.drop_index(op.f("ix_log_blob"), table_name="log")
    op.drop_table("log")
    op.drop_index(op.f("ix_function_bug_id"), table_name="function")
    op.drop_table("function")
    op.drop_index(op.f("ix_finding_bug_id"), table_name="finding")
    op.drop_index(op.f("ix_finding_blob"), table_name="finding")
    op.drop_table("finding")
    op.drop_table("token")
    op.drop_index("ix_bug_title", table_name="bug")
    op.drop_index("ix_bug_state", table_name="bug")
    op.drop_index("ix_bug_last_seen", table_name="bug")
    op.drop_index(op.f("ix_bug_duplicate_of"), table_name="bug")
    op.drop_index("ix_bug_crashes", table_name="bug")
    op.drop_table("bug")
    op.drop_table("blob")
