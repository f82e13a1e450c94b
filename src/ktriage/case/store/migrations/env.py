"""Runs migrations on the connection that the store is being opened with."""

from __future__ import annotations

from alembic import context

from ktriage.case.store.models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata)
context.run_migrations()
