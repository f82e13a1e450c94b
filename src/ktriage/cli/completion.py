"""``ktriage completion``: what a shell completes command lines with; and the man page."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ktriage import __version__
from ktriage.cli import full_parser
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = "Print a shell's completion of ktriage's commands and options, or the man page."
EXAMPLE = "ktriage completion bash >~/.local/share/bash-completion/completions/ktriage"
SHELLS = ("bash", "zsh", "tcsh")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "kind", choices=(*SHELLS, "man"), help="a shell, or `man` for the manual page ktriage.1"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage completion``."""
    sys.stdout.write(manual() if args.kind == "man" else completion(args.kind))
    return 0


def completion(shell: str) -> str:
    """Return what ``shell``, one of SHELLS, completes ktriage's command lines with.

    Raises UserError where shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise UserError("the package shtab is not installed", hint="pip install shtab") from None
    return shtab.complete(full_parser(), shell=shell) + "\n"


def manual() -> str:
    """Return the manual page, in man(7)'s form: all commands with their options."""
    lines = [
        f'.TH KTRIAGE 1 "" "ktriage {__version__}" "User Commands"',
        ".SH NAME",
        "ktriage \\- from a Linux kernel crash to a name",
        ".SH SYNOPSIS",
        ".B ktriage",
        ".I COMMAND",
        "[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        _plain(
            "ktriage takes a Linux kernel crash from the first line on the console to a name: what broke, on"
            " which line, which reference was lost, which commit did it, and whom to write to."
        ),
        ".SH COMMANDS",
        *(line for parser in _subcommands(full_parser()) for line in _section(parser)),
        ".SH EXIT STATUS",
        "0: done. 1: the answer is no, which each command says the meaning of. 2: bad input or usage.",
        ".SH FILES",
        _plain("~/.cache/ktriage: kernels, guests, builds. ~/.local/share/ktriage/case.db: the case store."),
    ]
    return "\n".join(lines) + "\n"


def _section(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield what the page says of one command, and of the commands below it."""
    yield f".SS {_plain(parser.prog)}"
    yield _plain(parser.description or "")
    below = _subcommands(parser)
    if not below:
        yield from _usage(parser)
    for sub in below:
        yield from _section(sub)


def _usage(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = argparse.HelpFormatter(parser.prog, width=78)
    groups = parser._mutually_exclusive_groups  # noqa: SLF001 (argparse has no other way)
    formatter.add_usage(parser.usage, parser._actions, groups, prefix="")  # noqa: SLF001
    yield from (".PP", ".nf", _plain(formatter.format_help().rstrip()), ".fi")
    for action in parser._actions:  # noqa: SLF001
        if action.help not in (None, argparse.SUPPRESS) and action.dest != "help":
            yield from (".TP", f"\\fB{_plain(formatter._format_action_invocation(action))}\\fR")  # noqa: SLF001
            yield _plain(formatter._expand_help(action))  # noqa: SLF001


def _subcommands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return list(action.choices.values())
    return []


def _plain(text: str) -> str:
    """Return text as roff takes it: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())
