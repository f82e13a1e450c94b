"""How often a reproducer crashes: a number of trials, on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any

from ktriage.jobs.lab import Lab
from ktriage.machine import kill_all
from ktriage.trial import Outcome
from ktriage.trial.rate import rate_interval
from ktriage.words import OutcomeKind

TELLING = (OutcomeKind.CRASHED, OutcomeKind.OK, OutcomeKind.OTHER_CRASH, OutcomeKind.HUNG)


@dataclass(frozen=True, slots=True)
class Rate:
    """How often the hunted crash showed.

    ``rate`` is among the runs that could show it (no failed build, boot or machine), None without any;
    ``interval`` is its 95% interval. ``titles`` counts the crashes by title. Seconds are wall-clock.
    """

    runs: int
    outcomes: dict[str, int]
    rate: float | None
    interval: tuple[float, float]
    titles: dict[str, int]
    seconds: float
    run_seconds: float | None = None
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
    watch: Callable[[int, Outcome], None] = lambda _number, _outcome: None,
) -> Rate:
    """Run the reproducer ``runs`` times, ``jobs`` at a time, and return its crash rate.

    ``watch`` is called with each run's number and outcome as it ends. Raises UserError where the module's
    sources are not there.
    """
    began = time.monotonic()
    outcomes: list[Outcome] = []
    lab.build(commit)

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
                follower = next(left, None)
                if follower is not None:
                    waiting[pool.submit(one, follower)] = follower
    except BaseException:
        kill_all()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return summarize(outcomes, time.monotonic() - began)


def summarize(outcomes: list[Outcome], seconds: float) -> Rate:
    """Return the rate that some outcomes show."""
    crashed = sum(outcome.hunted for outcome in outcomes)
    telling = sum(outcome.kind in TELLING for outcome in outcomes)
    ran = sorted(outcome.seconds["run"] for outcome in outcomes if "run" in outcome.seconds)
    return Rate(
        runs=len(outcomes),
        outcomes=dict(Counter(str(outcome.kind) for outcome in outcomes)),
        rate=crashed / telling if telling else None,
        interval=rate_interval(crashed, telling),
        titles=dict(Counter(outcome.title for outcome in outcomes if outcome.title)),
        seconds=seconds,
        run_seconds=ran[len(ran) // 2] if ran else None,
        directories=tuple(outcome.directory for outcome in outcomes if outcome.directory),
    )
