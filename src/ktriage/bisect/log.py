"""The bisection's log: JSON Lines, one record a line, on disk before the next step is taken.

A process that is killed leaves at most one line that is cut short; it is dropped on reading and cut off
before the log is written again. Everything else in the log has to be right.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Annotated

from ktriage.bisect.types import Belief, Chosen, End, Log, Record, Run, Start
from ktriage.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from pydantic import TypeAdapter


class LogWriter:
    """Appends records to a log. Each is on the disk when ``write`` returns, but for beliefs, which follow
    from what is there: they are with the record after them.

    With ``append`` the file has to be there; a last line without its newline is cut off first. Without,
    there must be no line in it yet (``UserError``): a log is never overwritten, nor written by two at once.
    """  # noqa: D205 (one sentence)

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (0 if append else os.O_CREAT), 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise UserError(f"{path}: a bisection is writing this log just now") from None
        whole = _whole_lines(self._fd)
        ours = b'{"repo":'.startswith(os.pread(self._fd, 8, 0))
        if not append and (whole or not ours):
            os.close(self._fd)
            raise UserError(
                f"{path}: there is a log here already", hint=f"ktriage bisect resume {path} goes on with it"
            )
        # What was killed while it wrote its first line has not begun.
        os.ftruncate(self._fd, whole)
        os.lseek(self._fd, 0, os.SEEK_END)
        _sync_directory(path)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Append one record, and wait until the disk has it unless it can be worked out again."""
        line = json.dumps(asdict(record), separators=(",", ":")) + "\n"
        data = line.encode()
        while data:
            data = data[os.write(self._fd, data) :]
        if not isinstance(record, Belief):
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file. Nothing is lost by not doing so."""
        os.close(self._fd)


def _whole_lines(fd: int) -> int:
    """Return the length of what is in the file up to its last newline."""
    end = os.lseek(fd, 0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _sync_directory(path: Path) -> None:
    """Make sure that the directory knows of the file."""
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@cache
def _adapter() -> TypeAdapter[Record]:
    # pydantic takes 100 ms to load, which someone who only asks for help need not pay.
    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[Start | Chosen | Run | Belief | End, Field(discriminator="record")])


def read_log(path: Path) -> Log:
    """Return the whole log; raises ``UserError`` as ``parse_log``."""
    return parse_log(path.read_bytes(), str(path))


def parse_log(data: bytes, name: str) -> Log:
    """Return the log that ``data`` holds; ``name`` is what errors call it.

    Raises ``UserError``, with the line's number, where a line is not a record of such a log, and where the
    log has no beginning. A last line that was cut short by a kill is not an error.
    """
    from pydantic import ValidationError

    adapter = _adapter()
    records: list[Record] = []
    whole = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            records.append(adapter.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            what = ": ".join([".".join(map(str, first["loc"])), first["msg"]]).removeprefix(": ")
            raise UserError(
                f"{name}:{number}: not a line of a bisection log: {what}",
                line=number,
            ) from None
        except RecursionError:
            raise UserError(f"{name}:{number}: not a line of a bisection log", line=number) from None
    if not records or not isinstance(records[0], Start):
        hint = None if data else "the bisection had not begun: run it again"
        raise UserError(f"{name}: not a bisection log: it does not begin with a start record", hint=hint)
    return Log(start=records[0], records=tuple(records))
