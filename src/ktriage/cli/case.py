"""``ktriage case``: the bugs in the store, on a terminal."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

    from ktriage.case.store import Store
    from ktriage.case.store.types import Bug

HELP = "The bugs in the case store: list and search them, say what became of them, merge and split them."
EXAMPLE = "ktriage case list --state open --sort crashes tcp ulp"
STATES = ("open", "fixed", "invalid", "duplicate")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="bugs that have all these words")
    listing.add_argument("words", nargs="*", metavar="WORD", help="in titles, functions and files")
    listing.add_argument("--state", choices=STATES, help="only in this state")
    listing.add_argument("--function", metavar="NAME", help="only with this function on a stack")
    listing.add_argument(
        "--sort", choices=("last", "first", "crashes", "title"), default="last", help="order (last)"
    )
    listing.add_argument("--limit", metavar="N", type=int, default=50, help="at most so many (50)")
    show = verbs.add_parser("show", help="all that is known of a bug")
    mark = verbs.add_parser("mark", help="say what became of a bug")
    merge = verbs.add_parser("merge", help="make a bug a part of another")
    split = verbs.add_parser("split", help="give a title's crashes a bug of their own")
    prune = verbs.add_parser("prune", help="keep the logs of a bug's best crashes only")
    check = verbs.add_parser("check", help="whether counts and logs agree with the crashes")
    check.add_argument("--mend", action="store_true", help="set counts to what the crashes say")
    check.add_argument("--content", action="store_true", help="read all that is kept, too")
    for verb in (show, mark, merge, split):
        verb.add_argument("bug", metavar="BUG", type=int)
    mark.add_argument("state", choices=STATES)
    mark.add_argument("--by", metavar="COMMIT", help="fixed: by this commit")
    mark.add_argument("--of", metavar="BUG", type=int, help="duplicate: of this bug")
    merge.add_argument("into", metavar="INTO", type=int)
    split.add_argument("title", metavar="TITLE")
    configure_prune(prune)
    for verb in (listing, show, mark, merge, split, check):
        _common(verb)


def configure_prune(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of pruning, which is a command, too."""
    parser.add_argument("--keep", metavar="N", type=int, default=40, help="crashes a bug (40)")
    parser.add_argument("--days", metavar="D", type=float, help="nothing older than so many days")
    _common(parser)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", metavar="PLACE", help="the store: a file or a PostgreSQL URL")
    parser.add_argument("--json", action="store_true", help="print JSON Lines")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage case``."""
    from ktriage.case.store import open_store
    from ktriage.case.store.types import BugState

    store = open_store(args.case)
    try:
        match args.verb:
            case "list":
                return _list(store, args)
            case "mark":
                store.mark(args.bug, BugState(args.state), fixed_by=args.by, duplicate_of=args.of)
            case "merge":
                store.merge(args.bug, args.into)
                args.bug = args.into
            case "split":
                args.bug = store.split(args.bug, args.title)
            case "prune":
                return prune(store, args)
            case "check":
                return _check(store, args)
        return _show(store, args)
    finally:
        store.close()


def prune(store: Store, args: argparse.Namespace) -> int:
    """Prune, and say what went."""
    from dataclasses import asdict

    from ktriage.case.text import plural, size

    if args.keep < 0:
        raise UserError("--keep: at least 0")
    before = time.time() - args.days * 86400 if args.days is not None else None
    gone = store.prune(args.keep, before=before)
    if args.json:
        sys.stdout.write(json.dumps({"kind": "pruned", **asdict(gone)}) + "\n")
    else:
        sys.stdout.write(
            f"{plural(gone.crashes, 'crash', 'crashes')} lost their logs; {size(gone.bytes)} given back\n"
        )
    return 0


def _check(store: Store, args: argparse.Namespace) -> int:
    """Say what does not agree; return 1 where there is something that was not mended."""
    from dataclasses import asdict

    from ktriage.case.store.check import check
    from ktriage.case.text import plural

    wrong = check(store, mend=args.mend, blobs_too=args.content)
    for one in wrong:
        sys.stdout.write((json.dumps({"kind": "wrong", **asdict(one)}) if args.json else str(one)) + "\n")
    left = check(store, blobs_too=args.content) if args.mend and wrong else wrong
    if not args.json:
        mended = f", {len(left)} left" if args.mend and wrong else ""
        sys.stdout.write(f"{plural(len(wrong), 'thing does', 'things do')} not agree{mended}\n")
    return 1 if left else 0


def _list(store: Store, args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from ktriage.case.store.types import BugState
    from ktriage.case.text import clean

    state = BugState(args.state) if args.state else None
    text = " ".join(args.words)
    bugs, total = store.bugs(text=text, state=state, function=args.function, sort=args.sort, limit=args.limit)
    if args.json:
        for bug in bugs:
            sys.stdout.write(json.dumps(bug.to_json()) + "\n")
        return 0
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("bug", "crashes", "last seen", "state", "title"):
        table.add_column(
            name, justify="right" if name in ("bug", "crashes") else "left", no_wrap=name != "title"
        )
    for bug in bugs:
        table.add_row(str(bug.id), str(bug.crashes), _day(bug.last_seen), _state(bug), clean(bug.title))
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=160, color_system=None)
    console.print(table)
    if total > len(bugs):
        sys.stderr.write(f"{total - len(bugs)} more: --limit shows them\n")
    return 0


def _show(store: Store, args: argparse.Namespace) -> int:
    from ktriage.case.formats import bundle
    from ktriage.case.formats.markdown import markdown

    one = bundle(store, args.bug)
    if args.json:
        data = {
            **one.bug.to_json(),
            "titles": dict(one.titles),
            "findings": [f.to_json() for f in one.findings],
        }
        sys.stdout.write(json.dumps(data) + "\n")
        return 0
    text = markdown(one)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        sys.stdout.write(text)
    return 0


def _state(bug: Bug) -> str:
    if bug.duplicate_of is not None:
        return f"duplicate of {bug.duplicate_of}"
    return f"fixed by {bug.fixed_by[:12]}" if bug.fixed_by else str(bug.state)


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
