"""``ktriage fleet``: the workers of a cluster, what they do, and what waits for them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ktriage.cli import tls
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

    from rich.console import RenderableType

HELP = (
    "Show a cluster's workers: how many guests each can hold, what it runs and for how long, the room that is"
    " left for its cache, whether its ktriage is this one; and what waits."
)
EXAMPLE = "ktriage fleet tcp://ci.example.org:8786"
PIPE_WIDTH = 140


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("scheduler", metavar="ADDRESS", help="the scheduler, tcp:// or tls://")
    parser.add_argument("--json", action="store_true", help="print an object a worker, and one for the queue")
    parser.add_argument(
        "--watch", metavar="S", type=float, nargs="?", const=2.0, help="show it anew every S seconds (2)"
    )
    tls.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage fleet``."""
    if args.watch is not None and args.watch <= 0:
        raise UserError("--watch: more than 0 seconds")
    from ktriage.jobs.fleet.cluster import connected
    from ktriage.jobs.fleet.view import summary

    tls.apply(args)
    with connected(args.scheduler) as client:
        if args.watch is None:
            _once(*summary(client), as_json=args.json)
        elif args.json or not sys.stdout.isatty():
            while True:
                _once(*summary(client), as_json=args.json)
                sys.stdout.flush()
                time.sleep(args.watch)
        else:
            from rich.live import Live

            with Live(_table(*summary(client)), auto_refresh=False, screen=True) as live:
                while True:
                    time.sleep(args.watch)
                    live.update(_table(*summary(client)), refresh=True)
    return 0


def _once(workers: list[dict[str, Any]], queue: dict[str, Any], *, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        for worker in workers:
            sys.stdout.write(json.dumps({"kind": "worker", **worker}) + "\n")
        sys.stdout.write(json.dumps({"kind": "queue", **queue}) + "\n")
        return
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    Console(highlight=False, width=width).print(_table(workers, queue))


def _table(workers: list[dict[str, Any]], queue: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ktriage.case.text import clean, size

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("worker", "address", "guests", "disk left", "memory", "version", "does"):
        right = name in ("guests", "disk left", "memory")
        table.add_column(name, justify="right" if right else "left", no_wrap=name in ("address", "version"))
    for worker in workers:
        free = size(worker["free"]) if worker["free"] is not None else "-"
        version = (worker["version"] or {}).get("version", "-")
        table.add_row(
            clean(worker["name"]), worker["address"], f"{worker['running']}/{worker['vms']}", free,
            size(worker["memory"]), clean(version), _does(worker),
        )  # fmt: skip
    waits = ", ".join(f"{clean(name)} {count}" for name, count in queue["waits"].items())
    parts = [
        table if workers else Text("no worker"),
        Text(
            f"{queue['running']} running, {queue['waiting']} waiting{f' ({waits})' if waits else ''}, "
            f"{queue['failed']} failed"
        ),
    ]
    for name, one in [(f"worker {worker['name']}", worker) for worker in workers] + [
        ("the scheduler", queue)
    ]:
        if one["unlike"]:
            parts.append(Text(f"{clean(name)}: {clean(one['unlike'])}", "bold red"))
    return Group(*parts)


def _does(worker: dict[str, Any]) -> RenderableType:
    from rich.text import Text

    from ktriage.case.text import clean, duration

    lines = [
        f"{clean(one['kind'])} {clean(one['what'])}, {duration(one['seconds'])}" for one in worker["doing"]
    ]
    if worker["status"] == "stalled":
        lines.insert(0, f"stalled: not heard of for {duration(worker['quiet'])}")
    elif worker["status"] != "running":
        lines.insert(0, worker["status"].replace("_", " "))
    return Text("\n".join(lines or ["nothing"]), "bold red" if worker["status"] == "stalled" else "")
