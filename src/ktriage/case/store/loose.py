"""Findings of which nothing said what bug they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select, update

from ktriage.case.store import look
from ktriage.case.store.models import FindingRow

if TYPE_CHECKING:
    from ktriage.case.store.store import Store
    from ktriage.case.store.types import Finding


def loose(store: Store, limit: int) -> list[Finding]:
    """Return the newest findings of no bug."""
    question = (
        select(FindingRow.id)
        .where(FindingRow.bug_id.is_(None))
        .order_by(FindingRow.when.desc(), FindingRow.id.desc())
        .limit(limit)
    )
    with store.snapshot() as connection:
        return [look.finding(connection, number) for number in connection.execute(question).scalars()]


def give(store: Store, finding: int, bug: int) -> None:
    """Make a finding one of a bug's; raises UserError where there is no such finding, or no such bug."""
    with store.batch() as connection:
        look.finding(connection, finding)
        look.bug(connection, bug)
        connection.execute(update(FindingRow).where(FindingRow.id == finding).values(bug_id=bug))
