"""The command line: one file a command, each imported only when it is called.

A command's module has ``HELP`` (one line), ``EXAMPLE`` (a command line), ``configure(parser)`` and
``run(args) -> int``. Rooms raise; only ``main`` turns errors into exit codes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from keyword import iskeyword
from typing import NoReturn

from ktriage import __version__
from ktriage.errors import KtriageError

COMMANDS = {
    "report": "read console logs into crashes",
    "bisect": "find the commit that brought a crash, with a probability",
    "repro": "run a reproducer on a kernel in VMs and tell its crash rate",
    "dump": "read a vmcore",
    "refs": "who holds a reference, who lost one: read traces, or record them",
    "import": "read folders of logs into the case store",
    "case": "the bugs in the case store",
    "export": "write bugs in forms that others read: KCIDB, syzbot, JUnit, mbox",
    "prune": "give back what the case store need not keep",
    "serve": "show the case store in a browser and as REST",
    "watch": "keep the crashes of logs as they come",
    "worker": "lend this machine's guests to a cluster",
    "fleet": "show a cluster's workers and its queue",
    "mail": "write the mail to a culprit's maintainers",
    "completion": "print a shell's completion, or the man page",
    "demo": "crash a real kernel in VMs and find the commit that did it",
}

KEEP = "keep what is found in this case store: a file, a PostgreSQL URL, or `default`"
BUG = "with --case: the bug that it belongs to (default: the one with its title)"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the error in one line, with where to read more, and exit with 2."""
        sys.stderr.write(f"{self.prog}: {message} (see {self.prog} --help)\n")
        raise SystemExit(2)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "commands:\n" + "\n".join(lines) + "\n\nktriage COMMAND --help tells more of each."


def build_parser(command: str | None) -> Parser:
    """Return the parser, with the arguments of ``command`` alone filled in."""
    parser = Parser(
        prog="ktriage",
        usage=None if command in COMMANDS else "ktriage [--version] COMMAND ...",
        description="From a Linux kernel crash to a name: what broke, on which line, which commit did it.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ktriage {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="ktriage"
    )
    if command in COMMANDS:
        _add(commands, command)
    return parser


def full_parser() -> Parser:
    """Return the parser with the arguments of all commands, which takes as long as loading all of them."""
    parser = build_parser(None)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001 (argparse has no other way)
    commands.help = "what to do"
    for command in COMMANDS:
        _add(commands, command)
    return parser


def _add(commands: argparse._SubParsersAction[Parser], command: str) -> None:
    module = importlib.import_module(f"ktriage.cli.{command}{'_' if iskeyword(command) else ''}")
    sub = commands.add_parser(
        command,
        help=COMMANDS[command],
        description=module.HELP,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(sub)
    sub.set_defaults(run=module.run)


def main(argv: list[str] | None = None) -> int:
    """Run ktriage and return its exit code: 0 done, 1 the answer is no, 2 bad input or usage."""
    argv = sys.argv[1:] if argv is None else argv
    command = next((word for word in argv if not word.startswith("-")), None)
    if command is not None and command not in COMMANDS and argv[0] == command:
        sys.stderr.write(f"ktriage: there is no command {command!r} (ktriage --help lists them)\n")
        return 2
    try:
        args = build_parser(command).parse_args(argv)
        if args.command is None:
            sys.stdout.write(build_parser(None).format_help())
            return 0
        return int(args.run(args))
    except KtriageError as error:
        sys.stderr.write(f"ktriage {command}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\nktriage {command}: interrupted\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away (head, less): not an error. Keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"ktriage {command}: {error.strerror or error}{where}\n")
        return 2
