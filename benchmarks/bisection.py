"""How few runs and builds a bisection takes, and how often it is right, beside other ways to do it.

    python benchmarks/bisect.py [--quick] [--histories N] [--seed N] [--processes N] [SECTION ...]

Simulates bisections on a real commit graph with a culprit drawn uniformly from it. Sections: table, titles,
skips, parallel, culprits, calibration, speed; all of them unless named. The graphs are taken from
../shared/corpus/dags or $KTRIAGE_CORPUS/dags.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ktriage.bisect.answer import capacity
from ktriage.bisect.misfit import ALARM
from ktriage.bisect.priors import BetaMixture, Priors
from ktriage.bisect.search import Search
from ktriage.bisect.simulate import (
    History,
    Simulated,
    World,
    load_dag,
    simulate_history,
    summarize,
    with_good,
)
from ktriage.bisect.sums import AncestorSums

HERE = Path(__file__).resolve().parent
RANGE = "linux-2.6.36-rc1-to-2.6.37.npz"
WHOLE = "linux-2.6-whole.npz"
# It is not made to stop where its belief does not come to the confidence.
BAYESECT_RUNS = 1000
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.998)
# (p, q): the runs and builds to stay within.
CELLS = {
    (0.95, 0.0): (25, 16),
    (0.95, 0.01): (27, 16),
    (0.5, 0.0): (73, 18),
    (0.5, 0.01): (88, 20),
    (0.2, 0.0): (205, 18),
    (0.2, 0.01): (290, 21),
}


def dags() -> Path:
    """Return where the commit graphs are."""
    return Path(os.environ.get("KTRIAGE_CORPUS", HERE.parent.parent / "shared" / "corpus")) / "dags"


@lru_cache(maxsize=1)
def graph() -> AncestorSums:
    """Return the graph to simulate on."""
    return load_dag(dags() / RANGE)


@lru_cache(maxsize=1)
def beginning() -> AncestorSums:
    """Return the first thousand commits of that graph, in its order."""
    with np.load(dags() / RANGE) as data:
        indptr = data["indptr"][:1001].astype(np.int64)
        return with_good(indptr, data["indices"][: indptr[-1]].astype(np.int64))


def exact(p: float, q: float) -> Priors:
    """Return the priors of an oracle that knows both rates."""
    sure = 1e7

    def known(rate: float) -> BetaMixture:
        rate = min(max(rate, 1e-6), 1 - 1e-6)
        return BetaMixture(((1.0, rate * sure, (1 - rate) * sure),))

    return Priors(known(p), known(q))


@dataclass(frozen=True)
class Task:
    """One bisection to simulate."""

    world: World
    number: int
    seed: int
    jobs: int = 1
    confidence: float = 0.998
    oracle: bool = False
    levels: tuple[float, ...] = ()
    short: bool = False


def ours(task: Task) -> History:
    """Simulate one bisection with ktriage's engine."""
    priors = exact(task.world.p, task.world.q) if task.oracle else Priors.default()
    return simulate_history(
        beginning() if task.short else graph(),
        task.world,
        task.number,
        task.seed,
        jobs=task.jobs,
        confidence=task.confidence,
        priors=priors,
        levels=task.levels,
    )


def halving(task: Task, rule: Callable[[int, Callable[[], bool]], tuple[bool, int]]) -> History:
    """Simulate git's bisection; ``rule`` tests a revision: from its number in the order and a run to the
    verdict and the runs it took.
    """  # noqa: D205 (one sentence)
    sums = graph()
    simulated = Simulated(sums, task.world, np.random.default_rng([task.seed, task.number]))
    left = np.ones(sums.n)
    left[0] = 0
    runs = builds = 0
    while left.sum() > 1:
        inside = sums.sums(left)
        v = int(np.minimum(inside, left.sum() - inside).argmax())
        bad, made = rule(builds, lambda at=v: simulated.run(at)[0] == "crash")  # type: ignore[misc]
        runs += made
        builds += 1
        mine = sums.ancestors(v)
        left[~mine if bad else mine] = 0
    found = int(left.argmax())
    return History(runs, builds, runs, 0, "culprit", found == simulated.culprit, 1, 1.0)


def once(task: Task) -> History:
    """Git bisect run: one run a revision."""
    return halving(task, lambda _, run: (run(), 1))


def ten(task: Task) -> History:
    """Ten runs a revision, any crash is bad."""
    return halving(task, lambda _, run: (sum(run() for _ in range(10)) > 0, 10))


def syzkaller(task: Task) -> History:
    """Twenty runs at first, then ten; bad at two crashes or a sixth of the runs, whichever is more."""

    def rule(number: int, run: Callable[[], bool]) -> tuple[bool, int]:
        runs = 20 if number == 0 else 10
        return sum(run() for _ in range(runs)) >= max(2, runs / 6), runs

    return halving(task, rule)


@lru_cache(maxsize=1)
def mainline() -> list[int]:
    """Return the graph's line of first parents, the bad revision first and the good one last."""
    with np.load(dags() / RANGE) as data:
        indptr, indices = data["indptr"], data["indices"]
    line = [len(indptr) - 2]
    while indptr[line[-1]] < indptr[line[-1] + 1]:
        line.append(int(indices[indptr[line[-1]]]))
    return [commit + 1 for commit in line] + [0]


