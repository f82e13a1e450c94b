"""``ktriage fleet``: the workers of a cluster, and what waits for them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

HELP = "Show a cluster's workers, how many guests each can hold and runs, and what waits."
EXAMPLE = "ktriage fleet tcp://ci.example.org:8786"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("scheduler", metavar="ADDRESS", help="the scheduler, tcp:// or tls://")
    parser.add_argument("--json", action="store_true", help="print an object a worker, and one for the queue")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage fleet``."""
    from rich.console import Console
    from rich.table import Table

    from ktriage.case.text import clean, size
    from ktriage.jobs.cluster import fleet

    workers, queue = fleet(args.scheduler)
    if args.json:
        for worker in workers:
            _print({"kind": "worker", **worker})
        _print({"kind": "queue", **queue})
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("worker", "address", "guests", "busy", "memory", "last heard of"):
        table.add_column(name, justify="right" if name in ("guests", "busy", "memory") else "left")
    for worker in workers:
        table.add_row(
            clean(str(worker["name"])), worker["address"], str(worker["vms"]), str(worker["running"]),
            size(int(worker["memory"])), f"{worker['quiet']:.0f} s ago",
        )  # fmt: skip
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
    sys.stdout.write(f"{queue['running']} running, {queue['waiting']} waiting, {queue['failed']} failed\n")
    return 0


def _print(data: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
