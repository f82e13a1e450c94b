"""``ktriage dump``: what a vmcore tells."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.cli import BUG, KEEP, Parser, dump_collect, dump_shell, tls
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from rich.console import RenderableType

    from ktriage.dump.core import Vmcore
    from ktriage.dump.types import ModuleState, TaskState

HELP = (
    "Read a vmcore: what is wrong in it and on what that stands; stacks, modules, waits, works, interrupts."
)
EXAMPLE = "ktriage dump show vmcore --vmlinux /usr/lib/debug/boot/vmlinux-6.1.0-18-amd64 modules"

REPORTS = ("summary", "bt", "tasks", "modules", "audit", "waits", "works", "teardown", "irqs", "log")


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
    show.add_argument(
        "report", nargs="*", choices=(*REPORTS, "all"), default="summary",
        help="what to print: " + ", ".join(REPORTS) + " or all (summary)", metavar="REPORT",
    )  # fmt: skip
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
    show.add_argument(
        "--all", action="store_true",
        help="bt: of all tasks, the most common stack first; audit: every holder; waits: whole stacks",
    )  # fmt: skip
    show.add_argument(
        "--earlier", metavar="VMCORE", type=Path, help="irqs: another dump of the boot, for rates"
    )
    show.add_argument("--ledger", metavar="FILE", type=Path, help="audit: what `refs read --json` printed")
    show.add_argument("--case", metavar="PLACE", help=f"summary: {KEEP}, and all other reports with it")
    show.add_argument("--bug", metavar="N", type=int, help=BUG)
    show.add_argument("--json", action="store_true", help="print JSON Lines")
    show.add_argument("--cluster", metavar="ADDRESS", help="have a worker of this Dask scheduler do it")
    # What a worker does in place of --case: the store is with the driver.
    show.add_argument("--kept", metavar="FILE", type=Path, help=SUPPRESS)
    tls.configure(show)
    dump_shell.configure(verbs.add_parser("shell", help="open drgn on it", description=dump_shell.HELP))
    dump_collect.configure(
        verbs.add_parser("collect", help="copy /proc/vmcore", description=dump_collect.HELP)
    )


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage dump``."""
    if args.verb != "show":
        verb = dump_shell.run if args.verb == "shell" else dump_collect.run
        return verb(args)
    from ktriage.dump.core import open_vmcore

    if args.src is not None and not args.src.is_dir():
        raise UserError(f"{args.src}: no such directory", path=str(args.src))
    chosen = [args.report] if isinstance(args.report, str) else args.report
    chosen = list(REPORTS) if "all" in chosen else chosen
    if args.cluster:
        from ktriage.cli.dump_cluster import show_away

        return show_away(args, chosen)
    core = open_vmcore(args.vmcore, args.vmlinux, args.modules)
    from ktriage.dump.diagnosis import attempt

    for index, name in enumerate(chosen):
        if index and not args.json:
            _show("")
        report = _report(name)
        attempt(core, name, partial(report, core, args), None)
    for note in core.notes:
        sys.stderr.write(f"ktriage dump: {note}\n")
    return 0


def _report(name: str) -> Callable[[Vmcore, argparse.Namespace], None]:
    """Return what prints a report; those of other files are imported when they are asked for."""
    here = {"bt": _stacks, "tasks": _tasks, "modules": _modules, "audit": _audit, "log": _log}
    if name in here:
        return here[name]
    from ktriage.cli import dump_irqs, dump_summary, dump_waits, dump_works

    there = {
        "summary": dump_summary.show_summary,
        "waits": dump_waits.show_waits,
        "works": dump_works.show_works,
        "teardown": dump_works.show_teardown,
        "irqs": dump_irqs.show_irqs,
    }
    return partial(there[name], show=_show)


def _print(data: object) -> None:
    sys.stdout.write(json.dumps(data) + "\n")


TEXT_WIDTH = 110


def _show(*parts: RenderableType) -> None:
    """Print for a person; into a file or a pipe text is folded at 110, tables are as wide as they are."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    if sys.stdout.isatty():
        Console(highlight=False).print(*map(_indented, parts), sep="\n")
        return
    for part in parts:
        wide = isinstance(part, (str, Text, Padding))
        console = Console(highlight=False, width=TEXT_WIDTH if wide else 200, color_system=None)
        with console.capture() as capture:
            console.print(_indented(part))
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))


def _indented(part: RenderableType) -> RenderableType:
    """Fold a text that begins with spaces below its first word."""
    from rich.padding import Padding
    from rich.text import Text

    if not isinstance(part, Text):
        return part
    indent = len(part.plain) - len(part.plain.lstrip(" "))
    return Padding(part[indent:], (0, 0, 0, indent)) if indent else part


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


def _audit(core: Vmcore, args: argparse.Namespace) -> None:
    from ktriage.cli.dump_audit import show_audit

    show_audit(core, args, _show)


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
