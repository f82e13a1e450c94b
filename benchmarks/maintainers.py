#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Who is told of a file: ktriage, and the kernel's own scripts/get_maintainer.pl, which it must agree with.

usage: maintainers.py [--tree DIR] [-n FILES] [--seed N] [FILE]...

Each of so many files of the tree, chosen by the seed, is asked about by itself, with default options and
no git history, and the addresses are compared. Without ``--tree``, Debian's linux-source package of 6.1 is
taken, fetched once (142 MB). Every difference is printed. ktriage's time is that of a process which reads
MAINTAINERS once and then answers for one file after the other; the script reads it anew for each, so it is
also asked about all the files at once, which gives no answer for any one of them.

The script goes through sections that are equally specific in the order of a Perl hash, which changes from
call to call: where these name one person by two addresses, either may come. So where the answers differ, it
is asked again a few times, which does not count as its time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from ktriage.kernel.tree import packaged_source
from ktriage.people.addresses import split_address
from ktriage.people.tree import People

GOAL_RATIO = 50
AGAIN = 12
"""How often the script is asked again; of two answers each comes with a chance of a half."""
OPTIONS = ("--no-git", "--no-git-fallback", "--no-rolestats")
OWN = "--answer"
"""Asks this program, in a process of its own, for what ktriage says of the files on its standard input."""


def choose(tree: Path, number: int, seed: int) -> list[str]:
    """Return ``number`` files of a tree, paths from its top."""
    found = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(name for name in folders if name != ".git")
        paths = (Path(folder) / name for name in sorted(names))
        found += [str(path.relative_to(tree)) for path in paths if path.is_file() and not path.is_symlink()]
    return random.Random(seed).sample(found, min(number, len(found)))


def script(tree: Path, files: list[str]) -> set[str]:
    """Return the addresses that get_maintainer.pl has for files, in lower case."""
    command = ["perl", "scripts/get_maintainer.pl", *OPTIONS, "-f", *files]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        sys.exit(f"get_maintainer.pl: {done.stderr.strip()}")
    return {split_address(line)[1].lower() for line in done.stdout.splitlines()} - {""}


def answer(tree: Path) -> int:
    """Print a JSON list of addresses for each file on standard input."""
    people = People.of_folder(tree)
    for path in sys.stdin.read().splitlines():
        found = people.collect({path: (tree / path).read_bytes()})
        print(json.dumps(sorted(recipient.address.lower() for recipient in found.all())))
    return 0


def ask_ktriage(tree: Path, files: list[str]) -> tuple[list[set[str]], float]:
    """Return what ktriage says of each file, and the seconds that the whole process took."""
    began = time.perf_counter()
    command = [sys.executable, __file__, OWN, "--tree", str(tree)]
    done = subprocess.run(command, input="\n".join(files), capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return [set(json.loads(line)) for line in done.stdout.splitlines()], seconds


def main() -> int:
    """Compare, print, and fail where the two differ or ktriage is not fast enough."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="these, in place of random ones")
    parser.add_argument("--tree", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(OWN, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    tree = args.tree or packaged_source()
    if args.answer:
        return answer(tree)
    files = args.files or choose(tree, args.n, args.seed)
    ours, own_seconds = ask_ktriage(tree, files)
    seconds = 0.0
    differ, wavering = 0, []
    for number, (path, addresses) in enumerate(zip(files, ours, strict=True), 1):
        began = time.perf_counter()
        theirs = script(tree, [path])
        seconds += time.perf_counter() - began
        if theirs != addresses and any(script(tree, [path]) == addresses for _ in range(AGAIN)):
            wavering.append(path)
        elif theirs != addresses:
            differ += 1
            print(f"{path}: only the script: {sorted(theirs - addresses)}", end="; ")
            print(f"only ktriage: {sorted(addresses - theirs)}")
        if number % 100 == 0:
            print(f"{number} of {len(files)} files, {differ} differ", file=sys.stderr)
    began = time.perf_counter()
    script(tree, files)
    at_once = time.perf_counter() - began
    ratio = seconds / own_seconds
    for path in wavering:
        print(f"{path}: the script says now one thing, now another; ktriage always one of them")
    print(f"same recipients for {len(files) - differ} of {len(files)} files (seed {args.seed})")
    print(f"ktriage            {own_seconds:8.2f} s, {1000 * own_seconds / len(files):.2f} ms a file")
    each = 1000 * seconds / len(files)
    print(f"get_maintainer.pl  {seconds:8.2f} s, {each:.0f} ms a file: {ratio:.0f} times as long")
    print(f"  all in one call  {at_once:8.2f} s: {at_once / own_seconds:.1f} times as long, one list for all")
    good = not differ and ratio >= GOAL_RATIO
    print(f"goal: no difference, {GOAL_RATIO} times faster: {'reached' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
