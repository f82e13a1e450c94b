"""How often a reproducer crashes: a number of trials."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from ktriage.jobs.lab import Lab
from ktriage.trial import Outcome
from ktriage.trial.rate import crash_seconds, rate_interval
from ktriage.words import OutcomeKind

TELLING = (OutcomeKind.CRASHED, OutcomeKind.OK, OutcomeKind.OTHER_CRASH, OutcomeKind.HUNG)


@dataclass(frozen=True, slots=True)
class Rate:
    """How often the hunted crash showed.

    ``rate`` is among the runs that could show it (no failed build, boot or machine), None without any;
    ``interval`` is its 95% interval. ``titles`` counts the crashes by title. Seconds are wall-clock:
    ``seconds`` for all of it, ``run_seconds`` the median of a run, ``crash_seconds`` the median of what it
    takes until the crash is on the console, in runs that crash. ``per_minute`` is how many runs a minute that
    makes, after all that is prepared once.
    """

    runs: int
    outcomes: dict[str, int]
    rate: float | None
    interval: tuple[float, float]
    titles: dict[str, int]
    seconds: float
    run_seconds: float | None = None
    crash_seconds: float | None = None
    per_minute: float = 0.0
    directories: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage repro run --json`` prints last."""
        return asdict(self)


def measure_rate(
    lab: Lab,
    runs: int,
    *,
    commit: str | None = None,
    jobs: int = 1,
    vmcore: str | None = None,
    precision: float | None = None,
    watch: Callable[[int, Outcome], None] = lambda _number, _outcome: None,
) -> Rate:
    """Run the reproducer ``runs`` times, ``jobs`` at a time, and return its crash rate.

    With ``precision`` it is enough when half the rate's 95% interval is no more than that. ``watch`` is
    called with each run's number and outcome as it ends. Raises UserError where the module's sources are not
    there.
    """
    began = time.monotonic()
    outcomes: list[Outcome] = []
    build = lab.build(commit)
    if build is not None and build.error is not None:
        runs = 1  # the others would come to the same
    prepared = time.monotonic()

    def one(number: int) -> Outcome:
        return lab.trial(f"run-{number:04}", commit, vmcore=vmcore)[0]

    pool = ThreadPoolExecutor(jobs, thread_name_prefix="trial")
    waiting: dict[Future[Outcome], int] = {}
    try:
        left = iter(range(runs))
        for number in left:
            waiting[pool.submit(one, number)] = number
            if len(waiting) == jobs:
                break
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                number = waiting.pop(future)
                outcomes.append(future.result())
                watch(number, outcomes[-1])
                enough = _known(outcomes, precision) or _hopeless(outcomes)
                follower = None if enough else next(left, None)
                if follower is not None:
                    waiting[pool.submit(one, follower)] = follower
    except BaseException:
        lab.stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return summarize(outcomes, time.monotonic() - began, time.monotonic() - prepared)


def _counts(outcomes: list[Outcome]) -> tuple[int, int]:
    """Return how many runs crashed, of how many that could tell."""
    crashed = sum(outcome.hunted for outcome in outcomes)
    return crashed, sum(outcome.kind in TELLING for outcome in outcomes)


def _hopeless(outcomes: list[Outcome]) -> bool:
    """Return whether the kernel, or the module, never comes up."""
    return len(outcomes) > 1 and all(outcome.kind is OutcomeKind.BOOT_FAILED for outcome in outcomes)


def _known(outcomes: list[Outcome], precision: float | None) -> bool:
    """Return whether the rate is known as well as is asked for."""
    if precision is None:
        return False
    low, high = rate_interval(*_counts(outcomes))
    return high - low <= 2 * precision


def summarize(outcomes: list[Outcome], seconds: float, running: float | None = None) -> Rate:
    """Return the rate that some outcomes show, which took ``seconds`` in all and ``running`` for the runs."""
    crashed, telling = _counts(outcomes)
    ran = sorted(outcome.seconds["run"] for outcome in outcomes if "run" in outcome.seconds)
    crashes = sorted(found for outcome in outcomes if (found := crash_seconds(outcome)) is not None)
    return Rate(
        runs=len(outcomes),
        outcomes=dict(Counter(str(outcome.kind) for outcome in outcomes)),
        rate=crashed / telling if telling else None,
        interval=rate_interval(crashed, telling),
        titles=dict(Counter(outcome.title for outcome in outcomes if outcome.title)),
        seconds=seconds,
        run_seconds=median(ran) if ran else None,
        crash_seconds=median(crashes) if crashes else None,
        per_minute=60 * len(outcomes) / (running or seconds) if (running or seconds) > 0 else 0.0,
        directories=tuple(outcome.directory for outcome in outcomes if outcome.directory),
    )
