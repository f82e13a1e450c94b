"""``ktriage completion``: what a shell completes command lines with; and the man page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ktriage.cli import COMMANDS, full_parser
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse

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
    if args.kind == "man":
        sys.stdout.write(manual())
        return 0
    try:
        import shtab
    except ImportError:
        raise UserError("the package shtab is not installed", hint="pip install shtab") from None
    sys.stdout.write(shtab.complete(full_parser(), shell=args.kind) + "\n")
    return 0


def manual() -> str:
    """Return the manual page, in man(7)'s form."""
    from ktriage import __version__

    parser = full_parser()
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
    ]
    commands = next(action for action in parser._actions if hasattr(action, "choices") and action.choices)  # noqa: SLF001 (argparse has no other way)
    assert isinstance(commands.choices, dict)
    for name, sub in commands.choices.items():
        lines += [f".SS ktriage {name}", _plain(sub.description or COMMANDS[name])]
        lines += [".PP", ".nf", _plain(sub.format_help().split("\n\n")[0]), ".fi"]
    lines += [
        ".SH EXIT STATUS",
        "0: done. 1: the answer is no, which each command says the meaning of. 2: bad input or usage.",
        ".SH FILES",
        _plain("~/.cache/ktriage: kernels, guests, builds. ~/.local/share/ktriage/case.db: the case store."),
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return text as roff takes it: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in text.splitlines())
