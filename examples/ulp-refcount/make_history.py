#!/usr/bin/env python3
"""Make the git repository with the history of ``ulp_tally`` from the patches in ``history/``.

The history is kept as patches in ``git am`` format, because people who read kernel code read these
every day, and a git repository cannot stand inside another one. ``history/series`` says in which order
they go on, where a branch leaves and where it is merged. Authors, dates and messages are all fixed, so
each commit gets the same hash on every machine, and the ``Fixes:`` lines in the messages hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HISTORY = Path(__file__).resolve().parent / "history"
MAINTAINER = ("Ilse Varga", "ilse.varga@example.org")
GOOD, BAD = "v0.1", "v0.3"
"""The tags between which the bug came in."""

MARKS = frozenset({"no-build", "dies-at-load", "flaky-from", "flaky-until", "culprit", "same-module"})


class HistoryError(Exception):
    """The history could not be made: the destination is taken, the series is wrong, or git failed."""


@dataclass(frozen=True, slots=True)
class History:
    """A repository just made. Commits are full hashes.

    ``marks`` says by commit what is special about it, in the words that ``history/series`` explains.
    """

    repo: Path
    good: str
    bad: str
    culprit: str
    marks: Mapping[str, str]


@dataclass(slots=True)
class _Maker:
    repo: Path
    marks: dict[str, str] = field(default_factory=dict)

    def git(self, *args: str, date: str | None = None) -> str:
        """Run git with nothing of this machine's configuration, as the maintainer at ``date``."""
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "HOME": os.devnull,
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DEFAULT_HASH": "sha1",
            "GIT_COMMITTER_NAME": MAINTAINER[0],
            "GIT_COMMITTER_EMAIL": MAINTAINER[1],
            "GIT_AUTHOR_NAME": MAINTAINER[0],
            "GIT_AUTHOR_EMAIL": MAINTAINER[1],
        }
        if date is not None:
            env |= {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
        command = ["git", "-C", str(self.repo), "-c", "gc.auto=0", "-c", "maintenance.auto=false", *args]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise HistoryError("git is not installed") from error
        if done.returncode:
            raise HistoryError(f"git {args[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def apply(self, patches: list[tuple[str, str]]) -> None:
        """Put a run of patches, each with its mark or an empty string, on the branch that is checked out."""
        files = [str(HISTORY / name) for name, _ in patches]
        self.git("am", "--quiet", "--committer-date-is-author-date", *files)
        commits = self.git("rev-list", "--reverse", f"--max-count={len(patches)}", "HEAD").split()
        self.marks |= {commit: mark for commit, (_, mark) in zip(commits, patches, strict=True) if mark}

    def step(self, verb: str, rest: str) -> None:
        """Do what one line of the series says that is no patch."""
        match verb:
            case "branch":
                self.git("checkout", "--quiet", "-b", rest)
            case "checkout":
                self.git("checkout", "--quiet", rest)
            case "tag":
                self.git("tag", rest)
            case "merge":
                branch, date, text = rest.split(maxsplit=2)
                message = f"Merge branch '{branch}'\n\n{text}"
                self.git("merge", "--quiet", "--no-ff", "-m", message, branch, date=date)
            case _:
                raise HistoryError(f"history/series: no such word: {verb}")


def _series() -> Iterator[tuple[str, str]]:
    """Yield the lines of history/series as (first word, rest), without comments and empty lines."""
    for line in (HISTORY / "series").read_text(encoding="utf-8").splitlines():
        head, _, rest = line.partition("#")[0].strip().partition(" ")
        if head:
            yield head, rest.strip()


def make_history(dest: Path) -> History:
    """Make the repository in ``dest``, a folder that is empty or not there yet; takes about a second.

    The main branch is checked out afterwards. Raises HistoryError.
    """
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise HistoryError(f"{dest} is there already and not an empty folder")
    dest.mkdir(parents=True, exist_ok=True)
    maker = _Maker(dest)
    maker.git("init", "--quiet", "--template=", "--initial-branch=main")
    patches: list[tuple[str, str]] = []
    for word, rest in _series():
        if word.endswith(".patch"):
            if rest and rest not in MARKS:
                raise HistoryError(f"history/series: no such mark: {rest}")
            patches.append((word, rest))
            continue
        if patches:
            maker.apply(patches)
            patches = []
        maker.step(word, rest)
    culprits = [commit for commit, mark in maker.marks.items() if mark == "culprit"]
    if patches or len(culprits) != 1:
        raise HistoryError("history/series must end with a tag and name one culprit")
    good, bad = (maker.git("rev-parse", f"{tag}^{{commit}}") for tag in (GOOD, BAD))
    return History(dest, good, bad, culprits[0], maker.marks)


def main() -> int:
    """Make the repository in the folder that is named, and print good, bad and culprit as JSON."""
    parser = argparse.ArgumentParser(description="Make the git history of the ulp_tally module.")
    parser.add_argument("dest", type=Path, help="folder to make it in: empty, or not there yet")
    args = parser.parse_args()
    try:
        made = make_history(args.dest)
    except (HistoryError, OSError) as error:
        print(f"make_history: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"good": made.good, "bad": made.bad, "culprit": made.culprit}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
