# SPDX-License-Identifier: GPL-2.0-only
"""Hooks of MkDocs.

The page reference/cli.md is made of the command line's own parser when the site is built: so no command and
no option can be missing from it, or be described otherwise than ``--help`` does. And links out of docs/,
which lead somewhere in a checkout, become paths.
"""

from __future__ import annotations

import argparse
import posixpath
import re
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

from ktriage.cli import full_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

PAGE = "reference/cli.md"
WIDTH = 90
HEAD = """\
# The command line

Every command with all of its options, as `--help` prints them: this page is made from the program itself.
What `--json` prints, and how commands end, is in [JSON and exit codes](json.md).

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page about the command line to the site's files."""
    files.append(File.generated(config, PAGE, content=reference()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Return a page without links out of docs/: the text with the file's path in the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def inside(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if re.match(r"[a-z]+:", target) or not path.startswith("../"):
            return link[0]
        path = path.removeprefix("../")
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}` in the repository)"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", inside, markdown)


def reference() -> str:
    """Return the page about the command line, as Markdown."""
    commands = below(full_parser())
    listing = "".join(f"- [`{sub.prog}`](#{anchor(sub)}): {plain(why)}\n" for sub, why in commands)
    return HEAD + listing + "\n" + "\n".join(line for sub, _ in commands for line in section(sub, 2)) + "\n"


def below(parser: argparse.ArgumentParser) -> list[tuple[argparse.ArgumentParser, str]]:
    """Return a parser's commands, each with its line of help."""
    for action in parser._actions:  # noqa: SLF001 (argparse has no other way)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            return [(sub, helps.get(name, "")) for name, sub in action.choices.items()]
    return []


def section(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Yield the lines about one command, and those about the commands below it."""
    yield f"{'#' * level} {parser.prog}\n"
    yield f"{plain(parser.description or '')}\n"
    subs = below(parser)
    if not subs:
        yield f"```text\n{usage(parser)}\n```\n"
        yield from table(parser)
    if parser.epilog:
        # "example:", and the command in its line or in the next one
        yield f"Example:\n\n```text\n{parser.epilog.partition(':')[2].strip()}\n```\n"
    for sub, _ in subs:
        yield from section(sub, level + 1)


def table(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the table of a command's arguments."""
    formatter = argparse.HelpFormatter(parser.prog, width=1000)
    yield "| argument | |\n|---|---|"
    for action in parser._actions:  # noqa: SLF001
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        name = formatter._format_action_invocation(action)  # noqa: SLF001
        said = formatter._expand_help(action) if action.help else ""  # noqa: SLF001
        yield f"| `{name}` | {plain(said)} |"
    yield ""


def usage(parser: argparse.ArgumentParser) -> str:
    """Return how the command is called, folded."""
    formatter = argparse.HelpFormatter(parser.prog, width=WIDTH)
    groups = parser._mutually_exclusive_groups  # noqa: SLF001
    formatter.add_usage(parser.usage, parser._actions, groups, prefix="")  # noqa: SLF001
    return formatter.format_help().rstrip()


def anchor(parser: argparse.ArgumentParser) -> str:
    """Return the name of a command's section, which is the one that MkDocs gives it."""
    return parser.prog.replace(" ", "-")


def plain(text: str) -> str:
    """Return text in which nothing but code in backticks is Markdown's, on one line."""
    pieces = " ".join(text.split()).split("`")
    for at in range(0, len(pieces), 2):
        for char in "\\*_>[]|":
            pieces[at] = pieces[at].replace(char, f"\\{char}")
        pieces[at] = pieces[at].replace("<", "&lt;")
    return "`".join(pieces)
