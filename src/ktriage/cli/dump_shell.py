"""``ktriage dump shell``: drgn's prompt with the dump open, debug information loaded, and the findings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ktriage.dump.core import Vmcore

HELP = "Open drgn on a dump, with everything loaded and what ktriage found as variables."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("vmcore", metavar="VMCORE", type=Path, help="dump, or a QEMU guest's QMP socket")
    parser.add_argument("--vmlinux", metavar="FILE", type=Path, help="the kernel with debug information")
    parser.add_argument(
        "--modules", metavar="DIR", type=Path, action="append", default=[],
        help="module file, or folder of them, with debug information",
    )  # fmt: skip
    parser.add_argument("--exec", metavar="FILE", type=Path, help="run this Python file in place of a prompt")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage dump shell``."""
    import runpy

    from drgn.cli import default_globals, run_interactive

    from ktriage.dump.core import open_vmcore

    if args.exec is not None and not args.exec.is_file():
        raise UserError(f"{args.exec}: no such file", path=str(args.exec))
    core = open_vmcore(args.vmcore, args.vmlinux, args.modules)
    found = findings(core)
    for note in core.notes:
        sys.stderr.write(f"ktriage dump: {note}\n")
    if args.exec is not None:
        runpy.run_path(str(args.exec), {**default_globals(core.program), **found}, "__main__")
        return 0
    if not sys.stdin.isatty():
        raise UserError("standard input is no terminal", hint="--exec FILE runs a script")
    run_interactive(
        core.program,
        banner_func=lambda _: f"{core.path}: Linux {core.release}. Here are: {', '.join(found)}",
        globals_func=lambda names: {**names, **found},
    )
    return 0


def findings(core: Vmcore) -> dict[str, Any]:
    """Return what was found, by the name that it has at the prompt."""
    from ktriage.dump import module_states, summarize, tasks
    from ktriage.dump.fault import find_fault

    summary, crashes, log = summarize(core)
    every: dict[str, Callable[[], Any]] = {
        "modules": lambda: module_states(core),
        "all_tasks": lambda: list(tasks(core)),
        "fault": lambda: find_fault(core, crashes),
    }
    found: dict[str, Any] = {"core": core, "summary": summary, "crashes": crashes, "log": log}
    return found | {name: make() for name, make in every.items()}
