"""``ktriage watch``: keep the crashes of logs as they come."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ktriage.jobs.watching import Seen

HELP = (
    "Watch folders, growing files, serial lines, pipes, sockets and journald (named `journal`), and keep what"
    " crashes in the case store. A serial line or a socket that goes away is waited for. Ends with 2 where a"
    " source could not be watched."
)
EXAMPLE = "ktriage watch /var/log/consoles /dev/ttyUSB0 journal"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="a folder, a file, a serial line, a pipe, a socket, `journal`, or journal:PATH (journals there)",
    )  # fmt: skip
    parser.add_argument(
        "--baud",
        type=int,
        default=115200,
        metavar="N",
        help="the speed of serial lines (default: %(default)s)",
    )
    parser.add_argument("--case", metavar="PLACE", help="the store: a file or a PostgreSQL URL")
    parser.add_argument("--json", action="store_true", help="print an object a crash")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage watch``."""
    from ktriage.case.store import open_store
    from ktriage.jobs.watching import watch

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    store = open_store(args.case)

    failed = False

    def tell(seen: Seen) -> None:
        nonlocal failed
        failed |= seen.failed
        if seen.note is not None:
            sys.stderr.write(f"ktriage watch: {seen.source}: {seen.note}\n")
        elif args.json:
            said: dict[str, object] = {"kind": "seen", "source": seen.source, "title": seen.title}
            said |= {"bug": seen.bug, "new": seen.new}
            sys.stdout.write(json.dumps(said) + "\n")
        else:
            bug = f"bug {seen.bug}{', new' if seen.new else ''}" if seen.bug is not None else "known"
            sys.stdout.write(f"{seen.source}: {seen.title} ({bug})\n")
        sys.stdout.flush()

    try:
        watch(store, args.sources, tell=tell, ended=ended, baud=args.baud)
    finally:
        store.close()
    return 2 if failed else 0
