"""A bisection from beginning to end: asks the search what to run, runs it, writes the log.

Everything that decides is in the log: a bisection that was killed is resumed by feeding the log's runs to a
new search, in their order.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING

from ktriage.bisect import answer as answers
from ktriage.bisect.evidence import Reader
from ktriage.bisect.log import LogWriter, read_log
from ktriage.bisect.mend import Mender
from ktriage.bisect.nodes import ALREADY, Nodes, span
from ktriage.bisect.priors import Priors
from ktriage.bisect.search import Costs, Search, Verdict
from ktriage.bisect.types import (
    SAID,
    Answer,
    Belief,
    Chosen,
    End,
    Fix,
    Options,
    Record,
    Run,
    RunResult,
    Start,
)
from ktriage.errors import MachineryError, UserError
from ktriage.history.repository import CommitGraph, Repository
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ktriage.bisect.types import Observer, Purpose, Runner


def bisect(
    repo: Path,
    good: str,
    bad: str,
    runner: Runner,
    executor: Executor,
    options: Options | None = None,
    log: Path | None = None,
    observer: Observer | None = None,
    cancel: Callable[[], None] | None = None,
) -> Answer:
    """Find the commit that ``bad`` has and ``good`` has not that brought the crash; or with
    ``options.find`` "fix" the one that ``good`` has and ``bad`` has not that ended it.

    ``runner`` is called on ``executor``, ``options.jobs`` times at once at most. Each record is in ``log``
    before the next step is taken. ``cancel``, where given, makes runs that are under way end soon; it is
    called when their results are not wanted any more. Raises ``UserError`` for revisions and repositories
    that won't do, and what ``runner`` raises as one; ``MachineryError`` where nothing runs any more.
    """  # noqa: D205 (one sentence)
    options = options or Options()
    repository = Repository(repo)
    good, bad = repository.resolve(good), repository.resolve(bad)
    graph, bases = span(repository, options.find, good, bad, first_parent=options.first_parent)
    start = _start(repository, good, bad, graph, bases, options)
    writer = LogWriter(log) if log is not None else None
    drive = Drive(repository, graph, start, options, writer, observer, str(log) if log else None)
    try:
        drive.write(start)
        return drive.go(runner, executor, cancel)
    finally:
        if writer is not None:
            writer.close()


def resume(
    log: Path,
    runner: Runner,
    executor: Executor,
    observer: Observer | None = None,
    cancel: Callable[[], None] | None = None,
    jobs: int | None = None,
) -> Answer:
    """Go on with the bisection of ``log``: no finished run is made again. One that has ended stays so."""
    from pathlib import Path

    old = read_log(log)
    if old.end is not None:
        return replace(old.end, log=str(log))
    start = old.start
    options = options_of(start)
    options = replace(options, jobs=jobs or options.jobs)
    repository = Repository(Path(start.repo))
    graph, _ = span(repository, start.kind, start.good, start.bad, first_parent=options.first_parent)
    writer = LogWriter(log, append=True)
    drive = Drive(repository, graph, start, options, writer, observer, str(log))
    try:
        drive.replay(old.records)
        return drive.go(runner, executor, cancel)
    finally:
        writer.close()


def options_of(start: Start) -> Options:
    """Return the options that a log's bisection was started with."""
    known = {f.name for f in fields(Options)}
    given = {name: value for name, value in start.options.items() if name in known}
    if given.get("rate") is not None:
        given["rate"] = tuple(given["rate"])
    given["fixes"] = tuple(
        Fix(**(fix | {"only": tuple(fix["only"]) if fix["only"] else None})) for fix in given.get("fixes", ())
    )
    return Options(**given, call=start.call)


def _start(
    repository: Repository,
    good: str,
    bad: str,
    graph: CommitGraph,
    bases: tuple[str, ...],
    options: Options,
) -> Start:
    named = graph.commits if len(graph.commits) <= answers.NAMED else ()
    kept = asdict(options)
    call = kept.pop("call")
    return Start(
        repo=str(repository.path),
        good=good,
        bad=bad,
        candidates=len(graph.commits),
        confidence=options.confidence,
        seed=options.seed,
        when=time.time(),
        jobs=options.jobs,
        commits=named,
        subjects=repository.subjects(named),
        parents=tuple(graph.parents(i) or (-1,) for i in range(len(named))),
        options=kept,
        call=call,
        kind=options.find,
        bases=bases,
    )