def bayesect(task: Task) -> History:
    """git_bayesect (PyPI), which knows first parents only: right is the merge that brought the culprit."""
    from git_bayesect import Bisector

    simulated = Simulated(graph(), task.world, np.random.default_rng([task.seed, task.number]))
    line = mainline()
    bisector = Bisector(np.ones(len(line)))
    runs, seen = 0, set()
    while runs < BAYESECT_RUNS and bisector.distribution.max() < task.confidence:
        at = bisector.select()
        bisector.record(at, simulated.run(line[at])[0] == "crash")
        seen.add(at)
        runs += 1
    best = int(bisector.distribution.argmax())
    said = float(bisector.distribution[best])
    brought = best + 1 < len(line) and simulated.has(line[best]) and not simulated.has(line[best + 1])
    right = brought and said >= task.confidence
    return History(runs, len(seen), runs, 0, "culprit", right, 1, said)


def oracle(task: Task) -> History:
    """Our engine, told both rates."""
    return ours(Task(task.world, task.number, task.seed, oracle=True))


def reliability(points: list[tuple[float, float, float]]) -> str:
    """Return an SVG of what was said against what was right, both as odds on a log scale."""

    def place(share: float) -> float:
        share = min(max(share, 0.4), 0.9995)
        return 40 + 90 * (math.log10(share / (1 - share)) + 0.2)

    size = round(place(1)) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size + 20} {size + 20}" font-size="11"',
        ' font-family="sans-serif" role="img" aria-label="right answers against the probability given">',
        f'<path d="M40 {size - 40} L{size} {size - place(1)}" stroke="#999" stroke-dasharray="4 3"/>',
        f'<path d="M40 20 V{size - 40} H{size}" stroke="#333" fill="none"/>',
        f'<text x="{size / 2}" y="{size + 6}" text-anchor="middle">probability given</text>',
        '<text x="44" y="16">share of right answers (bars: two standard errors)</text>',
    ]
    for mark in (0.5, 0.7, 0.9, 0.99, 0.998):
        x, y = place(mark), size - place(mark)
        parts.append(f'<text x="{x:.0f}" y="{size - 24}" text-anchor="middle">{mark}</text>')
        parts.append(f'<text x="36" y="{y + 4:.0f}" text-anchor="end">{mark}</text>')
    for said, right, error in points:
        x, low, high = place(said), size - place(right - 2 * error), size - place(right + 2 * error)
        parts.append(f'<path d="M{x:.1f} {low:.1f} V{high:.1f}" stroke="#b00" stroke-width="1.5"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{size - place(right):.1f}" r="3" fill="#b00"/>')
    return "\n".join([*parts, "</svg>", ""])


