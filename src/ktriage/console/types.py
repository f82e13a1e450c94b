"""What a console log is read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Frame:
    """One entry of a stack, innermost first.

    ``offset`` and ``size`` are bytes into and of the function. ``file`` and ``line`` are there where the
    log was symbolized or symbols filled them in. ``reliable`` is false for entries printed with ``?``.
    ``context`` is one of ``task``, ``softirq``, ``hardirq``, ``nmi``, ``exception``, ``origin`` (a stack
    quoted in a report, such as "Allocated by task"), or None where the log does not say.
    """

    function: str
    offset: int | None = None
    size: int | None = None
    module: str | None = None
    file: str | None = None
    line: int | None = None
    inline: bool = False
    reliable: bool = True
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash of a console log; see the ``report`` command for the JSON form.

    ``start`` and ``end`` are byte offsets into the log after decompression, ``line`` is 1-based.
    ``type`` is a syzbot crash type such as ``KASAN-USE-AFTER-FREE-READ``, or None.
    ``corrupted`` is the reason why the title can't be trusted, or None.
    ``cause`` is the index, within the same log, of the crash that this one follows from.
    """

    source: str
    start: int
    end: int
    line: int
    title: str
    alt_titles: tuple[str, ...] = ()
    type: str | None = None
    frame: str | None = None
    guilty_file: str | None = None
    corrupted: str | None = None
    suppressed: bool = False
    panicked: bool = False
    executor: dict[str, int] | None = None
    cause: int | None = None
    cpu: int | None = None
    pid: int | None = None
    comm: str | None = None
    kernel: str | None = None
    hardware: str | None = None
    taint: str | None = None
    modules: tuple[str, ...] = ()
    registers: dict[str, int] = field(default_factory=dict)
    code: str | None = None
    stack: tuple[Frame, ...] = ()
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage report --json`` prints for this crash."""
        from dataclasses import asdict

        return {"kind": "crash", **asdict(self)}
