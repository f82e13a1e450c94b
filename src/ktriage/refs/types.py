"""What a trace is read into, and what the ledger says of each counted object.

Times are nanoseconds on the trace's clock inside, and seconds where they are printed. Tasks, objects and
call paths are small numbers while a trace is read; ``names.Names`` has what they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

NO_COUNT = -(1 << 31)
"""In a column of counts: the event did not print one."""
NOBODY = 0
"""The task of events that say none, or that ran in an interrupt and so on nobody's behalf."""
NO_PATH = 0
"""The call path of events without a stack and without a call site."""

Certainty = Literal["certain", "likely", "possible"]
"""How sure an accusation is.

``certain``: follows from the events alone, with none lost. ``likely``: all else that was seen speaks for it
(how long such references are held, that the path's other uses balance). ``possible``: events were lost, or
more than one path may be meant.
"""


class Op(IntEnum):
    """What an event does."""

    GET = 1
    PUT = 2
    LOAD = 3
    """A module was linked and is about to run its init: the task's static uses are its own."""
    FREE = 4
    """The object is gone (module_free, or a put that freed it)."""
    REQUEST = 5
    LOST = 6
    """Events were lost; the count says how many, 0 where the trace does not."""
    EXIT = 7
    """The task has ended."""
    HELD = 8
    """A snapshot of holders: ``count`` references were taken by this path and are still held."""
    WRONG = 9
    """The kernel itself complained of the count."""


@dataclass(frozen=True, slots=True)
class Task:
    """Who ran: a task, or an interrupt (``context`` is ``softirq``, ``hardirq`` or ``nmi``)."""

    comm: str
    pid: int
    context: str = "task"

    def __str__(self) -> str:
        return f"{self.comm}-{self.pid}" if self.context == "task" else self.context


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of a call path. ``offset`` is bytes into the function where the trace says so."""

    function: str
    module: str | None = None
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.function} [{self.module}]" if self.module else self.function


@dataclass(frozen=True, slots=True)
class Path:
    """A call path, innermost first, without the tracer's own functions.

    ``site`` is the index of the function that took or dropped the reference, past the functions that count
    (``try_module_get``) and those that only wrap them (``__symbol_get``). ``way`` is the outermost of the
    counting functions and wrappers passed over, which tells a symbol_get from a try_module_get.
    ``context`` is as in ``Task``, or None where the stack does not show it.
    """

    places: tuple[Place, ...]
    site: int = 0
    way: str | None = None
    context: str | None = None

    @property
    def function(self) -> str:
        """The function that took or dropped the reference."""
        return self.places[self.site].function if self.site < len(self.places) else "(unknown)"

    @property
    def names(self) -> tuple[str, ...]:
        """The functions from the site outwards."""
        return tuple(place.function for place in self.places[self.site :])


@dataclass(frozen=True, slots=True)
class Counted:
    """A counted object as the trace names it: ``kind`` is ``module``, or what the probes call it."""

    kind: str
    name: str


@dataclass(slots=True)
class Batch:
    """Some events, in the trace's order, a column each.

    ``counts`` is what the kernel printed after the event, ``NO_COUNT`` where it printed none.
    """

    times: list[int] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    ops: list[int] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    paths: list[int] = field(default_factory=list)

    def add(self, time: int, cpu: int, task: int, op: int, counted: int, count: int, path: int) -> None:
        """Append one event."""
        self.times.append(time)
        self.cpus.append(cpu)
        self.tasks.append(task)
        self.ops.append(op)
        self.objects.append(counted)
        self.counts.append(count)
        self.paths.append(path)

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Gets without a put, or puts without a get, that nothing explains: ``count`` of them from one path.

    ``path`` has the functions innermost first, from ``function`` on. ``holder`` is the module that called,
    or the task where the kernel itself did. ``first_seen`` is seconds on the trace's clock; ``note`` says in
    a line what it rests on. ``others`` are paths that may be meant instead.
    """

    function: str
    path: tuple[str, ...]
    holder: str
    count: int
    certainty: Certainty
    first_seen: float
    last_seen: float
    task: str | None = None
    note: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """References still held at the trace's end: ``count`` of them taken by ``holder`` on one path.

    ``static`` says that linking took it, not a call. ``since`` is seconds on the trace's clock, None for
    references older than the trace.
    """

    holder: str
    function: str
    path: tuple[str, ...]
    count: int
    static: bool = False
    since: float | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first event at which the count was wrong.

    ``kind`` is ``underflow`` (dropped below what it may be), ``mismatch`` (the printed count stopped
    following from the events) or ``reported`` (the kernel complained). ``event`` counts the object's events
    from 1; ``count`` is the printed one, ``expected`` what the events before it make of it.
    """

    kind: Literal["underflow", "mismatch", "reported"]
    event: int
    time: float
    function: str
    holder: str
    task: str | None = None
    count: int | None = None
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """The ledger of one counted object.

    ``first``, ``last`` and ``min`` are counts as the kernel shows them to people (for a module lsmod's, one
    below the traced one): before the first event, after the last, and the least. ``ended`` says that the
    object was freed in the trace. ``notes`` says what could not be known.
    """

    object: str
    kind: str
    events: int
    lost: int
    first: int | None
    last: int | None
    min: int | None
    static_uses: int
    dynamic_uses: int
    unmatched_gets: tuple[Unmatched, ...] = ()
    unmatched_puts: tuple[Unmatched, ...] = ()
    holders: tuple[Holder, ...] = ()
    underflow: Wrong | None = None
    ended: bool = False
    gets: int = 0
    puts: int = 0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage refs read --json`` prints."""
        return {name: plain(getattr(self, name)) for name in Account.__dataclass_fields__}


def plain(value: Any) -> Any:  # noqa: ANN401 - any field's value
    """Return ``value`` as JSON has it."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    names = getattr(type(value), "__dataclass_fields__", None)
    if names is None:
        return value
    return {name: plain(getattr(value, name)) for name in names}
