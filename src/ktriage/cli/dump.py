"""``ktriage dump``: what a vmcore tells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.cli import Parser
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

    from ktriage.console.types import Crash
    from ktriage.dump.core import Vmcore
    from ktriage.dump.types import ModuleState, TaskState

HELP = "Read a vmcore: what it is of, the crashes in its log, the modules and their reference counts."
EXAMPLE = "ktriage dump show vmcore --vmlinux /usr/lib/debug/boot/vmlinux-6.1.0-18-amd64 modules"

REPORTS = ("summary", "bt", "tasks", "modules", "log")


class _Intermixed(Parser):
    """A parser that takes the report's name after options, too."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 (argparse's own)
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Intermixed)
    show = verbs.add_parser("show", help="print a report about a dump", description=HELP)
    show.add_argument("vmcore", metavar="VMCORE", type=Path, help="ELF or kdump-compressed dump")
    show.add_argument("report", nargs="?", choices=REPORTS, default="summary", help="what to print (summary)")
    show.add_argument("--vmlinux", metavar="FILE", type=Path, help="the kernel with debug information")
    show.add_argument(
        "--modules", metavar="DIR", type=Path, action="append", default=[],
        help="module file, or folder of them, with debug information",
    )  # fmt: skip
    show.add_argument(
        "--task", metavar="PID|NAME", action="append", default=[],
        help="bt: of these tasks (default: of those that were running)",
    )  # fmt: skip
    show.add_argument("--src", metavar="DIR", type=Path, help="source tree: show the lines around each place")
    show.add_argument("--all", action="store_true", help="bt: of all tasks, the most common stack first")
    show.add_argument("--json", action="store_true", help="print JSON Lines")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage dump``."""
    from ktriage.dump.core import open_vmcore

    if args.src is not None and not args.src.is_dir():
        raise UserError(f"{args.src}: no such directory", path=str(args.src))
    core = open_vmcore(args.vmcore, args.vmlinux, args.modules)
    reports = {"summary": _summary, "bt": _stacks, "tasks": _tasks, "modules": _modules, "log": _log}
    reports[args.report](core, args)
    for note in core.notes:
        sys.stderr.write(f"ktriage dump: {note}\n")
    return 0


def _print(data: object) -> None:
    sys.stdout.write(json.dumps(data) + "\n")


def _show(*parts: RenderableType) -> None:
    """Print for a person; into a file or a pipe with lines as long as they are, and none padded."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
        return
    console = Console(highlight=False, width=200, color_system=None)
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _summary(core: Vmcore, args: argparse.Namespace) -> None:
    from dataclasses import replace

    from rich.text import Text

    from ktriage.case.terminal import render_crash
    from ktriage.case.text import clean, duration, plural, size
    from ktriage.dump.summary import summarize
    from ktriage.symbols.symbolize import Symbolizer

    summary, crashes, _ = summarize(core)
    kernel = core.program.main_module().debug_file_path
    symbolizer = Symbolizer(Path(kernel) if kernel else args.vmlinux, args.modules)
    crashes = [replace(symbolizer.crash(crash), source=summary.path) for crash in crashes]
    core.notes += symbolizer.notes
    if args.json:
        _print(summary.to_json())
        for crash in crashes:
            _print(crash.to_json())
        return
    up = duration(summary.seconds) if summary.seconds is not None else "unknown"
    for name, value in (
        ("kernel", f"Linux {summary.release} {summary.machine}, {summary.version}"),
        ("host", summary.hostname),
        ("up", up),
        (
            "machine",
            f"{plural(summary.cpus, 'CPU')}, {size(summary.memory)}, {plural(summary.tasks, 'task')}",
        ),
        ("taints", summary.taints.strip() or "none"),
        ("panic", summary.panic or "none: the kernel was dumped while it ran"),
    ):
        _show(Text(f"{name:<8} ", "dim").append(clean(value), "default"))
    groups: dict[object, list[Crash]] = {}
    for crash in crashes:
        groups.setdefault((crash.title, crash.stack), []).append(crash)
    for same in groups.values():
        _show("", render_crash(same[0], len(same), args.src))
    if not crashes:
        _show("", "no crash in the kernel's log")


def _modules(core: Vmcore, args: argparse.Namespace) -> None:
    from rich.table import Table

    from ktriage.dump import module_states

    modules = module_states(core)
    if args.json:
        for module in modules:
            _print(module.to_json())
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("module", "size", "count", "stored", "state", "taints", "core", "used by"):
        right = name in ("size", "count", "stored")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "used by")
    for module in modules:
        below = module.refcnt is not None and module.refcnt < 0
        table.add_row(*_row(module), style="bold red" if below else "")
    _show(table)


def _row(module: ModuleState) -> tuple[str, ...]:
    from ktriage.case.text import clean

    start = next((start for name, start, _ in module.ranges if name in ("core", "text")), 0)
    counts = ("-", "-") if module.refcnt is None else (str(module.refcnt), str(module.refcnt_raw))
    users = clean(", ".join(module.users))
    return (clean(module.name), str(module.size), *counts, module.state, module.taints, f"{start:#x}", users)


def _tasks(core: Vmcore, args: argparse.Namespace) -> None:
    from rich.table import Table
    from rich.text import Text

    from ktriage.case.text import clean, duration
    from ktriage.dump import tasks

    if args.json:
        for task in tasks(core):
            _print(task.to_json())
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("pid", "name", "state", "cpu", "since", "waits in"):
        table.add_column(name, justify="right" if name in ("pid", "cpu", "since") else "left", no_wrap=True)
    for task in tasks(core):
        name = f"[{clean(task.comm)}]" if task.kernel else clean(task.comm)
        since = duration(task.seconds) if task.seconds is not None else "-"
        where = "running" if task.running else task.waits_in or "-"
        table.add_row(str(task.pid), Text(name), task.state, str(task.cpu), since, where)
    _show(table)


def _stacks(core: Vmcore, args: argparse.Namespace) -> None:
    from rich.text import Text

    from ktriage.case.terminal import render_stack
    from ktriage.case.text import clean
    from ktriage.dump import running_tasks, tasks

    chosen = list(tasks(core)) if args.all or args.task else running_tasks(core)
    if args.task:
        chosen = [task for task in chosen if {str(task.pid), task.comm} & set(args.task)]
        if not chosen:
            raise UserError(f"{core.path}: no task {' or '.join(args.task)}", hint="`tasks` lists them")
    if args.json:
        for task in chosen:
            _print(task.to_json())
        return
    groups: dict[object, list[TaskState]] = {}
    for task in chosen:
        groups.setdefault(task.stack if args.all else task.address, []).append(task)
    for same in sorted(groups.values(), key=len, reverse=True):
        names = ", ".join(f"{clean(task.comm)} ({task.pid}) {task.state}" for task in same)
        _show(Text(names, "bold"), render_stack(same[0].stack, src=args.src), "")


def _log(core: Vmcore, args: argparse.Namespace) -> None:
    from ktriage.dump.log import log_text, read_log

    lines = read_log(core.program)
    if args.json:
        for line in lines:
            _print(line.to_json())
        return
    sys.stdout.write(log_text(lines))
