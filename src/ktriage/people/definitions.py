"""In which files of a source tree functions are defined, as well as a line of C tells."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

OURS = "arch/x86/"
"""Of several architectures' functions, the one of this is meant."""
_NAME = re.compile(r"[A-Za-z_]\w*")


def where_defined(tree: Path, functions: Iterable[str], revision: str | None = None) -> dict[str, str]:
    """Return the file of each function that one file alone defines, paths from the top of the tree.

    With ``revision`` it is the git repository's at that; else the folder as it stands. A definition begins
    its line with the function's type, as the kernel's coding style has it, and does not end with a semicolon.
    Raises UserError where there is no such tree.
    """
    names = sorted({name for name in functions if _NAME.fullmatch(name)})
    if not names:
        return {}
    # Words are found much faster than expressions: most of the lines that are left are calls.
    words = [word for name in names for word in ("-e", f"{name}(")]
    command = [
        "git",
        "-C",
        str(tree),
        "grep",
        "-I",
        "--no-color",
        "-F",
        *([] if revision else ["--no-index"]),
    ]
    command += [*words, *([revision] if revision else []), "--", "*.c"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode not in (0, 1):
        raise UserError(f"{tree}: {(done.stderr.strip() or 'can not be searched').splitlines()[0]}")
    definition = re.compile(
        rf"(?P<file>[^:]+):(?:[a-z_][\w *]*[ *])?(?P<name>{'|'.join(names)})\(.*[^;\s]\s*"
    )
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        match = definition.fullmatch(line.removeprefix(f"{revision}:") if revision else line)
        if match:
            found.setdefault(match["name"], set()).add(match["file"])
    return {name: file for name, files in found.items() if (file := _only(files)) is not None}


def _only(files: set[str]) -> str | None:
    """Return the one file that is meant, or None."""
    if len(files) > 1 and all(file.startswith("arch/") for file in files):
        files = {file for file in files if file.startswith(OURS)}
    return next(iter(files)) if len(files) == 1 else None
