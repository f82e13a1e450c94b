"""A bisection while it runs: its log is read again whenever it has grown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.bisect.log import read_log
from ktriage.case.bisection import from_log
from ktriage.case.page import build_view
from ktriage.case.types import CaseFile
from ktriage.errors import KtriageError, UserError
from ktriage.web.render import fragment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ktriage.case.page import View
    from ktriage.case.store.types import Finding

POLL_SECONDS = 0.5
BEAT_SECONDS = 15.0
"""A comment is sent so often while nothing changes: proxies keep the line, lost readers are noticed."""


def bisection_of(finding: Finding) -> tuple[CaseFile, View, bool]:
    """Return a bisection as it is shown, and whether it goes on; raises UserError where its log is gone."""
    path = Path(str(finding.data.get("log") or ""))
    if not path.is_file():
        raise UserError("there is no log of this bisection any more")
    log = read_log(path)
    bisection = from_log(log)
    case = CaseFile(title=finding.summary or "Bisection", bisection=bisection, log=str(path))
    return case, build_view(case), log.end is None


def shown(finding: Finding) -> tuple[str, bool]:
    """Return the bisection's part of a page, and whether it goes on."""
    case, view, runs = bisection_of(finding)
    return fragment("bisection.part.html.j2", case=case, view=view, runs=runs), runs


async def events(finding: Finding) -> AsyncIterator[str]:
    """Yield server-sent events: ``view`` with the page's part whenever it changes, ``done`` at the end."""
    path = Path(str(finding.data.get("log") or ""))
    last, quiet = -1, 0.0
    while True:
        size = path.stat().st_size if path.is_file() else 0
        if size != last:
            last, quiet = size, 0.0
            try:
                html, runs = await asyncio.to_thread(shown, finding)
            except KtriageError:
                yield "event: done\ndata:\n\n"
                return
            yield _event("view", html)
            if not runs:
                yield "event: done\ndata:\n\n"
                return
        elif quiet >= BEAT_SECONDS:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(POLL_SECONDS)
        quiet += POLL_SECONDS


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"
