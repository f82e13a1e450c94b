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
from typing import NoReturn

from ktriage import __version__
from ktriage.errors import KtriageError

COMMANDS = {
    "report": "read console logs into crashes",
    "bisect": "find the commit that brought a crash, with a probability",
    "repro": "run a reproducer on a kernel in VMs and tell its crash rate",
    "dump": "read a vmcore",
    "mail": "write the mail to a culprit's maintainers",
    "demo": "crash a real kernel in VMs and find the commit that did it",
}


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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS)
    if command in COMMANDS:
        module = importlib.import_module(f"ktriage.cli.{command}")
        sub = commands.add_parser(
            command,
            help=COMMANDS[command],
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(sub)
        sub.set_defaults(run=module.run)
    return parser


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
