"""What is kept of a finding, read again: the documents that ``jobs.keeping`` writes.

A store may be older or newer than this ktriage: what is not known is left out, what is missing is empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ktriage.case.store.types import FindingKind
from ktriage.case.types import Change
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ktriage.case.store.types import Finding

MOST_OF_A_KIND = 3
"""Findings of a kind that a bug's page shows; the others have pages of their own."""
TELLING = (OutcomeKind.CRASHED, OutcomeKind.OK, OutcomeKind.OTHER_CRASH, OutcomeKind.HUNG)
LARGEST_DOCUMENT = 8 << 20
"""Bytes of a document, or of a text, above which a page does not show it."""

Kept = TypeVar("Kept", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Trial(_Part):
    """One run of a reproducer."""

    outcome: OutcomeKind
    title: str | None = None
    seconds: float | None = None


class TrialsDocument(_Part):
    """How often a reproducer crashed, and what it is; see ``jobs.repro.Rate``."""

    spec: str = ""
    revision: str | None = None
    kernel: str | None = None
    runs: int = 0
    outcomes: dict[str, int] = {}
    rate: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    titles: dict[str, int] = {}
    commands: tuple[str, ...] = ()
    specification: str = ""
    files: dict[str, str] = {}
    trials: tuple[Trial, ...] = ()
    run_seconds: float | None = None
    crash_seconds: float | None = None
    per_minute: float = 0.0

    @property
    def crashed(self) -> int:
        """How many runs had the hunted crash."""
        return self.outcomes.get(str(OutcomeKind.CRASHED), 0)

    @property
    def telling(self) -> int:
        """How many runs could show it: with the others the machine, the build or the boot failed."""
        return sum(self.outcomes.get(str(kind), 0) for kind in TELLING)

    @property
    def kinds(self) -> list[OutcomeKind]:
        """The outcomes that there were."""
        seen = {trial.outcome for trial in self.trials}
        return [kind for kind in OutcomeKind if kind in seen]

    @property
    def ranked(self) -> list[tuple[str, int]]:
        """The titles, the most frequent first."""
        return sorted(self.titles.items(), key=lambda item: (-item[1], item[0]))


class Entry(_Part):
    """Gets or puts that nothing matches; see ``refs.types.Unmatched``."""

    function: str
    holder: str = ""
    count: int = 0
    certainty: str = ""
    path: tuple[str, ...] = ()
    first_seen: float | None = None
    last_seen: float | None = None
    since: float | None = None
    task: str | None = None
    note: str = ""
    others: tuple[str, ...] = ()
    static: bool = False


class Wrong(_Part):
    """The first event at which a count was wrong."""

    function: str
    holder: str = ""
    time: float = 0.0
    event: int = 0
    task: str | None = None
    count: int | None = None


class AccountDocument(_Part):
    """The ledger of one object; ``series`` has its count over time: end in ns, least, most and last."""

    object: str
    kind: str = "module"
    events: int = 0
    lost: int = 0
    gets: int = 0
    puts: int = 0
    first: int | None = None
    last: int | None = None
    min: int | None = None
    ended: bool = False
    unmatched_gets: tuple[Entry, ...] = ()
    unmatched_puts: tuple[Entry, ...] = ()
    holders: tuple[Entry, ...] = ()
    underflow: Wrong | None = None
    notes: tuple[str, ...] = ()
    series: tuple[tuple[int, int, int, int], ...] | None = None

    @property
    def wrong(self) -> bool:
        """Whether anything speaks against anyone."""
        return bool(self.unmatched_gets or self.unmatched_puts or self.underflow)

    @property
    def accused(self) -> list[tuple[str, Entry]]:
        """What is unmatched, the surest and the most frequent first, each with what it is."""
        order = ("certain", "likely", "possible")
        found = [("put too often", one) for one in self.unmatched_puts]
        found += [("never put", one) for one in self.unmatched_gets]
        place = {word: number for number, word in enumerate(order)}
        return sorted(found, key=lambda pair: (place.get(pair[1].certainty, 9), -pair[1].count))


class LedgerDocument(_Part):
    """What a trace of references came to."""

    source: str = ""
    total: int = 0
    accounts: tuple[AccountDocument, ...] = ()


class Said(_Part):
    """A finding of a dump's diagnosis, with what it stands on."""

    kind: str = ""
    says: str = ""
    evidence: tuple[str, ...] = ()


class Diagnosed(_Part):
    """What a dump shows, the gravest first."""

    asked: str | None = None
    findings: tuple[Said, ...] = ()


class Task(_Part):
    """A task of a dump."""

    pid: int = 0
    comm: str = ""
    state: str = "?"
    dead: bool = False

    def __str__(self) -> str:
        return f"{self.comm} ({self.pid}){', dead' if self.dead else ''}"


class Waiting(_Part):
    """A blocked task; see ``dump.waits_types.Wait``."""

    task: Task
    waits_for: str = ""
    what: str = ""
    holders: tuple[Task, ...] = ()
    actor: str | None = None
    evidence: tuple[str, ...] = ()
    seconds: float | None = None


class Root(_Part):
    """Where a tree of waiting tasks ends; see ``dump.waits_types.Root``."""

    root: str = ""
    says: str = ""
    tasks: tuple[Task, ...] = ()
    waiters: tuple[Task, ...] = ()


class HolderFound(_Part):
    """Who holds a counted object, and how one gets there."""

    kind: str = ""
    type: str = ""
    address: int = 0
    path: str = ""
    count: int = 1


class ModuleAudited(_Part):
    """A module whose count does not come out even."""

    module: str
    count: int | None = None
    linked: int = 0
    dynamic: int | None = None
    accounted: int = 0
    unaccounted: int = 0
    verdict: str = ""
    holders: tuple[HolderFound, ...] = ()
    lacks: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()


class ObjectAudited(_Part):
    """Another counted object that does not come out even."""

    object: str
    address: int = 0
    name: str = ""
    count: int = 0
    accounted: int = 0
    unaccounted: int = 0
    verdict: str = ""
    note: str | None = None
    holders: tuple[HolderFound, ...] = ()


class Dangling(_Part):
    """A pointer into a module that is gone or going."""

    state: str = ""
    module: str | None = None
    function: str = ""
    pointer_kind: str = ""
    type: str = ""
    path: str = ""


class CallbackFound(_Part):
    """A work or a timer with which something is wrong."""

    type: str = ""
    state: str = ""
    address: int = 0
    function: str = ""
    module: str | None = None
    workqueue: str | None = None
    task: Task | None = None
    wrong: tuple[str, ...] = ()


class Stalled(_Part):
    """A pool of workers that makes no progress."""

    pool: int = 0
    cpu: int = -1
    pending: int = 0
    says: str = ""


class Cancel(_Part):
    """A place that cancels a callback; ``ran`` is None where it can't be told."""

    function: str = ""
    callee: str = ""
    ran: bool | None = None


class Way(_Part):
    """How a callback comes to be queued."""

    functions: tuple[str, ...] = ()
    callee: str = ""
    root: str | None = None


class TornDown(_Part):
    """A callback that outlives a removal; see ``dump.teardown_types.Teardown``."""

    says: str = ""
    certain: bool = False
    evidence: tuple[str, ...] = ()
    cancels: tuple[Cancel, ...] = ()
    queued_by: tuple[Way, ...] = ()
    remedies: tuple[str, ...] = ()


class Link(_Part):
    """One step of the way to a bad pointer; see ``dump.fault.Link``."""

    expression: str = ""
    variable: str | None = None
    value: int | None = None
    type: str | None = None
    object: str | None = None
    elements: str | None = None
    certain: bool = True


class FaultDocument(_Part):
    """A bad access; see ``dump.fault.Fault``."""

    access: str = ""
    comm: str = ""
    pid: int = 0
    instruction: str = ""
    operand: str = ""
    address: int = 0
    target: str | None = None
    bad: str = ""
    chain: tuple[Link, ...] = ()
    variables: tuple[tuple[str, str, str], ...] = ()


class Summary(_Part):
    """What a dump is of."""

    release: str = ""
    hostname: str = ""
    cpus: int = 0
    tasks: int = 0
    memory: int = 0
    seconds: float | None = None
    panic: str | None = None


class DumpDocument(_Part):
    """What a dump shows: of its reports what is wrong, and how much there is besides."""

    path: str = ""
    diagnosis: Diagnosed = Diagnosed()
    fault: FaultDocument | None = None
    summary: Summary | None = None
    audited: bool = False
    modules: tuple[ModuleAudited, ...] = ()
    module_count: int = 0
    dangling: tuple[Dangling, ...] = ()
    objects: tuple[ObjectAudited, ...] = ()
    roots: tuple[Root, ...] = ()
    waits: tuple[Waiting, ...] = ()
    held: tuple[tuple[str, str, bool], ...] = ()
    asleep: int = 0
    stalled: tuple[Stalled, ...] = ()
    callbacks: tuple[CallbackFound, ...] = ()
    callback_count: int = 0
    teardowns: tuple[TornDown, ...] = ()


class SourceFrame(_Part):
    """Lines around a frame's: each with its number."""

    file: str
    line: int
    lines: tuple[tuple[int, str], ...] = ()


class SourceDocument(_Part):
    """Source lines of one kernel's crash."""

    kernel: str | None = None
    frames: tuple[SourceFrame, ...] = ()


class BisectionDocument(_Part):
    """A bisection that has ended: its log, and what the culprit is."""

    log: str
    change: Change | None = None


DOCUMENTS: dict[FindingKind, type[_Part]] = {
    FindingKind.TRIALS: TrialsDocument,
    FindingKind.LEDGER: LedgerDocument,
    FindingKind.DUMP: DumpDocument,
    FindingKind.SOURCE: SourceDocument,
    FindingKind.BISECTION: BisectionDocument,
}
"""The forms; what is of another kind is text."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding with what is kept of it: ``document`` where that has a form, else ``text``."""

    finding: Finding
    document: Any = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a bug by kind, the newest first; ``more`` are those that have no room."""

    of: dict[FindingKind, list[Shown]] = field(default_factory=dict)
    more: tuple[Finding, ...] = ()

    def __getitem__(self, kind: str) -> list[Shown]:
        return self.of.get(FindingKind(kind), [])


def show(finding: Finding, read: Callable[[str], bytes | None]) -> Shown:
    """Return a finding with what is kept of it; ``read`` gives what a digest stands for."""
    data = read(finding.blob) if finding.blob else None
    if data is None or len(data) > LARGEST_DOCUMENT:
        return Shown(finding)
    form = DOCUMENTS.get(finding.kind)
    if form is None:
        return Shown(finding, text=data.decode(errors="replace"))
    return Shown(finding, _parsed(form, data))


def _parsed(form: type[Kept], data: bytes) -> Kept | None:
    """Return a document, None where it is of another form than this ktriage knows."""
    try:
        return form.model_validate_json(data)
    except ValidationError:
        return None


def show_all(findings: Iterable[Finding], read: Callable[[str], bytes | None]) -> Findings:
    """Return the findings of a bug as its page shows them."""
    of: dict[FindingKind, list[Shown]] = {}
    more = []
    for finding in findings:
        some = of.setdefault(finding.kind, [])
        # A bisection that goes on has its log alone, which is not in the store yet.
        if len(some) < MOST_OF_A_KIND and (finding.blob or finding.kind is FindingKind.BISECTION):
            some.append(show(finding, read))
        elif finding.kind is not FindingKind.SOURCE:
            more.append(finding)
    return Findings(of, tuple(more))


Lines = tuple[tuple[int, str], ...]
"""Source lines, each with its number."""


def source_of(shown: Iterable[Shown], kernel: str | None) -> dict[tuple[str, int], Lines]:
    """Return the source lines by file and line, of crashes of the same kernel: another's would be wrong."""
    found: dict[tuple[str, int], Lines] = {}
    for one in shown:
        if isinstance(one.document, SourceDocument) and one.document.kernel == kernel:
            found |= {(frame.file, frame.line): frame.lines for frame in one.document.frames}
    return found
