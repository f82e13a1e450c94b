"""``ktriage demo``: the main job, on an example that comes with ktriage."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from ktriage.cli.repro import positive, print_json

HELP = (
    "Crash a real kernel in VMs, over a kernel module's history or a kernel's own, and find the commit that\n"
    "did it. Exit code 1: it was not found."
)
EXAMPLE = "ktriage demo --debuginfo"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ktriage demo``."""
    parser.add_argument(
        "--example",
        choices=("module", "kernel", "kernel-uaf"),
        default="module",
        help="which: a module with a lost reference in it (the default), a kernel that is built from its"
        " tree with the same, or with a use after free",
    )
    parser.add_argument(
        "--history-seed",
        type=int,
        metavar="N",
        help="put the kernel's bug into another place of its history (0)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="(ktriage-out/demo, or demo-kernel, demo-kernel-uaf)"
    )
    parser.add_argument(
        "--debuginfo", action="store_true", help="fetch the kernel's debug information (283 MB)"
    )
    parser.add_argument(
        "--jobs", type=positive, default=min(2, os.cpu_count() or 1), metavar="N", help="VMs at a time"
    )
    parser.add_argument("--confidence", type=float, default=0.998, metavar="P", help="when to stop (0.998)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the bisection's choices (0)"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage demo``."""
    from rich.console import Console

    from ktriage.bisect.types import Options
    from ktriage.case.terminal import render_terminal
    from ktriage.cli.bisect_view import open_view
    from ktriage.errors import UserError
    from ktriage.jobs.demo import EXAMPLES, run_demo

    example = EXAMPLES[args.example]
    if args.history_seed is not None:
        if args.example == "module":
            raise UserError("the module's history is always the same", hint="--example kernel")
        example = replace(example, arguments=(*example.arguments, "--seed", str(args.history_seed)))
    out = args.out or Path("ktriage-out") / "-".join(["demo", *args.example.split("-")]).removesuffix(
        "-module"
    )
    options = Options(confidence=args.confidence, jobs=args.jobs, seed=args.seed)
    with open_view(as_json=args.json, log=out / "bisection.jsonl") as view:
        demo = run_demo(
            out,
            options=options,
            example=example,
            debuginfo=args.debuginfo,
            observer=view,
            progress=view.note,
        )
    if args.json:
        print_json({**demo.answer.to_json(), "right": demo.right, "page": str(demo.conclusion.page)})
    else:
        console = Console()
        console.print(render_terminal(demo.conclusion.case))
        console.print(f"page: {demo.conclusion.page}")
        console.print("This is the commit that was planted." if demo.right else "Another commit was planted.")
    return 0 if demo.right else 1
