"""What goes into the engine and comes out of it, and the records of its log.

Everything here is plain data: strings, numbers and tuples of them, so that it can be pickled to another
machine and written as JSON as it is. Times are seconds; `when` is seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from ktriage.words import OutcomeKind

Verdict = Literal["culprit", "candidates", "not-in-range", "inconclusive"]
Purpose = Literal["search", "verify"]
Kind = Literal["cause", "fix"]

SAID = 0.8
"""From this probability on people are told that there are several culprits: one false alarm in 200."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run at one revision came to.

    ``run_seconds`` is what the run itself took; ``build_seconds`` is 0 where the build was there already.
    ``title``, ``frames`` (function names, innermost first) and ``files`` describe the crash, if there was
    one. ``signature`` names what was built: two revisions with the same one behave the same.
    ``note`` is one line for people. ``where`` is the directory that holds all that the run left behind.
    """

    outcome: OutcomeKind
    run_seconds: float = 0.0
    build_seconds: float = 0.0
    title: str | None = None
    frames: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    signature: str | None = None
    note: str | None = None
    where: str | None = None


class Runner(Protocol):
    """Runs the reproducer once at a revision.

    ``commit`` is a full hash. ``patches`` are the texts of patches to apply on top of it, in order.
    ``attempt`` names this run: no two runs of a bisection have the same one, and a run that was lost and is
    made again has a new one. Called on the executor's threads or processes, so it has to be picklable for
    the latter. A ``MachineryError`` counts as an outcome ``infra``; a ``UserError`` ends the bisection.
    """

    def __call__(self, commit: str, patches: tuple[str, ...], attempt: str) -> RunResult:
        """Return what the run came to."""


@dataclass(frozen=True, slots=True)
class Fix:
    """A change that makes revisions testable, put on top of them: a commit's, or the text of a patch.

    ``name`` is how the log calls it, the same for the same change. With ``only``, (A, B) in full hashes, it
    is put on top of all revisions that B has and A has not; without, where a revision can't be tested as
    it is.
    """

    name: str
    commit: str | None = None
    text: str | None = None
    only: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A commit that may be the culprit, with its probability."""

    commit: str
    probability: float
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """Runs made to check an answer, which the counts of the search leave out.

    ``reverted`` says what became of the crash on the bad revision without the culprit: ``gone``,
    ``rarer`` (it still comes, less often), ``stays``, ``conflict`` (it does not revert cleanly),
    ``unseen`` (runs do not depend on what is in the worktree), ``untestable`` or ``skipped``. ``culprit``
    is ``crashes``, ``silent`` or ``skipped``; ``parent`` is ``ok``, ``crashes`` or ``skipped``.
    ``passed`` is None where nothing could be checked.

    Where a fix was looked for, ``reverted`` is about the good revision without the fix: ``returns`` (the
    crash does), ``stays-away``, ``conflict``, ``untestable`` or ``skipped``; ``applied`` about the bad
    revision with it: ``gone``, ``stays`` or the same last three; ``culprit`` is ``silent`` where it should
    be, and ``parent`` ``crashes``.
    """

    passed: bool | None
    reverted: str = "skipped"
    culprit: str = "skipped"
    parent: str = "skipped"
    applied: str = "skipped"
    runs: int = 0
    builds: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a bisection ended.

    ``probability`` belongs to the verdict: that of the culprit, of all ``candidates`` together, or of the
    culprit being outside of the range; for ``inconclusive`` that of the likeliest commit.
    ``candidates`` come likeliest first. ``outcomes`` counts the search's runs by outcome. ``seconds`` is
    wall-clock time. ``crash_rate`` is the chance of a crash per run with the culprit, with its central 95%
    interval in ``crash_interval``; ``false_rate`` is the one without it (for a fix, before and after it).
    ``reason`` says in a line why it ended like this, and ``hint`` what to do next. ``priors`` says what,
    besides the runs, made some commits likelier than others, ``fixes`` what was put on top of revisions to
    make them testable. ``kind`` says whether ``culprit`` brought the crash or ended it.
    """

    culprit: str | None
    probability: float
    candidates: tuple[Candidate, ...]
    runs: int
    revisions: int
    builds: int
    outcomes: dict[str, int]
    seconds: float
    verdict: Verdict
    kind: Kind = "cause"
    reason: str = ""
    hint: str | None = None
    subject: str | None = None
    author: str | None = None
    date: str | None = None
    files: tuple[str, ...] = ()
    crash_rate: float | None = None
    crash_interval: tuple[float, float] | None = None
    false_rate: float | None = None
    titles: dict[str, float] = field(default_factory=dict)
    """Other titles seen, each with the probability that it is the hunted bug under another name."""
    priors: tuple[str, ...] = ()
    untestable: tuple[str, ...] = ()
    fixes: tuple[str, ...] = ()
    several: float | None = None
    others: tuple[str, ...] = ()
    verification: Verification | None = None
    seed: int | None = None
    log: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage bisect run --json`` prints last."""
        data = asdict(self)
        data["candidates"] = [
            {key: value for key, value in candidate.items() if value is not None}
            for candidate in data["candidates"]
        ]
        return data


