"""``ktriage bisect audit``: read and judge a bisection log that another tool wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

HELP = "read and judge a bisection that another tool made"
DESCRIPTION = """Reads syzbot's bisection logs of any age and what git bisect log prints: every revision with
its runs, the commit that is named, what the runs support, what can be doubted, and which runs would settle
it. The exit code is 0 where the log could be read."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("log", metavar="LOG", help="the log, compressed or not; - is standard input")
    parser.add_argument("--repo", type=Path, metavar="DIR", help="weigh the commits of this repository")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write an HTML page too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Audit the log and print what was found."""
    from ktriage.jobs.audit import audit

    found = audit(args.log, args.repo)
    if args.page is not None:
        from ktriage.case.audit_page import render_audit_page

        try:
            args.page.write_text(render_audit_page(found), encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(f"{args.page}: {error.strerror}", path=str(args.page)) from error
    if args.json:
        sys.stdout.write(json.dumps(found.to_json()) + "\n")
        return 0
    from rich.console import Console

    from ktriage.case.audit import render_audit

    Console(highlight=False).print(render_audit(found))
    if args.page is not None:
        sys.stderr.write(f"the page: {args.page}\n")
    return 0
