"""What a bisection shows: a live view on a terminal, a line per run elsewhere, and the answer."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from ktriage.bisect.types import Answer, Belief, Chosen, Log, Run, Start

MARKS = {
    "crashed": ("X", "bold red"),
    "other-crash": ("x", "yellow"),
    "hung": ("h", "yellow"),
    "ok": ("·", "green"),
    "build-failed": ("b", "magenta"),
    "boot-failed": ("B", "magenta"),
    "infra": ("?", "dim"),
}
_TOP = 6
_STRIPS = 10


def duration(seconds: float) -> str:
    """Return a time as people say it: 8 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class View:
    """An observer for people: a line per finished run on stderr, and with ``json`` each run on stdout."""

    def __init__(self, *, as_json: bool = False, log: Path | None = None) -> None:
        self.as_json = as_json
        self.log = log
        self.start: Start | None = None
        self.runs: list[Run] = []
        self.checks: list[Run] = []
        self.pending: dict[str, Chosen] = {}
        self.belief: Belief | None = None

    def note(self, text: str) -> None:
        """Say something that is not about a run."""
        self.say(text)

    def say(self, text: str) -> None:
        """Print a line on stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def started(self, start: Start) -> None:
        """Say what is bisected and where the log is."""
        self.start = start
        what = "VMs" if start.call.get("kind") == "vms" else "runs"
        at_once = (
            f"{start.jobs} {what} at a time" if start.jobs > 1 else f"one {what.removesuffix('s')} at a time"
        )
        span = f"{start.good[:12]}..{start.bad[:12]}"
        self.say(f"{start.candidates} commits, {span}; {at_once}; seed {start.seed}")
        if self.log is not None:
            self.say(f"log: {self.log}")

    def chosen(self, chosen: Chosen) -> None:
        """Note what is tried now."""
        self.pending[chosen.attempt] = chosen

    def finished(self, run: Run) -> None:
        """Say what a run came to."""
        self.pending.pop(run.attempt, None)
        (self.checks if run.purpose == "verify" else self.runs).append(run)
        if self.as_json:
            _print_json(asdict(run))
        self.tell(run)

    def tell(self, run: Run) -> None:
        """Print a finished run."""
        what = f"{run.outcome}: {run.title}" if run.title else str(run.outcome)
        built = f", built in {duration(run.build_seconds)}" if run.build_seconds else ""
        patched = " with the culprit reverted" if run.patches else ""
        self.say(f"{run.commit[:12]}{patched}: {what} after {run.run_seconds:.1f} s{built}")

    def believed(self, belief: Belief) -> None:
        """Say who is likeliest."""
        self.belief = belief
        if belief.runs and not sys.stderr.isatty():
            top = belief.top[0]
            self.say(f"  {belief.runs} runs: {top.commit[:12]} {top.probability:.3f}{self.left()}")

    def left(self) -> str:
        """Return the estimate of what is left, or nothing."""
        belief = self.belief
        if belief is None or belief.runs_left is None or belief.seconds_left is None:
            return ""
        return f", about {belief.runs_left:.0f} more runs in {duration(belief.seconds_left)}"

    def ended(self, answer: Answer) -> None:
        """Note the answer: it is printed by who asked for it."""


class LiveView(View):
    """The same on a terminal: what is tried, what is believed, the runs as strips, and what is left."""

    def __init__(self, console: Console, *, as_json: bool = False, log: Path | None = None) -> None:
        from rich.live import Live

        super().__init__(as_json=as_json, log=log)
        self.console = console
        self.live: Live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, transient=True
        )

    def say(self, text: str) -> None:
        """Print a line above the view."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def tell(self, run: Run) -> None:
        """Leave runs to the strips; what failed for no good reason is said."""
        if run.outcome == "infra":
            super().tell(run)

    def render(self) -> Group:
        """Return the view as it is now."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Text] = []
        now = time.time()
        for chosen in sorted(self.pending.values(), key=lambda chosen: chosen.attempt):
            what = "check" if chosen.purpose == "verify" else "run"
            how = (
                "with the culprit reverted" if chosen.patches else "" if chosen.built else "to be built first"
            )
            number, _, _ = chosen.attempt.partition("-")
            line = f"{what} {number} {chosen.commit[:12]} {how} {duration(now - chosen.when)}"
            parts.append(Text(" ".join(line.split()), style="cyan"))
        parts += self._believed()
        parts += self._strips()
        return Group(*parts)

    def _believed(self) -> list[Text]:
        from rich.text import Text

        belief = self.belief
        if belief is None or self.start is None:
            return []
        lines: list[Text] = []
        for candidate in belief.top[:_TOP]:
            if candidate.probability < 5e-4 and lines:
                break
            bar = "█" * round(candidate.probability * 20)
            text = Text(f"{candidate.probability:7.2%} ")
            text.append(f"{bar:<20}", style="red").append(
                f" {candidate.commit[:12]} {candidate.subject or ''}"
            )
            lines.append(text)
        for line in lines:
            line.truncate(self.console.width, overflow="ellipsis")
        outside = f", outside of the range {belief.outside:.2%}" if belief.outside >= 5e-4 else ""
        done = f"{belief.runs} runs, {belief.revisions} revisions, {belief.builds} builds{self.left()}"
        lines.append(Text(f"{belief.entropy:.1f} bits unknown{outside}; {done}", style="dim"))
        return lines

    def _strips(self) -> list[Text]:
        from rich.text import Text

        by_commit: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            by_commit[run.commit] = [*by_commit.pop(run.commit, []), run]
        lines = []
        for commit, runs in list(by_commit.items())[-_STRIPS:]:
            text = Text(f"{commit[:12]} ")
            for run in runs[-(max(20, self.console.width - 20)) :]:
                mark, style = MARKS[run.outcome]
                text.append(mark, style=style)
            lines.append(text)
        return lines


@contextmanager
def open_view(*, as_json: bool, log: Path | None) -> Iterator[View]:
    """Return the view that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield View(as_json=as_json, log=log)
        return
    from rich.console import Console

    view = LiveView(Console(stderr=True), as_json=as_json, log=log)
    with view.live:
        yield view


