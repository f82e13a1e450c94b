"""What was found about one bug, as plain data: jobs fill it in, renderers read it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ktriage.console.types import Crash
    from ktriage.dump.types import ModuleState

FIXED_RUNS = 10
"""Runs a revision of the fixed scheme that a bisection is compared with: what syzbot does."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the range that was searched; ``date`` is ISO 8601, ``probability`` the final belief."""

    hash: str
    subject: str
    author: str = ""
    date: str = ""
    parents: tuple[int, ...] = ()
    """Places of its parents in ``Bisection.commits``, -1 for one outside of the range."""
    probability: float = 0.0

    @property
    def merge(self) -> bool:
        """Whether it has more than one parent."""
        return len(self.parents) > 1

    @property
    def short(self) -> str:
        """First 12 characters of the hash, as the kernel writes commits."""
        return self.hash[:12]


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run; ``number`` counts from 1 in the order in which results came in.

    ``seconds`` is the run's own time, ``build_seconds`` that of a build made for it (0 where there was
    one already). ``directory`` holds its console and verdict. ``signature`` names what was built.
    """

    number: int
    commit: str
    outcome: OutcomeKind
    title: str | None = None
    seconds: float = 0.0
    build_seconds: float = 0.0
    directory: str | None = None
    signature: str | None = None
    on_top: tuple[str, ...] = ()
    """What was put on top of the revision to make it testable."""


@dataclass(frozen=True, slots=True)
class Bisection:
    """How the culprit was found.

    ``commits`` is the range that was searched, parents before children; of a long range only those that
    matter, while ``total`` counts them all. ``beliefs[i]`` is the belief after ``runs[i]``, by commit, and
    ``entropies[i]`` the bits that were then unknown. Commits left out of a belief had next to nothing.
    ``seconds`` is wall-clock time, ``builds`` the number of revisions that were built. ``probability``
    belongs to the verdict. ``crash_interval`` is the central 95% of the crash rate with the culprit.
    ``verification`` has what was tried to check the answer, in words, with what came of it;
    ``verified`` is None where nothing could be checked. ``kind`` says whether the commit was looked for that
    brought the crash (``cause``) or that ended it (``fix``). ``below`` are the revisions that the range
    begins after: the good one, for a fix the bad one, or the merge bases of the two. ``notes`` are what else
    is to be said of the answer, a sentence each.
    """

    verdict: str
    commits: tuple[Commit, ...]
    runs: tuple[Run, ...]
    total: int = 0
    beliefs: tuple[Mapping[str, float], ...] = ()
    entropies: tuple[float, ...] = ()
    probability: float = 0.0
    reason: str = ""
    builds: int = 0
    seconds: float = 0.0
    bad: str = ""
    good: str = ""
    confidence: float | None = None
    seed: int | None = None
    vms: int | None = None
    crash_rate: float | None = None
    crash_interval: tuple[float, float] | None = None
    priors: tuple[str, ...] = ()
    titles: tuple[tuple[str, float], ...] = ()
    verification: tuple[tuple[str, str], ...] = ()
    verified: bool | None = None
    kind: str = "cause"
    below: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def count(self) -> int:
        """Return how many commits the range has."""
        return max(self.total, len(self.commits))

    def candidates(self) -> list[Commit]:
        """Return the commits with any probability, the most probable first."""
        return sorted((c for c in self.commits if c.probability > 0), key=lambda c: -c.probability)

    def revisions(self) -> int:
        """Count the revisions that were run at least once."""
        return len({run.commit for run in self.runs})


@dataclass(frozen=True, slots=True)
class FixedCost:
    """What a bisection with a fixed number of runs a revision would have cost."""

    revisions: int
    runs: int
    seconds: float


def fixed_cost(bisection: Bisection, runs_each: int = FIXED_RUNS) -> FixedCost:
    """Estimate the cost of halving the same range with ``runs_each`` runs at every revision.

    A range of n commits takes ceil(log2(n)) revisions. Each costs a build and its runs, at the mean
    build and run times measured in this bisection, one after another on as many VMs.
    """
    revisions = max(1, math.ceil(math.log2(max(2, bisection.count()))))
    tested = [run for run in bisection.runs if run.outcome is not OutcomeKind.BUILD_FAILED]
    built = [run.build_seconds for run in bisection.runs if run.build_seconds > 0]
    run_mean = sum(run.seconds for run in tested) / len(tested) if tested else 0.0
    build_mean = sum(built) / len(built) if built else 0.0
    seconds = revisions * (build_mean + runs_each * run_mean / max(1, bisection.vms or 1))
    return FixedCost(revisions, revisions * runs_each, seconds)


@dataclass(frozen=True, slots=True)
class Change:
    """The culprit itself: who wrote it, what it says, what it does (``diff`` is a unified diff)."""

    hash: str
    subject: str
    author: str
    email: str = ""
    date: str = ""
    message: str = ""
    diff: str = ""
    later: tuple[tuple[str, Commit], ...] | None = None
    """Commits after it that revert, fix or mention it, each with which; None where nobody looked."""
    touched: str = ""
    """Who changed its files since, in words."""


@dataclass(frozen=True, slots=True)
class Vmcore:
    """A dump of the guest in which the crash happened, and what was read out of it.

    ``note`` says why nothing was read, or what to bear in mind; ``module`` names the one that matters.
    """

    path: str
    size: int | None = None
    module: str | None = None
    modules: tuple[ModuleState, ...] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True)
class CaseFile:
    """Everything that a page about one bug shows. Whatever is None or empty is left out of the page.

    ``crash`` is the culprit's own, so that its lines are lines of the culprit's sources.
    ``modules_before`` and ``modules_after`` are the text of /proc/modules. ``commands`` are shell
    command lines that reproduce or go on from here, each with what it does. ``created`` is ISO 8601.
    """

    title: str
    bisection: Bisection | None = None
    culprit: Change | None = None
    crash: Crash | None = None
    modules_before: str | None = None
    modules_after: str | None = None
    vmcore: Vmcore | None = None
    mail: str | None = None
    kernel: str | None = None
    created: str = ""
    trials: str | None = None
    log: str | None = None
    commands: tuple[tuple[str, str], ...] = field(default_factory=tuple)
