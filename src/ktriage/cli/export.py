"""``ktriage export``: what the case store holds, in forms that others read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ktriage.case.formats import BugBundle
    from ktriage.case.formats.junit import TrialCase
    from ktriage.case.store import Store

HELP = (
    "Write bugs in a form that others read: KCIDB's (version 5), syzbot's JSON, Markdown, mbox, JSON Lines;"
    " or a folder of trials as JUnit XML."
)
EXAMPLE = "ktriage export --format kcidb --origin mylab --state open -o report.json"
FORMATS = ("json", "kcidb", "syzbot", "markdown", "mbox", "junit")
_PAGE = 200


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("trials", nargs="?", metavar="DIR", type=Path, help="junit: a folder of trials")
    parser.add_argument("--format", choices=FORMATS, default="json", help="what to write (json)")
    parser.add_argument("--case", metavar="PLACE", help="the store: a file or a PostgreSQL URL")
    parser.add_argument("--bug", metavar="N", type=int, action="append", default=[], help="these bugs (all)")
    parser.add_argument(
        "--state", choices=("open", "fixed", "invalid", "duplicate"), help="bugs in this state"
    )
    parser.add_argument("--origin", metavar="NAME", default="ktriage", help="kcidb: the CI system's name")
    parser.add_argument("--sender", metavar="ADDRESS", default="ktriage@localhost", help="mbox: who writes")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write (standard output)")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage export``."""
    if (args.format == "junit") != (args.trials is not None):
        raise UserError("junit takes a folder of trials, the other formats take bugs of the store")
    data = _junit(args.trials) if args.format == "junit" else _bugs(args)
    if args.output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        draft = args.output.with_name(f".{args.output.name}.new")
        draft.write_bytes(data)
        draft.replace(args.output)
    return 0


def _bugs(args: argparse.Namespace) -> bytes:
    from ktriage.case.formats.kcidb import kcidb
    from ktriage.case.formats.markdown import markdown
    from ktriage.case.formats.mbox import mbox
    from ktriage.case.formats.syzbot import syzbot
    from ktriage.case.store import open_store

    store = open_store(args.case)
    try:
        found = _found(store, args)
        match args.format:
            case "kcidb":
                return json.dumps(kcidb(found, args.origin), indent=1).encode() + b"\n"
            case "syzbot":
                return b"".join(json.dumps(syzbot(one)).encode() + b"\n" for one in found)
            case "markdown":
                return "\n".join(markdown(one) for one in found).encode(errors="replace")
            case "mbox":
                return mbox(found, args.sender)
            case _:
                return b"".join(json.dumps(_plain(one)).encode() + b"\n" for one in found)
    finally:
        store.close()


def _found(store: Store, args: argparse.Namespace) -> Iterator[BugBundle]:
    from ktriage.case.formats import bundle
    from ktriage.case.store.types import BugState

    if args.bug:
        yield from (bundle(store, number) for number in args.bug)
        return
    state = BugState(args.state) if args.state else None
    offset = 0
    while page := store.bugs(state=state, sort="title", limit=_PAGE, offset=offset)[0]:
        yield from (bundle(store, bug.id) for bug in page)
        offset += len(page)


def _plain(one: BugBundle) -> dict[str, object]:
    return {
        **one.bug.to_json(),
        "titles": dict(one.titles),
        "reports": [{**report, "when": entry.when} for entry, report in one.crashes],
        "findings": [finding.to_json() for finding in one.findings],
    }


def _junit(folder: Path) -> bytes:
    from ktriage.case.formats.junit import junit

    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory", path=str(folder))
    trials = sorted(_trials(folder), key=lambda trial: trial.name)
    if not trials:
        raise UserError(f"{folder}: no trials in it", hint="`ktriage repro run` says where it keeps them")
    return junit(folder.name, trials).encode()


def _trials(folder: Path) -> Iterator[TrialCase]:
    from ktriage.case.formats.junit import TrialCase
    from ktriage.words import OutcomeKind

    for path in folder.rglob("outcome.json"):
        try:
            data = json.loads(path.read_text())
            crash = data.get("crash") or {}
            yield TrialCase(
                name=str(path.parent.relative_to(folder)),
                outcome=OutcomeKind(data["kind"]),
                seconds=float((data.get("seconds") or {}).get("run", 0.0)),
                title=data.get("title"),
                text=str(crash.get("text") or ""),
                detail=str(data.get("detail") or ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            sys.stderr.write(f"ktriage export: {path}: not a trial's outcome\n")
