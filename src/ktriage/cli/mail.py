"""``ktriage mail``: the mail to a culprit's people, written to a file and never sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.cli import BUG, KEEP
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

    from ktriage.jobs.mail_parts import Wishes
    from ktriage.people.recipients import Recipient

HELP = (
    "Write the mail to the people of a bisection's culprit or, where no commit is known, to those who look\n"
    "after the file that a crash report points to. It is never sent."
)
EXAMPLE = "ktriage mail --log bisection.jsonl --repo ~/linux --cc netdev@vger.kernel.org -o mail.eml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--log", metavar="FILE", type=Path, help="the bisection's log")
    parser.add_argument("--repo", metavar="DIR", type=Path, help="the repository (default: the log's)")
    parser.add_argument(
        "--tree", metavar="DIR", type=Path, help="without a bisection: the kernel's source, with --report"
    )
    parser.add_argument("--rev", metavar="REV", help="with --tree, a git repository: its revision")
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="PATH",
        help="with --tree: the file to write about, in place of the one that the report points to",
    )
    parser.add_argument("--report", metavar="LOG", type=Path, help="console log to quote the crash from")
    parser.add_argument("--vmlinux", metavar="FILE", type=Path, help="the kernel, for lines in the report")
    parser.add_argument(
        "--modules", metavar="DIR", type=Path, action="append", default=[], help="modules, for the same"
    )
    parser.add_argument(
        "--reproducer", metavar="FILE", type=Path, help="a text that says how to reproduce it"
    )
    parser.add_argument("--from", dest="sender", metavar="ADDRESS", help="sender (default: git's user)")
    parser.add_argument("--to", action="append", default=[], metavar="ADDRESS", help="a further recipient")
    parser.add_argument("--cc", action="append", default=[], metavar="ADDRESS", help="a further copy")
    parser.add_argument("--ignore", metavar="FILE", type=Path, help="addresses to leave out, one a line")
    parser.add_argument("--in-reply-to", metavar="ID", help="Message-Id (default: from the commit's Link:)")
    parser.add_argument("--regzbot", action="store_true", help="add a line for the regression tracker")
    parser.add_argument("--case", metavar="PLACE", help=KEEP)
    parser.add_argument("--bug", metavar="N", type=int, help=BUG)
    parser.add_argument("--json", action="store_true", help="print the recipients and the mail as JSON")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="write here instead of to stdout")


def run(args: argparse.Namespace) -> int:
    """Write the mail; 1 where the bisection named no culprit."""
    if (args.log is None) == (args.tree is None):
        raise UserError("a bisection's --log, or the kernel's --tree with a --report: one of them")
    if args.tree is not None:
        text, recipients = _about_report(args)
    else:
        written = _about_culprit(args)
        if written is None:
            return 1
        text, recipients = written
    _tell(recipients)
    if args.case:
        from ktriage.jobs.keeping import keep_mail

        keep_mail(args.case, text, [recipient.to_json() for recipient in recipients], bug=args.bug)
    if args.json:
        text = json.dumps({"recipients": [r.to_json() for r in recipients], "mail": text}) + "\n"
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


def _about_culprit(args: argparse.Namespace) -> tuple[str, list[Recipient]] | None:
    from ktriage.bisect.log import read_log
    from ktriage.jobs.mail import MailRequest, write_mail

    # Its own file behind standard input: the reader takes paths.
    log = read_log(Path("/dev/stdin") if str(args.log) == "-" else args.log)
    answer = log.end
    if answer is None:
        raise UserError(f"{args.log}: this bisection has not ended", hint=f"ktriage bisect resume {args.log}")
    if answer.culprit is None:
        sys.stderr.write(f"ktriage mail: {args.log} names no culprit: {answer.verdict}\n")
        return None
    return write_mail(
        MailRequest(
            log=log,
            repo=args.repo or Path(log.start.repo),
            report=args.report,
            regzbot=args.regzbot,
            wishes=_wishes(args),
        )
    )


def _about_report(args: argparse.Namespace) -> tuple[str, list[Recipient]]:
    from ktriage.jobs.mail_report import ReportRequest, write_report_mail

    if args.report is None:
        raise UserError("--tree needs the console log with the crash", hint="--report LOG")
    if args.regzbot:
        raise UserError("#regzbot introduced: names a commit, and none is known", hint="bisect it first")
    return write_report_mail(
        ReportRequest(
            report=args.report,
            tree=args.tree,
            revision=args.rev,
            files=tuple(args.file),
            wishes=_wishes(args),
        )
    )


def _wishes(args: argparse.Namespace) -> Wishes:
    from ktriage.jobs.mail_parts import Wishes

    return Wishes(
        reproducer=args.reproducer,
        sender=args.sender,
        to=tuple(args.to),
        cc=tuple(args.cc),
        ignore=args.ignore,
        in_reply_to=args.in_reply_to,
        vmlinux=args.vmlinux,
        modules=tuple(args.modules),
    )


def _tell(recipients: list[Recipient]) -> None:
    """Say on stderr who gets the mail and why: the reason does not stand in the mail itself."""
    for recipient in recipients:
        who = f"{recipient.name} <{recipient.address}>" if recipient.name else recipient.address
        sys.stderr.write(f"{recipient.field}: {who} ({', '.join(recipient.reasons)})\n")
