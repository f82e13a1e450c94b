"""One self-contained HTML page with all that was found about a bug.

Nothing in it is fetched and no script is needed or allowed (its own content security policy says so).
Every string that comes from a log, a commit or a dump is escaped by the templates and stripped of
characters that would act on the reader's terminal or writing direction (see ``text.clean``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from ktriage import __version__
from ktriage.case import text
from ktriage.case.counts import plot_count
from ktriage.case.diff import DiffLine, cut_diff, mark_diff
from ktriage.case.modules import ModuleRow, compare_modules, modules_note
from ktriage.case.plot import BeliefMap, belief_map
from ktriage.case.types import FIXED_RUNS, Bisection, CaseFile, Commit, FixedCost, Run, fixed_cost
from ktriage.console.quoted import own_stack, quoted
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ktriage.console.types import Crash, Frame
    from ktriage.dump.types import ModuleState
    from ktriage.symbols.code import Instruction

MOST_DIFF_LINES = 1500
"""Lines of a culprit's diff that the page shows: a tree-wide clean-up would drown everything else."""

OUTCOMES = {
    OutcomeKind.CRASHED: "the hunted crash",
    OutcomeKind.OK: "nothing crashed",
    OutcomeKind.OTHER_CRASH: "another crash",
    OutcomeKind.HUNG: "the guest stopped answering",
    OutcomeKind.BUILD_FAILED: "did not build",
    OutcomeKind.BOOT_FAILED: "did not boot or load",
    OutcomeKind.INFRA: "the machine failed: says nothing",
}

