"""An index of the crashes that are kept, in the order in which they are shown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Go to this form."""
    op.drop_index("ix_crash_bug_kept", table_name="crash")
    kept = sa.text("report IS NOT NULL")
    op.create_index(
        "ix_crash_kept", "crash", ["bug_id", "rank", "when"], postgresql_where=kept, sqlite_where=kept
    )


def downgrade() -> None:
    """Go back."""
    op.drop_index("ix_crash_kept", table_name="crash")
    op.create_index("ix_crash_bug_kept", "crash", ["bug_id", "report", "rank"], unique=False)
