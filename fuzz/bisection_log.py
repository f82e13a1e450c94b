"""Fuzz the reading of other tools' bisection logs: a log and a judgement of it, or one ``UserError``.

usage: fuzz/bisection_log.py [--cpu-minutes N] [--max-mb N] [LIBFUZZER-OPTION]... [INPUT]...

It begins with two short logs of its own; more can be put into ``~/.cache/ktriage/fuzz/bisection_log``.
"""

from __future__ import annotations

import json

import atheris

with atheris.instrument_imports(include=["ktriage"]):
    from ktriage.errors import UserError
    from ktriage.jobs.audit import audit

from harness import fuzz
from ktriage.cache import cache_root

A, B, C = ("0123456789abcdef0123456789abcdef01234567"[i:] + "0" * i for i in range(3))
SYZBOT = f"""\
bisecting cause commit starting from {A}
building syzkaller on {B}
testing commit {A} with gcc (GCC) 8.1.0
kernel signature: 12ab
run #0: crashed: KASAN: use-after-free Read in f
run #1: OK
run #2: boot failed: can't ssh into the instance
testing release v4.19
testing commit {C} with gcc (GCC) 8.1.0
all runs: OK
# git bisect start {A} {C}
Bisecting: 6789 revisions left to test after this (roughly 13 steps)
[{B}] net: a title
testing commit {B} with gcc (GCC) 8.1.0
all runs: crashed: KASAN: use-after-free Read in f
# git bisect bad {B}
{B} is the first bad commit
commit {B}
Author: A Person <a@example.org>
Date:   Mon Jan 1 00:00:00 2018 +0000

    net: a title

 net/a.c | 2 +-
culprit signature: 12ab
parent  signature: 34cd
revisions tested: 3, total time: 1h2m3.4s (build: 30m, test: 31m)
first bad commit: {B} net: a title
cc: ["a@example.org" "b@example.org"]
crash: KASAN: use-after-free Read in f
"""
GIT = f"""\
git bisect start
# bad: [{A}] a title
git bisect bad {A}
# good: [{C}] another
git bisect good {C}
# skip: [{B}] one more
git bisect skip {B}
# first bad commit: [{A}] a title
"""
_PLACE = cache_root() / "fuzz" / "bisection.log"
WORDS = (
    *("run #0: ", "all runs: ", "testing commit ", " with ", "kernel signature: ", "crashed: ", "OK"),
    *("# git bisect good ", "# git bisect bad ", "# git bisect skip ", "Bisecting: 1 revisions left to test"),
    *("is the first bad commit", "first bad commit: ", "cc: [", "recipients (to): [", "crash: ", "error: "),
    *("revisions tested: ", ", total time: ", "1h2m3.4s", "accumulated error probability: ", "flaky"),
    *(
        "2020/01/01 00:00:00 ",
        "> ",
        "\r\n",
        "boot failed: ",
        "lost connection to test machine",
        "git bisect ",
    ),
    *("bisecting fixing commit since ", "testing release ", "the crash still happens on HEAD", A, B, C),
)


def target(data: bytes) -> None:
    """Read and judge a log, as ``ktriage bisect audit`` does."""
    _PLACE.write_bytes(data)
    try:
        found = audit(str(_PLACE))
    except UserError as error:
        assert "\n" not in error.message, error.message
        return
    assert all(revision.name for revision in found.log.revisions)
    json.dumps(found.to_json(), allow_nan=False)


if __name__ == "__main__":
    _PLACE.parent.mkdir(parents=True, exist_ok=True)
    fuzz("bisection_log", target, [SYZBOT.encode(), GIT.encode()], WORDS)