VERDICTS = {
    "candidates": ("Undecided", "The runs left more than one commit."),
    "not-in-range": (
        "Not in range",
        "The crash is older than the range, or the range holds no change that brings it.",
    ),
    "inconclusive": ("Inconclusive", "The runs do not decide between the commits."),
}


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One revision that was run: its runs in order and what they came to, in words."""

    commit: Commit
    runs: list[Run]
    summary: str
    culprit: bool
    end: str | None
    same: tuple[str, ...] = ()
    """Other revisions that were run and that build to the same."""
    on_top: tuple[str, ...] = ()
    """What was put on top of it to make it testable."""


@dataclass(slots=True)
class View:
    """What the templates need beside the case itself, computed once."""

    sections: list[tuple[str, str]] = field(default_factory=list)
    best: Commit | None = None
    second: Commit | None = None
    author: str = ""
    date: str = ""
    verdict_word: str = ""
    verdict_text: str = ""
    not_built: str = ""
    checked: str = ""
    fixed: FixedCost | None = None
    fixed_ratio: str = ""
    outcomes: list[tuple[OutcomeKind, str]] = field(default_factory=list)
    map: BeliefMap | None = None
    rows: list[HistoryRow] = field(default_factory=list)
    diff: list[DiffLine] = field(default_factory=list)
    diff_cut: int = 0
    diff_note: str = ""
    frames: list[tuple[Frame, str | None]] = field(default_factory=list)
    guesses: list[tuple[Frame, str | None]] = field(default_factory=list)
    quoted: list[tuple[str, list[tuple[Frame, None]]]] = field(default_factory=list)
    sources: Mapping[tuple[str, int], Sequence[tuple[int, str]]] = field(default_factory=dict)
    """Source lines around frames, by file and line."""
    where: str = ""
    code: list[Instruction] = field(default_factory=list)
    access: str = ""
    modules: list[ModuleRow] = field(default_factory=list)
    modules_note: str = ""
    dumped: list[ModuleState] = field(default_factory=list)


def outcome_summary(runs: Sequence[Run]) -> str:
    """Say what some runs came to: ``5 of 9 crashed, 4 ok``, with the other titles that were seen.

    Runs that say nothing of the revision (``infra``) are named but not counted in the total.
    """
    counts = Counter(run.outcome for run in runs)
    telling = len(runs) - counts[OutcomeKind.INFRA]
    kinds = [kind for kind in OUTCOMES if counts[kind] and kind is not OutcomeKind.INFRA]
    parts = [f"{counts[kind]} {kind}" for kind in kinds]
    if parts:
        parts[0] = parts[0].replace(" ", f" of {telling} ", 1)
    if counts[OutcomeKind.INFRA]:
        parts.append(f"{counts[OutcomeKind.INFRA]} infra")
    other = {run.title for run in runs if run.title and run.outcome is OutcomeKind.OTHER_CRASH}
    return ", ".join(parts) + (f" ({', '.join(sorted(other))})" if other else "")


def history_rows(bisection: Bisection) -> list[HistoryRow]:
    """Return the revisions that were run, newest first; revisions outside of the range come last."""
    by_commit: dict[str, list[Run]] = {}
    for run in bisection.runs:
        by_commit.setdefault(run.commit, []).append(run)
    known = {c.hash: c for c in bisection.commits}
    order = [c.hash for c in reversed(bisection.commits) if c.hash in by_commit]
    order += [commit for commit in by_commit if commit not in known]
    ranked = bisection.candidates()
    named = ranked[0].hash if ranked and bisection.verdict == "culprit" else None
    ends = {bisection.bad: "bad", bisection.good: "good"}
    built: dict[str, dict[str, None]] = {}
    for run in bisection.runs:
        if run.signature:
            built.setdefault(run.signature, {})[run.commit] = None
    twins = {commit: [c for c in group if c != commit] for group in built.values() for commit in group}
    return [
        HistoryRow(
            commit=known.get(commit, Commit(commit, "")),
            runs=by_commit[commit],
            summary=outcome_summary(by_commit[commit]),
            culprit=commit == named,
            end=ends.get(commit),
            same=tuple(twin[:12] for twin in twins.get(commit, ())),
            on_top=tuple(dict.fromkeys(name[:12] for run in by_commit[commit] for name in run.on_top)),
        )
        for commit in order
    ]


def _fixed_ratio(bisection: Bisection, fixed: FixedCost) -> str:
    if not bisection.runs:
        return ""
    ratio = fixed.runs / len(bisection.runs)
    if ratio >= 1.05:
        return f"{ratio:.1f} times the runs"
    return (
        "about as many runs"
        if ratio > 0.95
        else f"{1 / ratio:.1f} times fewer runs, with no probability to show"
    )


def _fill_bisection(view: View, case: CaseFile, bisection: Bisection) -> None:
    ranked = bisection.candidates()
    view.best = ranked[0] if ranked else None
    view.second = ranked[1] if len(ranked) > 1 else None
    if view.best:
        view.author, view.date = view.best.author, view.best.date
    if case.culprit:
        view.author, view.date = case.culprit.author or view.author, case.culprit.date or view.date
    view.verdict_word, view.verdict_text = VERDICTS.get(bisection.verdict, (bisection.verdict, ""))
    failed = {run.commit for run in bisection.runs if run.outcome is OutcomeKind.BUILD_FAILED}
    view.not_built = (
        f"{text.plural(len(failed), 'revision')} did not build"
        if failed
        else "every revision that was tried built"
    )
    view.checked = {True: "Checked, and it holds", False: "Checked, and it does not hold", None: "Checked"}[
        bisection.verified
    ]
    view.fixed = fixed_cost(bisection)
    view.fixed_ratio = _fixed_ratio(bisection, view.fixed)
    seen = {run.outcome for run in bisection.runs}
    view.outcomes = [(kind, words) for kind, words in OUTCOMES.items() if kind in seen]
    view.map = belief_map(bisection)
    view.rows = history_rows(bisection)
    view.sections += [("belief", "Belief"), ("runs", "Runs")]


def _diff_note(marks: list[str]) -> str:
    stack = sum(1 for mark in marks if mark.startswith(("on the", "in ")))
    files = sum(1 for mark in marks if mark.startswith("has "))
    count = len(marks) - stack - files
    said = [f"{text.plural(stack, 'place')} on the crash's stack"] if stack else []
    said += (
        [text.plural(files, "file with a function of the stack", "files with functions of the stack")]
        if files and not stack
        else []
    )
    said += (
        [text.plural(count, "line that gets or puts the reference", "lines that get or put the reference")]
        if count
        else []
    )
    if said:
        return f"Marked: {' and '.join(said)}."
    return "No line of this change is on the crash's stack: what it did showed later, elsewhere."


def _fill_culprit(view: View, case: CaseFile) -> None:
    if case.culprit is None:
        return
    frames = case.crash.stack if case.crash else ()
    lines = mark_diff(case.culprit.diff, frames)
    view.diff, view.diff_cut = cut_diff(lines, MOST_DIFF_LINES)
    if case.crash:
        view.diff_note = _diff_note([line.mark for line in lines if line.mark])
    view.sections.append(("culprit", "Culprit"))


def _frame_note(crash: Crash, frame: Frame, module: str | None) -> str | None:
    if crash.frame and frame.function == crash.frame and not frame.inline:
        return "named in the title"
    return "the module" if module and frame.module == module else None


def _fill_crash(view: View, crash: Crash, module: str | None) -> None:
    others = quoted(crash)
    rows = [(frame, _frame_note(crash, frame, module)) for frame in own_stack(crash, others)]
    view.quoted = [(one.heading, [(replace(f, context=None), None) for f in one.frames]) for one in others]
    view.frames = [row for row in rows if row[0].reliable]
    view.guesses = [row for row in rows if not row[0].reliable]
    # capstone takes 50 ms to load, which a page without a crash need not pay.
    from ktriage.symbols.code import read_code

    if code := read_code(crash):
        view.code = list(code.instructions)
        view.access = str(code.access) if code.access else ""
    cpu = f"CPU {crash.cpu}" if crash.cpu is not None else ""
    task = f"{crash.comm or 'task'} ({crash.pid})" if crash.pid is not None else crash.comm or ""
    view.where = ", ".join(part for part in (cpu, task) if part)
    view.sections.append(("crash", "Crash"))


def _fill_modules(view: View, case: CaseFile) -> None:
    module = case.vmcore.module if case.vmcore else None
    view.modules = compare_modules(case.modules_before, case.modules_after, module)
    view.modules_note = modules_note(view.modules)
    if case.vmcore:
        view.dumped = [m for m in case.vmcore.modules if module in (None, m.name)]
    if view.modules or case.vmcore:
        view.sections.append(("modules", "References"))


def build_view(case: CaseFile) -> View:
    """Compute what the page shows beside the case's own fields."""
    view = View()
    if case.bisection:
        _fill_bisection(view, case, case.bisection)
    _fill_culprit(view, case)
    if case.crash:
        _fill_crash(view, case.crash, case.vmcore.module if case.vmcore else None)
    _fill_modules(view, case)
    view.sections += [("mail", "Mail")] if case.mail else []
    view.sections += [("again", "Again")] if case.commands else []
    return view


def outcome_words(kinds: Iterable[OutcomeKind]) -> list[tuple[OutcomeKind, str]]:
    """Return what some outcomes mean, for a legend."""
    return [(kind, OUTCOMES[kind]) for kind in kinds]


def _finalize(value: object) -> object:
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def environment() -> jinja2.Environment:
    """Return the environment of all pages: every value is stripped of what acts on a reader, and escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ktriage.case"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Runs on every value before it is escaped, so no template can forget it.
        finalize=_finalize,
    )
    environment.globals.update(
        percent=text.percent,
        duration=text.duration,
        size=text.size,
        plural=text.plural,
        shorten=text.shorten,
        version=__version__,
        fixed_runs=FIXED_RUNS,
        outcome_words=outcome_words,
        plot_count=plot_count,
    )
    return environment


def render_page(case: CaseFile) -> str:
    """Return the page of ``case`` as one HTML document; what the case lacks, the page leaves out."""
    return environment().get_template("page.html.j2").render(case=case, view=build_view(case))
