"""Bisection logs that another tool wrote: syzkaller's of any age, and ``git bisect log``'s."""

from __future__ import annotations

from ktriage.bisect.foreign_git import GitReader, is_git
from ktriage.bisect.foreign_lines import is_syzbot
from ktriage.bisect.foreign_syzbot import SyzbotReader
from ktriage.bisect.foreign_types import ForeignLog
from ktriage.errors import UserError


def read_foreign(data: bytes, source: str = "") -> ForeignLog:
    """Return what the bisection log ``data`` says; what is cut or unreadable is told in ``missing``.

    Raises ``UserError`` where it is no bisection log at all. ``source`` is what it is called there.
    """
    text = data.decode(errors="replace")
    if is_syzbot(text):
        return SyzbotReader().read(data)
    if is_git(text):
        return GitReader().read(text)
    raise UserError(
        f"{source or 'the input'}: not a bisection log",
        hint="syzbot's and git bisect log's can be read; ktriage's own are read by status and replay",
    )
