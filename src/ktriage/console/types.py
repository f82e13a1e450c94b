"""What a console log is read into."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _plain(value: Any) -> Any:  # noqa: ANN401 - any field's value
    """Return ``value`` as JSON has it; several times as fast as ``dataclasses.asdict``, which copies."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    names = getattr(type(value), "__dataclass_fields__", None)
    if names is None:
        return value
    return {name: _plain(getattr(value, name)) for name in names}


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
class Lock:
    """A lock in a report: who wants it, or who holds it.

    ``name`` is lockdep's class name, ``address`` the instance's, ``usage`` the bits between braces
    (``+.+.-{3:3}``), ``function`` where it was or is being taken. ``wanted`` says that ``task`` waits for
    it. A lock of a possible deadlock that only the chain names has no task.
    """

    name: str
    wanted: bool
    task: str | None = None
    pid: int | None = None
    address: int | None = None
    usage: str | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One step of lockdep's dependency chain: ``lock`` was taken, in ``stack``, while the next was held.

    ``number`` is lockdep's: the lock that closes the circle is #0.
    """

    number: int
    lock: str
    stack: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """A group of references that a ref_tracker knows of: ``count`` of them were taken in ``stack``."""

    count: int
    stack: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class Refcount:
    """What a report says of a count that went wrong.

    ``kind`` is ``underflow``, ``saturated``, ``addition-on-zero``, ``leak`` (still held when it must be
    gone), ``put-unheld`` (dropped below zero, or never initialized) or ``double-init``. ``object`` names
    what is counted where the log says (a device, a kobject), ``count`` its value, ``holders`` what a
    ref_tracker printed.
    """

    kind: str
    object: str | None = None
    count: int | None = None
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Flood:
    """One message repeated without end.

    ``count`` lines have it, from offset ``start`` to ``end``; ``line`` is the first's, 1-based.
    ``first`` and ``last`` are their time stamps in seconds since boot, ``rate`` how many came per second,
    all None where the log has no times. ``title`` is the message with what changes in it left out,
    ``text`` the first line.
    """

    source: str
    start: int
    end: int
    line: int
    title: str
    count: int
    rate: float | None = None
    first: float | None = None
    last: float | None = None
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage report --json`` prints for this flood."""
        return {"kind": "flood", **_plain(self)}


@dataclass(frozen=True, slots=True)
class Crash:
    """One crash of a console log; see the ``report`` command for the JSON form.

    ``start`` and ``end`` are byte offsets into the log after decompression, ``line`` is 1-based.
    ``type`` is a syzbot crash type such as ``KASAN-USE-AFTER-FREE-READ``, or None.
    ``corrupted`` is the reason why the title can't be trusted, or None.
    ``cause`` is the index, within the same log, of the crash that this one follows from.
    ``end`` is the end of the last line that announces this crash or what followed from it.
    ``registers`` are by name as the architecture prints them, in lower case; ``taints`` are the letters of
    ``taint`` in words, ``module_taints`` the letters after a module's name.
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
    taints: tuple[str, ...] = ()
    module_taints: dict[str, str] = field(default_factory=dict)
    last_unloaded: str | None = None
    locks: tuple[Lock, ...] = ()
    chain: tuple[Link, ...] = ()
    refcount: Refcount | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage report --json`` prints for this crash."""
        return {"kind": "crash", **_plain(self)}
