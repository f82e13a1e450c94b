"""The findings about one bug on a terminal: what the demo and a bisection of VMs end with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ktriage.case import text
from ktriage.case.modules import compare_modules, modules_note
from ktriage.case.page import history_rows
from ktriage.case.types import FIXED_RUNS, Bisection, CaseFile, fixed_cost
from ktriage.console.quoted import own_stack, quoted
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from ktriage.case.types import Run, Vmcore
    from ktriage.console.types import Crash, Frame

MOST_FRAMES = 14

LETTERS = {
    OutcomeKind.CRASHED: ("x", "bold red"),
    OutcomeKind.OK: (".", "green"),
    OutcomeKind.OTHER_CRASH: ("!", "yellow"),
    OutcomeKind.HUNG: ("H", "magenta"),
    OutcomeKind.BUILD_FAILED: ("B", "bright_black"),
    OutcomeKind.BOOT_FAILED: ("L", "bright_black"),
    OutcomeKind.INFRA: ("?", "bright_black"),
}
"""One letter an outcome: strips of runs have to read without colour and in any font."""


def strip(runs: Sequence[Run]) -> Text:
    """Return the outcomes of some runs as one letter each, in order."""
    line = Text()
    for run in runs:
        letter, style = LETTERS[run.outcome]
        line.append(letter, style)
    return line


def legend(outcomes: set[OutcomeKind]) -> Text:
    """Say what the letters of a strip mean, for those that occur."""
    line = Text()
    for kind, (letter, style) in LETTERS.items():
        if kind in outcomes:
            line.append("  " if line else "")
            line.append(letter, style)
            line.append(f" {kind}", "dim")
    return line


def _head(words: str) -> Text:
    return Text(f"\n{words}", "bold")


def _verdict(case: CaseFile, bisection: Bisection) -> RenderableType:
    ranked = bisection.candidates()
    body = Text()
    if bisection.verdict == "culprit" and ranked:
        best = ranked[0]
        body.append("Fix      " if bisection.kind == "fix" else "Culprit  ", "bold")
        body.append(best.short, "bold yellow")
        body.append(f" {text.clean(best.subject)}\n", "bold")
        author = case.culprit.author if case.culprit else best.author
        body.append(f"         {text.clean(author)}\n" if author else "")
        body.append(f"         {text.percent(best.probability)}", "bold green")
        if len(ranked) > 1:
            second = ranked[1]
            body.append(f"; runner-up {text.percent(second.probability)}: ")
            body.append(f"{second.short} {text.clean(second.subject)}", "dim")
    else:
        body.append(f"No culprit: {bisection.verdict}. {text.clean(bisection.reason)}", "bold")
        for commit in ranked[:5]:
            body.append(f"\n         {text.percent(commit.probability):>8}  {commit.short} ")
            body.append(text.clean(commit.subject))
    for note in bisection.notes:
        body.append(f"\n         {text.clean(note)}")
    return body


def _cost(bisection: Bisection) -> RenderableType:
    fixed = fixed_cost(bisection)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "runs", "revisions", "builds", "time"):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    table.add_row(
        "this bisection",
        f"{len(bisection.runs):,}",
        str(bisection.revisions()),
        str(bisection.builds),
        text.duration(bisection.seconds),
    )
    table.add_row(
        f"a fixed {FIXED_RUNS} runs a revision",
        f"{fixed.runs:,}",
        str(fixed.revisions),
        str(fixed.revisions),
        f"~ {text.duration(fixed.seconds)}",
    )
    return table


def _history(bisection: Bisection) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="ellipsis", no_wrap=True, max_width=44)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for row in history_rows(bisection):
        table.add_row(
            Text(row.commit.short, "bold yellow" if row.culprit else "yellow"),
            Text(text.clean(row.commit.subject), "bold" if row.culprit else ""),
            strip(row.runs),
            text.percent(row.commit.probability),
        )
    return Group(table, Text(), legend({run.outcome for run in bisection.runs}))


def _frame(frame: Frame) -> tuple[Text, Text]:
    name = Text(("  " if frame.inline else "") + text.clean(frame.function))
    if frame.offset is not None:
        name.append(f"+{frame.offset:#x}" + (f"/{frame.size:#x}" if frame.size is not None else ""), "dim")
    if frame.module:
        name.append(f" [{text.clean(frame.module)}]", "cyan")
    place = f"{text.clean(frame.file)}:{frame.line}" if frame.file else ""
    return name, Text(place + (" (inline)" if frame.inline else ""), "dim")


def render_source(root: Path, frame: Frame) -> RenderableType | None:
    """Return the lines of the tree ``root`` around a frame's place, or None where it has none."""
    from ktriage.symbols.source import frame_source

    lines = frame_source(root, frame)
    if not lines:
        return None
    width = len(str(lines[-1].number))
    return Group(
        *(
            Text(f"    {'>' if line.here else ' '} {line.number:>{width}}  {text.clean(line.text)}", style)
            for line in lines
            for style in ["bold" if line.here else "dim"]
        )
    )


