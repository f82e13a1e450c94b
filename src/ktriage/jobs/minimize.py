"""A reproducer made shorter: lines are taken out for as long as the crash shows as often as before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ktriage.errors import MachineryError, UserError
from ktriage.jobs.lab import Lab
from ktriage.jobs.minimize_target import Target
from ktriage.machine import kill_all
from ktriage.trial import Bench, Outcome
from ktriage.trial.rate import rate_interval
from ktriage.trial.sequential import Counts, decide
from ktriage.trial.shrink import shrink
from ktriage.words import OutcomeKind

LOG = "minimize.jsonl"
MOST_FAILURES = 3
"""Failures of the machine in a row that are tried again."""
SLOWER, LEAST_SECONDS = 4, 3.0
"""A run that takes so many times as long as the slowest that crashed, and so many seconds, does not crash."""

CRASHES, SAME = "still crashes", "the same program, in fewer lines"
"""What is said of a shorter text that is kept."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Minimized:
    """What came of it.

    ``lines`` are those with something on them, before and after. ``rate`` is the original's crash rate with
    its 95% interval, ``minimized_rate`` that of what is left. ``runs`` counts all runs, also those of an
    earlier call that was gone on with; ``candidates`` the shorter texts that were tried, ``free`` those of
    them that needed no run. ``complete`` is False where the runs allowed were used up.
    """

    original: str
    minimized: str
    lines: tuple[int, int]
    runs: int
    candidates: int
    free: int
    rate: float
    interval: tuple[float, float]
    minimized_rate: float
    minimized_interval: tuple[float, float]
    seconds: float
    complete: bool

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage repro minimize --json`` prints last."""
        return asdict(self)


class _EnoughError(Exception):
    """The runs that were allowed are used up."""


@dataclass(slots=True)
class _Known:
    """What is known of one text: its runs, in order, and what was decided."""

    runs: list[tuple[bool, float]] = field(default_factory=list)
    verdict: str | None = None


@dataclass(slots=True)
class _Search:
    bench: Bench
    module: Path | None
    target: Target
    folder: Path
    jobs: int
    most_runs: int | None
    progress: Progress
    known: dict[str, _Known] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    """Of the text that the next ones are compared with, and of those before it."""
    binaries: dict[str, bool] = field(default_factory=dict)
    """What was decided of a binary, by its hash."""
    runs: int = 0
    candidates: int = 0
    free: int = 0
    timeout: float | None = None

    def log(self, record: dict[str, Any]) -> None:
        """Put a record on disk before anything is made of it."""
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def replay(self, start: dict[str, Any]) -> None:
        """Take over the runs of an earlier call; raises UserError where it was about something else."""
        path = self.folder / LOG
        if not path.exists():
            self.log(start)
            return
        records = [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")
        ]
        if not records or records[0] != start:
            raise UserError(
                f"{path} is about another reproducer, or it was changed since",
                hint="name another folder with --out, or remove this one",
            )
        for record in records[1:]:
            self.known.setdefault(record["text"], _Known()).runs.append(
                (record["crashed"], record["seconds"])
            )
        if records[1:]:
            self.progress(f"going on after {len(records) - 1} runs")

    def measure(self, text: bytes) -> Counts:
        """Run a text until its crash rate is known well enough; return its counts."""
        seen = Counts()
        taken = 0
        while not seen.known:
            for crashed, _ in self._runs(text, taken):
                seen.add(crashed)
                taken += 1
        return seen

    def keeps(self, text: bytes) -> bool:
        """Return whether a shorter text still crashes as often."""
        known = self.known.setdefault(_name(text), _Known())
        if known.verdict is None:
            self.candidates += 1
            runs = self.runs
            known.verdict = self._judge(text)
            if self.runs > runs or known.verdict == SAME:
                self.progress(f"{self.target.lines(text)} lines, {self.runs} runs: {known.verdict}")
        return known.verdict in (CRASHES, SAME)

    def _judge(self, text: bytes) -> str:
        built = self.target.build(text, self.folder / "work")
        if built is None:
            self.free += 1
            return "no program"
        try:
            key = hashlib.sha256(built.read_bytes()).hexdigest()
            if key in self.binaries:
                self.free += 1
                return SAME if self.binaries[key] else "the same as one that did not crash"
            self.binaries[key] = self._test(text)
            return CRASHES if self.binaries[key] else "crashes less, or not at all"
        finally:
            # A static program takes a megabyte, and there may be hundreds.
            built.unlink()

    def _test(self, text: bytes) -> bool:
        seen, rate = Counts(), self.counts.rate
        while (decision := decide(seen, rate)) is None:
            for crashed, _ in self._runs(text, seen.runs):
                seen.add(crashed)
        if decision:
            self.counts.crashes += seen.crashes
            self.counts.runs += seen.runs
        return decision

    def _runs(self, text: bytes, taken: int) -> list[tuple[bool, float]]:
        """Return the runs of a text after the first ``taken``: those that are known, or new ones."""
        known = self.known.setdefault(_name(text), _Known())
        if len(known.runs) > taken:
            self.runs += 1
            return [known.runs[taken]]
        if self.most_runs is not None and self.runs >= self.most_runs:
            raise _EnoughError
        bench = replace(
            self.bench, spec=self.target.spec(self.bench.spec, text, self.folder / "work", self.timeout)
        )
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="trial") as pool:
            try:
                new = list(pool.map(lambda slot: self._run(bench, slot), range(self.jobs)))
            except BaseException:
                kill_all()
                raise
        for crashed, seconds in new:
            self.log({"text": _name(text), "crashed": crashed, "seconds": round(seconds, 3)})
            known.runs.append((crashed, seconds))
        self.runs += len(new)
        return new

    def _run(self, bench: Bench, slot: int) -> tuple[bool, float]:
        """Run once; the folder is the one of the last run in this slot."""
        place = self.folder / f"run-{slot}"
        for _ in range(MOST_FAILURES):
            shutil.rmtree(place, ignore_errors=True)
            outcome: Outcome = bench.trial(place, module=self.module, vmcore="never")
            if outcome.kind is OutcomeKind.INFRA:
                continue
            seconds = outcome.seconds.get("run", 0.0)
            return outcome.hunted, seconds
        raise MachineryError(f"the machine failed {MOST_FAILURES} times in a row: {outcome.detail}")


def _name(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:20]


def minimize(
    lab: Lab,
    target: Target,
    folder: Path,
    *,
    commit: str | None = None,
    output: Path | None = None,
    jobs: int = 1,
    most_runs: int | None = None,
    progress: Progress = lambda _: None,
) -> Minimized:
    """Shorten what ``target`` names, at ``commit``, and write what is left to ``output``.

    ``folder`` gets the log: called again with it, the runs that it has are not made again. The original is
    never written to. Raises UserError where it does not crash in the first place, or where the log is another
    reproducer's.
    """
    began = time.monotonic()
    place = output or target.output
    if place.resolve() == target.path.resolve():
        raise UserError(f"{place} is the original", hint="name another file with --output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "work").mkdir(exist_ok=True)
    build = lab.build(commit)
    if build is not None and build.error is not None:
        raise UserError(f"what it is to crash does not build: {build.error}")
    bench, module = lab.prepared(build)
    original = target.text()
    search = _Search(
        bench=bench,
        module=module,
        target=target,
        folder=folder.resolve(),
        jobs=jobs,
        most_runs=most_runs,
        progress=progress,
    )
    search.replay({"original": _name(original), "file": target.label, "commit": commit})
    if (built := target.build(original, search.folder / "work")) is None:
        raise UserError(f"{target.label} does not compile", hint="ktriage repro run says why")
    progress(f"how often does {target.label} crash?")
    first = search.measure(original)
    if not first.crashes:
        raise UserError(f"{target.label} did not crash in {first.runs} runs: there is nothing to keep")
    progress(f"{first.crashes} of {first.runs} runs crashed")
    slowest = max(seconds for crashed, seconds in search.known[_name(original)].runs if crashed)
    search.timeout = max(LEAST_SECONDS, SLOWER * slowest)
    search.counts = replace(first)
    search.binaries[hashlib.sha256(built.read_bytes()).hexdigest()] = True
    best, complete = _best(search, original)
    last = _rate_of(search, best)
    left = best if best == original else target.tidy(best, search.folder / "work")
    shutil.rmtree(search.folder / "work")
    target.write(left, place)
    return Minimized(
        original=str(target.path),
        minimized=str(place),
        lines=(target.lines(original), target.lines(left)),
        runs=search.runs,
        candidates=search.candidates,
        free=search.free,
        rate=first.crashes / first.runs,
        interval=rate_interval(first.crashes, first.runs),
        minimized_rate=last.crashes / last.runs if last.runs else first.crashes / first.runs,
        minimized_interval=rate_interval(last.crashes, last.runs),
        seconds=time.monotonic() - began,
        complete=complete,
    )


def _best(search: _Search, original: bytes) -> tuple[bytes, bool]:
    """Return the shortest text that was found, and whether there was time to look for a shorter one."""
    best = original

    def keeps(text: bytes) -> bool:
        nonlocal best
        kept = search.keeps(text)
        if kept:
            best = text
        return kept

    try:
        return shrink(original, search.target.splits(), keeps), True
    except _EnoughError:
        return best, False


def _rate_of(search: _Search, text: bytes) -> Counts:
    """Return how often a text crashes, as far as the runs that are left allow it."""
    search.target.build(text, search.folder / "work")
    try:
        search.most_runs = None if search.most_runs is None else search.most_runs + 1
        return search.measure(text)
    except _EnoughError:
        seen = Counts()
        for crashed, _ in search.known[_name(text)].runs:
            seen.add(crashed)
        return seen
