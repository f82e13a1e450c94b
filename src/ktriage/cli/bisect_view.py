"""What a bisection shows: a live view on a terminal, a line per run elsewhere, and the answer."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from ktriage.bisect.types import SAID

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from ktriage.bisect.types import Answer, Belief, Chosen, Log, Run, Start, Verification

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
# After so many runs without a crash that is said.
_SILENCE = (25, 100, 400)


def duration(seconds: float) -> str:
    """Return a time as people say it: 8 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def on_top(run: Run | Chosen) -> str:
    """Return in words what was put on top of a revision: " with 1a2b3c4d5e6f reverted"."""
    said = []
    for name in run.patches:
        what, _, which = name.partition(" ")
        short = which.partition("@")[0] if "@" in which else which[:12]
        said.append(
            {"revert": f"{short} reverted", "tree": f"the files of {short}", "fix": f"{short} on top"}.get(
                what, f"{short} applied"
            )
        )
    return f" with {' and '.join(said)}" if said else ""


class View:
    """An observer for people: a line per finished run on stderr, and with ``json`` each run on stdout."""

    def __init__(self, *, as_json: bool = False, log: Path | None = None) -> None:
        self.as_json = as_json
        self.log = log
        self.case: str | None = None
        """The case store that it is kept in: as soon as it runs, so that it can be watched there."""
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
        ends = (start.bad, start.good) if start.kind == "fix" else (start.good, start.bad)
        what = "; looking for the commit that ended the crash" if start.kind == "fix" else ""
        span = f"{ends[0][:12]}..{ends[1][:12]}"
        self.say(f"{start.candidates} commits, {span}{what}; {at_once}; seed {start.seed}")
        if start.bases:
            names = " ".join(base[:12] for base in start.bases)
            self.say(f"good and bad have parted at {names}, where the crash may be already")
        if self.log is not None:
            self.say(f"log: {self.log}")

    def chosen(self, chosen: Chosen) -> None:
        """Note what is tried now."""
        if not self.runs and not self.pending:
            self._keep()
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
        self.say(f"{run.commit[:12]}{on_top(run)}: {what} after {run.run_seconds:.1f} s{built}")

    def believed(self, belief: Belief) -> None:
        """Say who is likeliest."""
        self.belief = belief
        if belief.runs in _SILENCE and belief.runs_left is None:
            self.say(
                f"no crash in {belief.runs} runs yet, and each says little (--max-runs N ends it sooner)"
            )
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
        del answer
        self._keep()

    def _keep(self) -> None:
        if self.case is not None and self.log is not None:
            from ktriage.jobs.keeping import keep_bisection

            keep_bisection(self.case, self.log)


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
            how = "" if chosen.built else ", to be built first"
            number, _, _ = chosen.attempt.partition("-")
            line = f"{what} {number} {chosen.commit[:12]}{on_top(chosen)}{how} {duration(now - chosen.when)}"
            parts.append(Text(line, style="cyan"))
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

        strips: dict[str, list[Run]] = defaultdict(list)
        for run in [*self.runs, *self.checks]:
            # Tested with something on top: "+"; a check: what is different about it.
            what = on_top(run) if run.purpose == "verify" else ""
            name = f"{run.commit[:12]}{what} "
            strips[name] = [*strips.pop(name, []), run]
        lines = []
        for name, runs in list(strips.items())[-_STRIPS:]:
            text = Text(name)
            if any(run.patches and run.purpose == "search" for run in runs):
                text = Text(f"{name[:-1]}+")
            for run in runs[-(max(20, self.console.width - len(name) - 8)) :]:
                mark, style = MARKS[run.outcome]
                text.append(mark, style=style)
            lines.append(text)
        return lines


@contextmanager
def open_view(*, as_json: bool, log: Path | None, case: str | None = None) -> Iterator[View]:
    """Return the view that fits where stderr goes; with ``case`` it keeps the bisection in that store."""
    if not sys.stderr.isatty():
        view = View(as_json=as_json, log=log)
        view.case = case
        yield view
        return
    from rich.console import Console

    live = LiveView(Console(stderr=True), as_json=as_json, log=log)
    live.case = case
    with live.live:
        yield live


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
    ended = answer.kind == "fix"
    match answer.verdict:
        case "culprit":
            what = "ended the crash," if ended else "is the culprit"
            yield f"{answer.culprit} {what} with probability {answer.probability:.4f}"
            yield f"    {answer.subject}"
            yield f"    {answer.author}, {answer.date}"
        case "candidates":
            what = "the crash was ended by" if ended else "the culprit is"
            count = len(answer.candidates)
            yield f"{what} one of {count} commits with probability {answer.probability:.4f}"
        case "not-in-range":
            what = "ended" if ended else "brought"
            yield f"no commit in the range {what} it (probability {answer.probability:.4f})"
        case _:
            yield "no answer"
    if answer.verdict != "culprit":
        yield f"    {answer.reason}"
    if answer.hint:
        yield f"    {answer.hint}"
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
        where = "before it" if answer.kind == "fix" else "with the culprit"
        yield f"crash rate {where} {answer.crash_rate:.2f} (95%: {low:.2f} to {high:.2f})"
    for title, chance in answer.titles.items():
        kind = "the same bug" if chance > 0.5 else "another bug"
        yield f"{title}: {kind} (probability {max(chance, 1 - chance):.3f})"
    if answer.several is not None and answer.several >= SAID:
        besides = ", the other perhaps " + ", ".join(c[:12] for c in answer.others) if answer.others else ""
        yield (
            f"one commit does not explain these runs, there are several "
            f"(probability {answer.several:.2f}){besides}"
        )
    for fix in answer.fixes:
        yield f"made testable: {fix}"
    if answer.verification is not None:
        yield _checked(answer.verification)
    for prior in answer.priors:
        yield f"prior: {prior}"
    if answer.log:
        yield f"log: {answer.log}"


_REVERTED = {
    "gone": "without it the bad revision is free of the crash",
    "rarer": "without it the bad revision still crashes, less often",
    "stays": "without it the crash stays",
    "untestable": "the bad revision can't be tested without it",
    "unseen": "what is in the worktree makes no difference to the runs, so that reverting it tells nothing",
    "returns": "without it the good revision crashes",
    "stays-away": "the good revision does not crash without it either",
    "conflict": "it does not revert cleanly",
}
_APPLIED = {
    "gone": "on top of the bad revision it ends the crash",
    "stays": "on top of the bad revision the crash stays",
    "conflict": "it does not go on top of the bad revision",
    "untestable": "the bad revision can't be tested with it",
    "unseen": "what is in the worktree makes no difference to the runs, so that applying it tells nothing",
}
_PARENT = {"ok": "its parent is free of the crash", "crashes": "its parent crashes"}
_OWN = {"crashes": "its own revision crashes", "silent": "its own revision does not crash"}


def _checked(check: Verification) -> str:
    said = [
        _OWN.get(check.culprit),
        _REVERTED.get(check.reverted),
        _APPLIED.get(check.applied),
        _PARENT.get(check.parent),
    ]
    return f"checked with {check.runs} more runs: {'; '.join(part for part in said if part)}"


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