def _print_json(data: object) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def print_answer(answer: Answer, *, as_json: bool) -> None:
    """Print the answer on stdout."""
    if as_json:
        _print_json(answer.to_json())
        return
    out = sys.stdout.write
    for line in _answer_lines(answer):
        out(line + "\n")


def _answer_lines(answer: Answer) -> Iterator[str]:
    match answer.verdict:
        case "culprit":
            yield f"{answer.culprit} is the culprit with probability {answer.probability:.4f}"
            yield f"    {answer.subject}"
            yield f"    {answer.author}, {answer.date}"
        case "candidates":
            count = len(answer.candidates)
            yield f"the culprit is one of {count} commits with probability {answer.probability:.4f}"
        case "not-in-range":
            yield f"no commit in the range brought it (probability {answer.probability:.4f})"
        case _:
            yield "no answer"
    if answer.verdict != "culprit":
        yield f"    {answer.reason}"
    for candidate in answer.candidates[1 if answer.verdict == "culprit" else 0 :][:5]:
        yield f"  {candidate.probability:8.4%}  {candidate.commit[:12]} {candidate.subject or ''}"
    yield from _numbers(answer)


def _numbers(answer: Answer) -> Iterator[str]:
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(answer.outcomes.items()))
    yield (
        f"{answer.runs} runs ({outcomes or 'none'}) at {answer.revisions} revisions, "
        f"{answer.builds} builds, {duration(answer.seconds)}"
    )
    if answer.crash_rate is not None and answer.crash_interval is not None and "crashed" in answer.outcomes:
        low, high = answer.crash_interval
        yield f"crash rate with the culprit {answer.crash_rate:.2f} (95%: {low:.2f} to {high:.2f})"
    for title, chance in answer.titles.items():
        kind = "the same bug" if chance > 0.5 else "another bug"
        yield f"{title}: {kind} (probability {max(chance, 1 - chance):.3f})"
    check = answer.verification
    if check is not None:
        parent = {"ok": ", and its parent is free of the crash", "crashes": ", and its parent crashes too"}
        said = {
            "gone": "without it the bad revision is free of the crash",
            "stays": "without it the crash stays",
            "untestable": "the bad revision can't be tested without it" + parent.get(check.parent, ""),
        }
        how = said.get(check.reverted, "it does not revert cleanly" + parent.get(check.parent, ""))
        yield f"checked with {check.runs} more runs: its own revision {check.culprit}; {how}"
    for prior in answer.priors:
        yield f"prior: {prior}"
    if answer.log:
        yield f"log: {answer.log}"


def print_status(log: Log, *, as_json: bool) -> None:
    """Print how far a bisection is."""
    if log.end is not None:
        print_answer(log.end, as_json=as_json)
        return
    belief = log.beliefs[-1] if log.beliefs else None
    view = View()
    view.belief = belief
    if as_json:
        state = asdict(belief) if belief else {"runs": 0}
        state.pop("mass", None)
        _print_json(state | {"record": "status", "lost": [chosen.attempt for chosen in log.lost]})
        return
    out = sys.stdout.write
    out(f"{log.start.candidates} commits in {log.start.repo}, no answer yet\n")
    if belief is not None:
        out(f"{belief.runs} runs, {belief.builds} builds, {belief.entropy:.1f} bits unknown{view.left()}\n")
        for candidate in belief.top[:5]:
            out(f"  {candidate.probability:8.4%}  {candidate.commit[:12]} {candidate.subject or ''}\n")
    for chosen in log.lost:
        out(f"under way, or lost: {chosen.attempt}\n")


def print_replayed(run: Run, belief: Belief, *, as_json: bool) -> None:
    """Print a run and what is believed after it."""
    if as_json:
        _print_json(asdict(run))
        _print_json(asdict(belief))
        return
    top = belief.top[0]
    sys.stdout.write(
        f"{belief.runs:4} {run.commit[:12]} {run.outcome:<12} {belief.entropy:6.2f} bits  "
        f"{top.commit[:12]} {top.probability:.4f}\n"
    )


def print_simulated(args: argparse.Namespace) -> None:
    """Simulate, and print what came out."""
    from ktriage.bisect.simulate import World, load_dag, simulate

    summary = simulate(
        load_dag(args.dag),
        World(args.p, args.q),
        histories=args.histories,
        confidence=args.confidence,
        jobs=args.jobs,
        seed=args.seed,
    )
    data = summary.to_json()
    if args.json:
        _print_json(data)
        return
    for name, value in data.items():
        sys.stdout.write(f"{name:<14}{value}\n")
