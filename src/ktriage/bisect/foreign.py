"""Bisection logs that another tool wrote: syzkaller's of any age, and ``git bisect log``'s."""

from __future__ import annotations

from dataclasses import replace

from ktriage.bisect.foreign_git import GitReader, is_git
from ktriage.bisect.foreign_lines import is_syzbot
from ktriage.bisect.foreign_syzbot import SyzbotReader
from ktriage.bisect.foreign_types import ForeignLog
from ktriage.errors import UserError


def read_foreign(data: bytes, source: str = "") -> ForeignLog:
    """Return what the bisection log ``data`` says; what is cut or unreadable is told in ``missing``.

    Raises ``UserError`` where it is no bisection log at all. ``source`` is what it is called there.
    """
    # One character a byte, so that places in the text are places in the file; names are decoded at the end.
    text = data.decode("latin-1")
    if is_syzbot(text):
        log = SyzbotReader().read(text)
    elif is_git(text):
        log = GitReader().read(text)
    else:
        raise UserError(
            f"{source or 'the input'}: not a bisection log",
            hint="syzbot's and git bisect log's can be read; ktriage's own are read by status and replay",
        )
    if data and not data.endswith(b"\n"):
        log = replace(log, missing=(*log.missing, "the last line has no end: the log may be cut"))
    return log
