"""A log that is there already, read better than before: with source lines, by a ktriage that knows more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from ktriage.case.store import blobs
from ktriage.case.store.models import CrashRow, LogRow
from ktriage.case.store.ranking import rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ktriage.case.store.store import Store
    from ktriage.console.types import Crash


def better(store: Store, data: bytes, crashes: Sequence[Crash]) -> int:
    """Put reports that tell more in the place of those that are kept of the same log; return how many.

    ``data`` is the log, which was taken in before. Crashes whose reports are not kept stay so.
    """
    count = 0
    with store.batch() as connection:
        log = select(LogRow.id).where(LogRow.digest == blobs.digest_of(data)).scalar_subquery()
        rows = connection.execute(
            select(CrashRow.id, CrashRow.start, CrashRow.title, CrashRow.rank).where(
                CrashRow.log_id == log, CrashRow.report.is_not(None)
            )
        ).all()
        kept = {(row.start, row.title): row for row in rows}
        for crash in crashes:
            row = kept.get((crash.start, crash.title))
            if row is not None and rank(crash) > row.rank:
                report = blobs.put(connection, json.dumps(crash.to_json()).encode())
                connection.execute(
                    update(CrashRow).where(CrashRow.id == row.id).values(report=report, rank=rank(crash))
                )
                count += 1
    return count
