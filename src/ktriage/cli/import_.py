"""``ktriage import``: folders of logs into the case store."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.case.text import plural
from ktriage.cli import tls
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

    from ktriage.case.store import Store
    from ktriage.jobs.importing import Imported, Readers

HELP = (
    "Read logs into the case store: files, folders of them, syz-manager's crash folders, journald's exports."
    " A log that is there already adds nothing."
)
EXAMPLE = "ktriage import --jobs 2 /var/lib/syz-manager/crashes last-night/*.log.zst"
_TELL_SECONDS = 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("paths", nargs="+", metavar="DIR|FILE", type=Path, help="logs, or folders of them")
    parser.add_argument("--case", metavar="PLACE", help="the store: a file or a PostgreSQL URL")
    parser.add_argument("--jobs", metavar="N", type=int, help="processes that read (as many as processors)")
    parser.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="have the workers of this Dask scheduler read; the store stays here",
    )
    parser.add_argument(
        "--keep", metavar="N", type=int, default=40, help="crashes of a bug to keep logs of (40)"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 where a bug is new")
    parser.add_argument(
        "--json", action="store_true", help="print an object a log, and one for all at the end"
    )
    tls.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage import``."""
    from ktriage.case.store import open_store
    from ktriage.jobs.importing import import_logs

    if args.jobs is not None and args.jobs < 1:
        raise UserError("--jobs: at least 1")
    if args.keep < 0:
        raise UserError("--keep: at least 0")
    tls.apply(args)
    with ExitStack() as stack:
        store = stack.enter_context(closing(open_store(args.case)))
        readers = _away(stack, args.cluster, store) if args.cluster else None
        meter = stack.enter_context(closing(_Meter(as_json=args.json)))
        import_logs(store, args.paths, jobs=args.jobs, keep=args.keep, tell=meter, readers=readers)
    return 1 if args.exit_code and meter.new else 0


def _away(stack: ExitStack, address: str, store: Store) -> Readers:
    from ktriage.jobs.fleet.cluster import connected
    from ktriage.jobs.fleet.crew import crew_of
    from ktriage.jobs.fleet.importing import Away

    client = stack.enter_context(connected(address))
    crew = crew_of(client, address, _note)
    return Away(stack.enter_context(closing(crew)), store)


def _note(line: str) -> None:
    sys.stderr.write(f"ktriage import: {line}\n")


class _Meter:
    """Counts, and says now and then how far it is."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._began = self._last = time.monotonic()
        self._counts = dict.fromkeys(("logs", "known", "unreadable", "crashing"), 0)
        self._bugs: set[int] = set()
        self.new: set[int] = set()

    def __call__(self, one: Imported) -> None:
        self._counts["logs"] += 1
        self._counts["known"] += one.known
        self._counts["unreadable"] += one.error is not None
        self._counts["crashing"] += bool(one.bugs)
        self._bugs.update(one.bugs)
        self.new.update(one.new)
        if self._json:
            said = {"kind": "imported", "source": one.source, "bugs": one.bugs, "new": one.new,
                    "known": one.known, "error": one.error}  # fmt: skip
            sys.stdout.write(json.dumps(said) + "\n")
        elif one.error is not None:
            self._clear()
            sys.stderr.write(f"ktriage import: {one.source}: {one.error}\n")
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._last > _TELL_SECONDS:
            self._last = now
            rate = self._counts["logs"] / (now - self._began)
            sys.stderr.write(
                f"\r\x1b[K{self._counts['logs']} logs, {rate:.0f} a second, {len(self.new)} new bugs"
            )
            sys.stderr.flush()

    def close(self) -> None:
        """Say what it came to."""
        self._clear()
        seconds = time.monotonic() - self._began
        if self._json:
            said = {"kind": "import", **self._counts, "bugs": len(self._bugs), "new": len(self.new),
                    "seconds": round(seconds, 3)}  # fmt: skip
            sys.stdout.write(json.dumps(said) + "\n")
            return
        counts = self._counts
        sys.stdout.write(
            f"{plural(counts['logs'], 'log')} in {seconds:.1f} s: {counts['crashing']} with crashes of "
            f"{plural(len(self._bugs), 'bug')}, {len(self.new)} of them new; "
            f"{counts['known']} known already, {counts['unreadable']} unreadable\n"
        )

    def _clear(self) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
