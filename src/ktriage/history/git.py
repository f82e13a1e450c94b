"""Calling git as a program."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    from pathlib import Path

# What git sets for hooks and aliases would make it look at another repository than the one asked for.
_FOREIGN = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"),
    *("GIT_COMMON_DIR", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"),
)
# In English, asking nothing, and leaving the index of the user's checkout alone.
_OURS = {"LC_ALL": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_PAGER": "cat"}


class GitError(MachineryError):
    """A git command that failed. ``data`` has ``argv``, ``code`` and ``stderr``."""


def clean_environment() -> dict[str, str]:
    """Return the environment without what would make git look at another repository."""
    return {name: value for name, value in os.environ.items() if name not in _FOREIGN}


def git(where: Path, *args: str, stdin: str | int | None = None, env: dict[str, str] | None = None) -> str:
    """Return what ``git -C where args`` prints, undecodable bytes kept as surrogates. Runs no hook.

    ``stdin`` is a text, or the descriptor of a file; ``env`` is added to its environment.
    Raises ``GitError`` where git fails, ``UserError`` where there is no git.
    """
    argv = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false", "-C", str(where), *args]
    try:
        done = subprocess.run(
            argv,
            input=stdin if isinstance(stdin, str) else None,
            stdin=subprocess.DEVNULL if stdin is None else stdin if isinstance(stdin, int) else None,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=clean_environment() | _OURS | (env or {}),
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed", hint="apt-get install git") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        command = next((arg for arg in args if not arg.startswith("-")), "")
        raise GitError(
            f"git {command} in {where}: {lines[0]}", argv=argv, code=done.returncode, stderr=done.stderr
        )
    return done.stdout
