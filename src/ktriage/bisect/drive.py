"""A bisection from beginning to end: asks the search what to run, runs it, writes the log.

Everything that decides is in the log: a bisection that was killed is resumed by feeding the log's runs to a
new search, in their order.
"""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect import answer as answers
from ktriage.bisect.answer import Names
from ktriage.bisect.evidence import Reader
from ktriage.bisect.log import LogWriter, read_log
from ktriage.bisect.priors import Priors
from ktriage.bisect.search import Costs, Search
from ktriage.bisect.sums import AncestorSums
from ktriage.bisect.types import Answer, Belief, Chosen, End, Options, Record, Run, RunResult, Start
from ktriage.errors import MachineryError, UserError
from ktriage.history.repository import CommitGraph, Repository
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from ktriage.bisect.search import Verdict
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
    """Find the commit after ``good`` and up to ``bad`` that brought the crash.

    ``runner`` is called on ``executor``, ``options.jobs`` times at once at most. Each record is in ``log``
    before the next step is taken. ``cancel``, where given, makes runs that are under way end soon; it is
    called when their results are not wanted any more. Raises ``UserError`` for revisions and repositories
    that won't do, and what ``runner`` raises as one; ``MachineryError`` where nothing runs any more.
    """
    options = options or Options()
    repository = Repository(repo)
    good, bad = repository.resolve(good), repository.resolve(bad)
    graph = repository.range(good, bad, first_parent=options.first_parent)
    start = _start(repository, good, bad, graph, options)
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
    graph = repository.range(start.good, start.bad, first_parent=options.first_parent)
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
    return Options(**given, call=start.call)


def engine_graph(graph: CommitGraph) -> AncestorSums:
    """Return the ancestor sums of the range with the good revision as number 0, below everything."""
    counts = np.diff(graph.indptr)
    indices = graph.indices + 1
    roots = np.flatnonzero(counts == 0)
    indices = np.insert(indices, graph.indptr[roots], 0)
    indptr = np.concatenate([[0, 0], np.cumsum(np.maximum(counts, 1))])
    return AncestorSums(indptr.astype(np.int32), indices.astype(np.int32))


def _start(repository: Repository, good: str, bad: str, graph: CommitGraph, options: Options) -> Start:
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
    names: Names = field(init=False)
    search: Search = field(init=False)
    reader: Reader = field(init=False)
    runs: list[Run] = field(init=False, default_factory=list)
    checks: list[Run] = field(init=False, default_factory=list)
    pending: dict[Future[RunResult], Chosen] = field(init=False, default_factory=dict)
    number: int = field(init=False, default=0)
    before: float = field(init=False, default=0.0)
    began: float = field(init=False, default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.names = Names(self.repository, self.start.good, self.graph)
        self.search = Search(
            engine_graph(self.graph),
            confidence=self.options.confidence,
            priors=Priors.default(self.options.rate),
            costs=Costs(build=self.options.build_ratio),
            max_skips=self.options.max_skips,
        )
        self.reader = Reader(self.search, self.names, self.options)

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
            answer = answers.answer(self.search, self.names, self.runs, verdict, why)
            if self.options.verify and answer.verdict == "culprit":
                from ktriage.bisect.verify import verify

                answer = verify(self, answer, runner, executor)
        finally:
            self._drop(cancel)
        answer = replace(
            answer,
            seconds=round(self.seconds, 3),
            seed=self.options.seed,
            log=self.log,
            priors=tuple(self.reader.reasons),
        )
        self.write(End(answer, time.time()))
        return answer

    def _search(self, runner: Runner, executor: Executor) -> tuple[Verdict | None, str]:
        """Run until enough is known or a limit is reached; return what is known or which limit it was."""
        while True:
            verdict = self.search.verdict()
            why = self._limit()
            if verdict is not None or why:
                return verdict, why
            self._fill(runner, executor)
            if not self.pending:
                return None, ""
            self.collect()
            self.write(self._belief())

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
            waiting = [self.names.places[chosen.commit] for chosen in self.pending.values()]
            choice = self.search.choose(waiting)
            if choice is None:
                return
            self.submit(runner, executor, self.names.commits[choice.v], gain=choice.gain)

    def submit(
        self,
        runner: Runner,
        executor: Executor,
        commit: str,
        *,
        purpose: Purpose = "search",
        gain: float = 0.0,
        patch: str = "",
    ) -> None:
        """Note down that a run is about to start, and start it."""
        self.number += 1
        chosen = Chosen(
            attempt=f"{self.number:04d}-{commit[:12]}",
            commit=commit,
            when=time.time(),
            gain=round(gain, 5),
            built=not patch and self.search.is_built(self.names.places[commit]),
            purpose=purpose,
            patches=(PATCHED,) if patch else (),
        )
        self.write(chosen)
        self.pending[executor.submit(runner, commit, (patch,) if patch else (), chosen.attempt)] = chosen

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
            self.reader.take(run)

    def _belief(self) -> Belief:
        return answers.belief(self.search, self.names, self.runs, jobs=self.options.jobs)

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


PATCHED = "revert of the culprit"
"""Stands in the log for the patch that a verification applies."""


def _result(future: Future[RunResult]) -> RunResult:
    """Return the run's result. A machine that failed is an outcome; what a person got wrong is an error."""
    try:
        return future.result()
    except UserError:
        raise
    except (MachineryError, OSError) as error:
        return RunResult(OutcomeKind.INFRA, note=str(error))