class Bench:
    """Runs simulations on some processes and prints what comes out."""

    def __init__(self, args: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
        self.histories: int = args.histories
        self.seed: int = args.seed
        self.plot: Path | None = args.plot
        self.pool = pool

    def each(
        self, how: Callable[[Task], History], world: World, share: float = 1.0, **options: float
    ) -> list[History]:
        """Simulate all histories of a world, or the first of them."""
        count = math.ceil(share * self.histories)
        tasks = [Task(world, number, self.seed, **options) for number in range(count)]  # type: ignore[arg-type]
        return list(self.pool.map(how, tasks, chunksize=5))

    def row(self, name: str, each: list[History], target: str = "") -> None:
        """Print means with their standard errors."""
        s = summarize(each, self.seed)
        print(
            f"  {name:<34}{s.runs:8.1f} ± {s.runs_error:4.1f} {s.builds:7.1f} {s.right:8.1%}  {target}",
            flush=True,
        )

    def table(self) -> None:
        """Print the table of runs, builds and right answers, with other ways to bisect."""
        bits = math.log2(graph().n)
        for (p, q), (runs, builds) in CELLS.items():
            world = World(p, q)
            print(f"p = {p}, q = {q}{'':<22}{'runs':>8} {'builds':>13} {'right':>8}")
            self.row("ktriage", self.each(ours, world), f"at most {runs}, {builds}, 99.5%")
            self.row("git bisect run, once", self.each(once, world))
            self.row("10 runs, any crash is bad", self.each(ten, world))
            self.row("syzkaller's rule", self.each(syzkaller, world))
            if importlib.util.find_spec("git_bayesect") is None:
                print("  git_bayesect                      not installed (pip install git_bayesect)")
            else:
                # A tenth of the histories: it is slow, and would take the rest of the day.
                self.row(
                    f"git_bayesect, {len(mainline()) - 1} first parents",
                    self.each(bayesect, world, share=0.1),
                )
            self.row("oracle that knows p and q", self.each(oracle, world))
            print(f"  {'capacity bound':<34}{bits / capacity(p, q):8.1f}")

    def titles(self) -> None:
        """Print what other crashes cost."""
        print("other titles, p = 0.5, q = 0.01")
        plain = self.each(ours, World(0.5, 0.01))
        self.row("none", plain)
        self.row(
            "unrelated, 20% of all runs",
            self.each(ours, World(0.5, 0.01, unrelated=0.2)),
            "at most 1.5 times",
        )
        stretches = World(0.5, 0.01, unrelated=0.5, stretches=3)
        self.row("unrelated, 50% in 3 stretches", self.each(ours, stretches), "at most 1.5 times")
        self.row("a third renamed", self.each(ours, World(0.5, 0.01, renamed=1 / 3)), "at most 1.3 times")

    def skips(self) -> None:
        """Print what revisions that can't be tested cost."""
        print("three broken stretches of 5%, p = 0.5, q = 0")
        each = self.each(ours, World(0.5, 0.0, broken=3))
        tests = [h for h in each if not h.culprit_broken]
        inside = [h for h in each if h.culprit_broken]
        self.row("culprit can be tested", tests, f"skips {np.mean([h.skips for h in tests]):.1f}")
        if inside:
            sizes = [h.members for h in inside]
            self.row("culprit can't", inside, f"set: mean {np.mean(sizes):.0f}, largest {max(sizes)}")
        skips = np.mean([h.skips for h in each])
        print(f"  skips {skips:.2f} (at most 5); a stretch has {graph().n // 20} commits")

    def parallel(self) -> None:
        """Print how many rounds several machines take."""
        for jobs, most in ((1, 0), (4, 22), (8, 13)):
            s = summarize(self.each(ours, World(0.5, 0.0), jobs=jobs), self.seed)
            target = f"at most {most}" if most else ""
            print(
                f"  {jobs} machines, p = 0.5: {s.rounds:.1f} rounds, {s.runs:.1f} runs, {s.right:.1%} right"
            )
            print(f"    {target}")

    def culprits(self) -> None:
        """Print how often more than one culprit is suspected: with one, and with two."""
        worlds = (
            World(0.5, 0.01),
            World(0.2, 0.0),
            World(0.5, 0.005, second=0.5),
            World(0.9, 0.0, second=0.3),
        )
        for world in worlds:
            each = self.each(ours, world)
            alarms = np.mean([h.misfit >= ALARM for h in each])
            second = f", second {world.second}" if world.second else ""
            right = np.mean([h.right for h in each])
            print(f"  p = {world.p}, q = {world.q}{second}: {alarms:.1%} suspected, {right:.1%} right")

    def calibration(self) -> None:
        """Print how often answers given at some confidence are right, for p and q all over the place.

        Done on a shorter history, because it takes many bisections to tell 0.998 from 0.996.
        """
        rng = np.random.default_rng(self.seed)
        tasks = []
        for number in range(2 * self.histories):
            p, q = rng.uniform(0.1, 1), float(np.exp(rng.uniform(np.log(1e-4), np.log(0.05))))
            tasks.append(Task(World(p, q), number, self.seed, levels=LEVELS, short=True))
        each = list(self.pool.map(ours, tasks, chunksize=5))
        points = []
        for level in LEVELS:
            reached = [(said, right) for h in each for at, said, right in h.crossed if at == level]
            right = float(np.mean([right for _, right in reached]))
            error = math.sqrt(level * (1 - level) / len(reached))
            said = float(np.mean([said for said, _ in reached]))
            print(f"  past {level}: said {said:.4f}, right {right:.4f} of {len(reached)} ± {error:.4f}")
            points.append((said, right, error))
        if self.plot is not None:
            self.plot.write_text(reliability(points))

    def speed(self) -> None:
        """Print times and memory on a whole history."""
        began = time.perf_counter()
        search = Search(load_dag(dags() / WHOLE))
        choice = search.choose()
        first = time.perf_counter() - began
        rng = np.random.default_rng(self.seed)
        simulated = Simulated(search.sums, World(0.5, 0.01), rng)
        steps = []
        for _ in range(60):
            assert choice is not None
            kind, title = simulated.run(choice.v)
            began = time.perf_counter()
            search.record(choice.v, kind, title=title)
            search.verdict()
            choice = search.choose()
            steps.append(time.perf_counter() - began)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"  {search.sums.n} commits: first question {first:.2f} s (at most 2.5)")
        print(f"  each further step {np.median(steps) * 1e3:.1f} ms, {max(steps) * 1e3:.1f} at most (25)")
        print(f"  memory {memory:.0f} MB (at most 400)")


SECTIONS = ("speed", "table", "titles", "skips", "parallel", "culprits", "calibration")


def main() -> int:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="200 histories each, not 1000")
    parser.add_argument("--histories", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the calibration there, as SVG")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    args = parser.parse_args()
    if unknown := set(args.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    if not (dags() / RANGE).exists():
        print(f"{dags() / RANGE} is not there: no graph to simulate on", file=sys.stderr)
        return 2
    args.histories = args.histories or (200 if args.quick else 1000)
    # numpy's threads would fight over the cores with the processes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    print(f"{graph().n - 1} commits, {args.histories} histories each, seed {args.seed}")
    with ProcessPoolExecutor(args.processes) as pool:
        bench = Bench(args, pool)
        for section in args.sections or SECTIONS:
            print(f"{section}:")
            getattr(bench, section)()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
