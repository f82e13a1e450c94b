"""``ktriage dump collect``: bring a dump to where it is safe."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.errors import MachineryError

if TYPE_CHECKING:
    import argparse

HELP = "Copy /proc/vmcore: resumable, with a checksum, by makedumpfile where that is installed."
VMCORE = Path("/proc/vmcore")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("target", metavar="FILE", type=Path, help="where the dump is to be")
    parser.add_argument("--from", dest="source", metavar="DUMP", type=Path, default=VMCORE,
                        help="what to copy (/proc/vmcore)")  # fmt: skip
    parser.add_argument("--plain", action="store_true",
                        help="copy all of it, though makedumpfile is installed")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage dump collect``."""
    import shutil
    from dataclasses import asdict

    from ktriage.case.text import size
    from ktriage.dump.collect import check, collect, filtered

    check(args.source, args.target)
    made = None
    if not args.plain and shutil.which("makedumpfile") is not None:
        sys.stderr.write("makedumpfile is at work\n")
        try:
            made = filtered(args.source, args.target)
        except MachineryError as error:
            sys.stderr.write(f"ktriage dump: {error.message}: all of it is copied\n")
    made = made or collect(args.source, args.target, tell=_Meter())
    if args.json:
        sys.stdout.write(json.dumps({"kind": "collected", **asdict(made), "path": str(made.path)}) + "\n")
        return 0
    how = f"{made.how}, {size(made.resumed)} of it earlier" if made.resumed else made.how
    sys.stdout.write(f"{made.path}: {size(made.size)}, {how}\nsha256 {made.sha256}\n")
    if made.unreadable:
        sys.stderr.write(f"ktriage dump: {size(made.unreadable)} could not be read and are zeros\n")
    return 0


class _Meter:
    """Tells how far the copy is: on a terminal in place, else now and then."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        from ktriage.case.text import duration, size

        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._last < (0.2 if terminal else 30.0) and done < total:
            return
        self._last = now
        left = (now - self._began) / done * (total - done) if done else 0.0
        text = f"{size(done)} of {size(total)}, {duration(left)} left"
        sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if done == total else "") if terminal else f"{text}\n")
        sys.stderr.flush()