def render_stack(stack: Sequence[Frame], most: int | None = None, src: Path | None = None) -> RenderableType:
    """Return the frames of a stack with their source lines; only the first ``most``.

    With ``src``, a source tree, the lines around each place come after its frame.
    """
    if src is not None:
        return Group(*_with_source(stack[:most], src))
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for frame in stack[:most]:
        table.add_row(*_frame(frame))
    more = len(stack) - most if most else 0
    tail = [Text(f"  and {text.plural(more, 'frame')} more", "dim")] if more > 0 else []
    return Group(Padding(table, (0, 0, 0, 2), expand=False), *tail)


def _with_source(stack: Sequence[Frame], src: Path) -> Iterator[RenderableType]:
    for frame in stack:
        name, place = _frame(frame)
        yield Text("  ").append_text(name).append("  ").append_text(place)
        lines = render_source(src, frame)
        if lines is not None:
            yield lines


def render_crash(crash: Crash, times: int = 1, src: Path | None = None) -> RenderableType:
    """Return a crash's title, how often it was seen, and its reliable frames with their source lines."""
    from ktriage.symbols.code import read_code

    code = read_code(crash)
    others = quoted(crash)
    frames = [frame for frame in own_stack(crash, others) if frame.reliable]
    stacks = [Text(f"  {text.clean(str(one))}") for one in others]
    title = Text(text.clean(crash.title), "red").append(f", {times} times" if times > 1 else "", "default")
    access = [Text(f"  {code.access}")] if code and code.access else []
    return Group(title, *access, render_stack(frames, MOST_FRAMES, src), *stacks)


def _modules(case: CaseFile) -> RenderableType:
    module = case.vmcore.module if case.vmcore else None
    rows = compare_modules(case.modules_before, case.modules_after, module)
    lines = [
        Text(f"  {text.clean(row.name)}: {row.before} before, {row.after} after", "red" if row.bad else "")
        for row in rows
    ]
    note = modules_note(rows)
    return Group(*lines, *([Text(f"  {text.clean(note)}")] if note else []))


def render_vmcore(vmcore: Vmcore) -> RenderableType:
    """Return where a dump is and the state of the module in it, or why it was not read."""
    size = f" ({text.size(vmcore.size)})" if vmcore.size else ""
    lines = [Text(f"  {text.clean(vmcore.path)}{size}")]
    for module in vmcore.modules:
        if vmcore.module in (None, module.name):
            users = ", ".join(module.users) or "none by linking"
            count = "not kept" if module.refcnt is None else f"{module.refcnt} (stored: {module.refcnt_raw})"
            lines.append(Text(f"  {text.clean(module.name)}: {module.state}, count {count}, users {users}"))
    if vmcore.note:
        lines.append(Text(f"  {text.clean(vmcore.note)}", "dim"))
    return Group(*lines)


def render_terminal(case: CaseFile) -> RenderableType:
    """Return the summary of ``case`` for a rich console; it is plain text without a terminal."""
    parts: list[RenderableType] = []
    if case.bisection:
        parts += [_verdict(case, case.bisection), Text(), _cost(case.bisection)]
        parts += [_head("Runs"), _history(case.bisection)]
    if case.crash:
        parts += [_head("The crash"), render_crash(case.crash)]
    if case.modules_after is not None:
        parts += [_head("/proc/modules"), _modules(case)]
    if case.vmcore:
        parts += [_head("The guest's memory"), render_vmcore(case.vmcore)]
    for command, words in case.commands:
        parts += [_head(words), Text(f"  {command}")]
    return Group(*parts)