@dataclass(slots=True)
class Drive:
    """One process's part in a bisection."""

    repository: Repository
    graph: CommitGraph
    start: Start
    options: Options
    writer: LogWriter | None
    observer: Observer | None
    log: str | None
    nodes: Nodes = field(init=False)
    search: Search = field(init=False)
    reader: Reader = field(init=False)
    mender: Mender = field(init=False)
    runs: list[Run] = field(init=False, default_factory=list)
    checks: list[Run] = field(init=False, default_factory=list)
    pending: dict[Future[RunResult], Chosen] = field(init=False, default_factory=dict)
    number: int = field(init=False, default=0)
    before: float = field(init=False, default=0.0)
    began: float = field(init=False, default_factory=time.monotonic)
    _ancestors: dict[str, NDArray[np.bool_]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.mender = Mender(self)
        self.begin({})

    def begin(self, applied: Mapping[str, Sequence[str]]) -> None:
        """Begin the search anew, from the runs made so far; ``applied`` as for ``Nodes``."""
        self._ancestors.clear()
        self.nodes = Nodes(self.repository, self.start, self.graph, applied)
        sums = self.nodes.sums()
        priors = Priors.default(self.options.rate)
        self.search = Search(
            sums,
            confidence=self.options.confidence,
            priors=replace(priors, already=ALREADY) if self.start.bases else priors,
            prior=self.nodes.prior(),
            costs=Costs(build=self.options.build_ratio),
            max_skips=self.options.max_skips,
            fix=self.start.kind == "fix",
            barred=self.nodes.barred(sums),
        )
        self.reader = Reader(self.search, self.nodes, self.options)
        for run in self.runs:
            self.reader.take(run)

    def contains(self, revision: str, commit: str) -> bool:
        """Return whether a revision has a commit; both may be what is not in the range."""
        at, of = self.nodes.places.get(revision), self.nodes.places.get(commit)
        if at is None or of is None:
            return False
        if revision not in self._ancestors:
            self._ancestors[revision] = self.search.sums.ancestors(at)
        return bool(self._ancestors[revision][of])

    @property
    def seconds(self) -> float:
        """Wall-clock time spent on this bisection, in all processes that worked on it."""
        return self.before + time.monotonic() - self.began

    def write(self, record: Record) -> None:
        """Put a record into the log, then tell the observer."""
        if self.writer is not None:
            self.writer.write(record)
        if self.observer is None:
            return
        match record:
            case Start():
                self.observer.started(record)
            case Chosen():
                self.observer.chosen(record)
            case Run():
                self.observer.finished(record)
            case End():
                self.observer.ended(record.answer)
            case _:
                self.observer.believed(record)

    def replay(self, records: Sequence[Record]) -> None:
        """Take in what a log holds."""
        if self.observer is not None:
            self.observer.started(self.start)
        for record in records:
            match record:
                case Chosen():
                    self.number += 1
                case Run():
                    self._take(record)
                case _:
                    pass
        self.before = max(0.0, max(record.when for record in records) - self.start.when)
        if self.runs:
            self.write(self._belief())

    def go(self, runner: Runner, executor: Executor, cancel: Callable[[], None] | None) -> Answer:
        """Search, verify, write down the answer and return it."""
        try:
            if not self.runs:
                self.write(self._belief())
            verdict, why = self._search(runner, executor)
            self._drop(cancel)
            answer = answers.answer(self.search, self.nodes, self.runs, verdict, why)
            if self.options.verify:
                from ktriage.bisect.verify import verify

                answer = verify(self, answer, runner, executor)
            answer = self._several(answer)
        finally:
            self._drop(cancel)
            self.mender.close()
        answer = replace(
            answer,
            seconds=round(self.seconds, 3),
            seed=self.options.seed,
            log=self.log,
            priors=tuple(self.reader.reasons),
            fixes=self.mender.told(),
        )
        self.write(End(answer, time.time()))
        return answer

    def _search(self, runner: Runner, executor: Executor) -> tuple[Verdict | None, str]:
        """Run until enough is known or a limit is reached; return what is known or which limit it was."""
        while True:
            self.mender.refresh()
            verdict = self._verdict()
            why = self._limit()
            if why:
                return verdict, why
            if verdict is not None and (
                verdict.kind != "candidates" or not self._mend(runner, executor, verdict.members)
            ):
                return verdict, self.mender.why() if verdict.kind == "candidates" else ""
            if verdict is None:
                self._fill(runner, executor)
            if not self.pending:
                likely = self.nodes.ranked(self.search.view.weights, _LIKELY)
                if not self._mend(runner, executor, likely):
                    return None, self.mender.why()
            self.collect()
            self.write(self._belief())

    def _several(self, answer: Answer) -> Answer:
        """Return the answer with how likely one commit does not explain the runs."""
        if answer.verdict not in ("culprit", "candidates") or "crashed" not in answer.outcomes:
            return answer
        view = self.search.view
        found = self.search.posterior.misfit(view)
        odds = _SEVERAL / (1 - _SEVERAL) * found.factor
        chance = round(max(odds / (1 + odds), answer.several or 0.0), 4)
        others: list[str] = []
        if chance >= SAID:
            best = int(view.weights.argmax())
            groups = [self.search.posterior.members(group).tolist() for group in found.classes]
            members = [v for group in groups if best not in group for v in group if v >= self.nodes.bases]
            others = [self.nodes.commits[v] for v in members]
        return replace(answer, several=chance, others=tuple(others) if len(others) <= _OTHERS else ())

    def _mend(self, runner: Runner, executor: Executor, members: Sequence[int]) -> bool:
        """Go on towards telling nodes apart that only revisions which can't be tested tell apart, by making
        these testable. Return False where nothing is left to try.
        """  # noqa: D205 (one sentence)
        if self.pending:
            return True
        step = self.mender.step(members)
        if step is not None:
            self.submit(runner, executor, step[0], names=step[1])
        return step is not None

    def _verdict(self) -> Verdict | None:
        """Return the answer if enough is known; of several merge bases, it need not be known which it is."""
        verdict = self.search.verdict()
        below = float(self.search.view.weights[: self.nodes.bases].sum())
        if verdict is None and below >= self.search.confidence:
            return Verdict("already", below)
        return verdict

    def _limit(self) -> str:
        options = self.options
        if options.max_runs is not None and len(self.runs) >= options.max_runs:
            return f"the limit of {options.max_runs} runs is reached"
        if options.max_seconds is not None and self.seconds >= options.max_seconds:
            return f"the limit of {options.max_seconds:g} s is reached"
        return ""

    def _fill(self, runner: Runner, executor: Executor) -> None:
        """Start as many runs as may go on at once."""
        while len(self.pending) < self.options.jobs:
            most = self.options.max_runs
            if most is not None and len(self.runs) + len(self.pending) >= most:
                return
            waiting = [self.nodes.places[chosen.commit] for chosen in self.pending.values()]
            choice = self.search.choose(waiting)
            if choice is None:
                return
            commit = self.nodes.commits[choice.v]
            self.submit(runner, executor, commit, gain=choice.gain, names=self.mender.on_top(commit))

    def submit(
        self,
        runner: Runner,
        executor: Executor,
        commit: str,
        *,
        purpose: Purpose = "search",
        gain: float = 0.0,
        names: tuple[str, ...] = (),
    ) -> None:
        """Note down that a run is about to start, and start it; ``names`` says what to put on top."""
        self.number += 1
        known = [*self.runs, *self.checks]
        chosen = Chosen(
            attempt=f"{self.number:04d}-{commit[:12]}",
            commit=commit,
            when=time.time(),
            gain=round(gain, 5),
            built=any(run.commit == commit and run.patches == names for run in known),
            purpose=purpose,
            patches=names,
        )
        text = self.mender.patch(commit, names) if names else None
        self.write(chosen)
        self.pending[executor.submit(runner, commit, (text,) if text else (), chosen.attempt)] = chosen

    def collect(self) -> list[Run]:
        """Wait for a run to end, and take in all that have."""
        left = None
        if self.options.max_seconds is not None:
            left = max(0.0, self.options.max_seconds - self.seconds)
        done, _ = wait(self.pending, timeout=left, return_when=FIRST_COMPLETED)
        ended = []
        for future in sorted(done, key=lambda future: self.pending[future].attempt):
            chosen = self.pending.pop(future)
            result = _result(future)
            run = Run(
                attempt=chosen.attempt,
                commit=chosen.commit,
                when=time.time(),
                purpose=chosen.purpose,
                patches=chosen.patches,
                **{f.name: getattr(result, f.name) for f in fields(RunResult)},
            )
            self.write(run)
            self._take(run)
            ended.append(run)
        self.reader.check()
        return ended

    def _take(self, run: Run) -> None:
        if run.purpose == "verify":
            self.checks.append(run)
        else:
            self.runs.append(run)
            kind = self.reader.take(run)
            if kind != "infra" and self.mender.saw(run, works=kind != "broken"):
                self.begin(self.mender.applied())

    def _belief(self) -> Belief:
        return answers.belief(self.search, self.nodes, self.runs, jobs=self.options.jobs)

    def _drop(self, cancel: Callable[[], None] | None) -> None:
        """Cancel what is still going on; its results are not wanted."""
        if not self.pending:
            return
        for future in self.pending:
            future.cancel()
        if cancel is not None:
            cancel()
        wait(self.pending)
        self.pending.clear()


# How likely there are several culprits before the first run, and how many commits are named for the other.
_SEVERAL, _OTHERS = 0.02, 10
# So many commits are tried to be told apart when nothing else is left.
_LIKELY = 64


def _result(future: Future[RunResult]) -> RunResult:
    """Return the run's result. A machine that failed is an outcome; what a person got wrong is an error."""
    try:
        return future.result()
    except UserError:
        raise
    except (MachineryError, OSError) as error:
        return RunResult(OutcomeKind.INFRA, note=str(error))