@dataclass(frozen=True, slots=True)
class Start:
    """The log's first record.

    ``candidates`` counts the commits in the range. ``commits`` and ``subjects`` name them, parents before
    children, and ``parents`` holds their parents' places in that order (the good revision is -1); all three
    are empty where there are more than 512. ``call`` is what the caller wants to find again on resuming.
    ``bases`` are the merge bases of good and bad where neither is an ancestor of the other.
    """

    repo: str
    good: str
    bad: str
    candidates: int
    confidence: float
    seed: int
    when: float
    jobs: int = 1
    commits: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    parents: tuple[tuple[int, ...], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "cause"
    bases: tuple[str, ...] = ()
    version: int = 1
    record: Literal["start"] = "start"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A run that is about to start: ``gain`` is what it is expected to tell, in bits.

    ``patches`` names what is put on top of the revision: "revert HASH", "apply HASH" or a fix's name.
    """

    attempt: str
    commit: str
    when: float
    gain: float = 0.0
    built: bool = False
    purpose: Purpose = "search"
    patches: tuple[str, ...] = ()
    record: Literal["chosen"] = "chosen"


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended. The fields from ``outcome`` to ``where`` are those of ``RunResult``."""

    attempt: str
    commit: str
    when: float
    outcome: OutcomeKind
    run_seconds: float = 0.0
    build_seconds: float = 0.0
    title: str | None = None
    frames: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    signature: str | None = None
    note: str | None = None
    where: str | None = None
    purpose: Purpose = "search"
    patches: tuple[str, ...] = ()
    record: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed after ``runs`` runs.

    ``entropy`` is what is still unknown, in bits. ``top`` has the likeliest commits, best first.
    ``mass`` is the probability of each commit in the order of ``Start.commits``; with more than 512
    commits that of 256 stretches of that order with equally many commits each. ``outside`` is the chance
    that the culprit is not in the range: in the good revision already, or nowhere.
    ``runs_left`` and ``seconds_left`` are estimates, None where there is nothing yet to go by.
    """

    runs: int
    revisions: int
    builds: int
    entropy: float
    top: tuple[Candidate, ...]
    mass: tuple[float, ...]
    outside: float
    when: float
    crash_rate: float | None = None
    false_rate: float | None = None
    runs_left: float | None = None
    seconds_left: float | None = None
    record: Literal["belief"] = "belief"


@dataclass(frozen=True, slots=True)
class End:
    """The log's last record. A bisection that was interrupted has none."""

    answer: Answer
    when: float
    record: Literal["end"] = "end"


Record = Start | Chosen | Run | Belief | End


@dataclass(frozen=True, slots=True)
class Log:
    """A whole log, read back. ``end`` is None for one that was interrupted.

    ``records`` has everything in the order in which it was written. ``lost`` are the runs that were started
    and have no result.
    """

    start: Start
    records: tuple[Record, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All finished runs, of the search and of the verification, in the order they ended."""
        return tuple(record for record in self.records if isinstance(record, Run))

    @property
    def beliefs(self) -> tuple[Belief, ...]:
        """The belief after each run, first that before any."""
        return tuple(record for record in self.records if isinstance(record, Belief))

    @property
    def lost(self) -> tuple[Chosen, ...]:
        """Runs that were started and never ended."""
        ended = {run.attempt for run in self.runs}
        return tuple(r for r in self.records if isinstance(r, Chosen) and r.attempt not in ended)

    @property
    def end(self) -> Answer | None:
        """The answer, or None."""
        last = self.records[-1]
        return last.answer if isinstance(last, End) else None


class Observer(Protocol):
    """Is told what the engine does, as it does it. Called from one thread only."""

    def started(self, start: Start) -> None:
        """Note that a bisection begins or goes on."""

    def chosen(self, chosen: Chosen) -> None:
        """Note that a run is about to start."""

    def finished(self, run: Run) -> None:
        """Note that a run has ended."""

    def believed(self, belief: Belief) -> None:
        """Note that the belief has changed."""

    def ended(self, answer: Answer) -> None:
        """Note the answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to bisect.

    ``jobs`` runs at most go on at a time. ``max_runs`` and ``max_seconds`` end the search where it is.
    ``build_ratio`` is how many runs a build is taken to cost until both have been seen.
    ``hang_is`` says what a guest that stopped answering counts as. ``rate`` is what is known of the crash's
    rate beforehand, as (runs with the crash, runs). ``informed`` lets crash frames and paths weigh on the
    prior. ``verify`` checks the culprit before it is named. ``find`` says whether the commit is looked for
    that brought the crash or that ended it. ``fixes`` are changes that make revisions testable; with
    ``mend``, commits that do so are looked for where it matters.
    """

    confidence: float = 0.998
    jobs: int = 1
    seed: int = 0
    max_runs: int | None = None
    max_seconds: float | None = None
    max_infra: int = 3
    max_skips: int = 40
    build_ratio: float = 5.0
    hang_is: Literal["hunted", "other", "infra"] = "other"
    rate: tuple[int, int] | None = None
    informed: bool = True
    first_parent: bool = False
    verify: bool = True
    find: Kind = "cause"
    fixes: tuple[Fix, ...] = ()
    mend: bool = True
    call: dict[str, Any] = field(default_factory=dict)
