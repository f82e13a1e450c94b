"""The lines of syzkaller's bisection logs, of every age: what each is, and its parts.

The forms are those that pkg/bisect, pkg/vcs, pkg/kconfig and pkg/bisect/minimize of google/syzkaller print,
from the first version of 2018 to 2025, and what git prints between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

HASH = "[0-9a-f]{7,64}"

_FORMS = {
    "run": r"run #(\d{1,6}): (.*)",
    "all": r"all runs: (.*)",
    "testing": rf"testing commit ({HASH})(?: with)?(?: (.*))?",
    "compiler": r"compiler: (.+)",
    "signature": r"kernel signature: (\S+)",
    "representative": r"representative crash: (.*)",
    "left": r"Bisecting: (?:(\d{1,9}) revisions? left to test|a merge base must be tested)",
    "title": rf"\[({HASH})\] (.*)",
    "verdict": r"# git bisect (good|bad|skip) (\S+)",
    "start": r"# git bisect start (\S+) (\S+)",
    "cause": rf"bisecting cause commit starting from ({HASH})",
    "fix": rf"bisecting fixing commit since ({HASH})",
    "original": rf"ensuring issue is reproducible on original commit ({HASH})",
    "rewritten": rf"rewritten commit ({HASH}) reidentified by title '(.*)'",
    "release": r"testing release (\S+)",
    "head": rf"testing current HEAD ({HASH})",
    "base": rf"({HASH})/(.*) is a merge base, check if it has the bug",
    "check_base": rf"checking the merge base ({HASH})",
    "bare": rf"({HASH})$",
    "found": rf"({HASH}) is (?:the )?first '?(?:bad|good)'? commit",
    "commit": rf"commit ({HASH})$",
    "author": r"Author: +(.+)",
    "merge": r"Merge: +[0-9a-f]+",
    "date": r"(?:AuthorDate|CommitDate|Date): ",
    "raw": r":[0-7]{6} ([0-7]{6}) [0-9a-f.]+ [0-9a-f.]+ [A-Z]\d*\t(.+)",
    "stat": r" (\S.*?) +\| +(?:\d+|Bin)\b",
    "stats": r" \d+ files? changed",
    "mode": r" (?:create|delete|rename|mode|copy) ",
    "culprit_signature": r"culprit signature: +(\S+)",
    "parent_signature": r"parent +signature: +(\S+)",
    "parent": rf"parent commit ({HASH}) wasn't tested",
    "tested": r"(?:revisions|instances) tested: (\d{1,9}), total time: (\S+)"
    r"(?: \(build: (\S+), test: (\S+)\))?",
    "answer": rf"first (?:bad|good) commit: ({HASH}) ?(.*)",
    "cc": r"(?:recipients \(cc\)|cc): (\[.*)",
    "to": r"recipients \(to\): (\[.*)",
    "crash": r"crash: (.+)",
    "error_probability": r"accumulated error probability: ([\d.]{1,12})",
    "flaky": r"reproducer is flaky \(([\d.]{1,12}) repro chance estimate\)",
    "flaky_old": r"reproducer seems to be flaky",
    "error": r"error: (.+)",
    "any_of": r"(?:bisection is inconclusive, the|The) first '?(?:bad|good)'? commit could be any of:",
    "not_built": rf"failed building ({HASH}): (.*)",
    "not_run": r"(?:repro testing failure|failed): (.*)",
    "pretend": r"the bug was not introduced yet; pretend that kernel crashed",
    "undecided": r"unable to determine the verdict: (.*)",
    "ended": r"((?:the crash (?:still|already) happen(?:s|ed) on |crash still not fixed"
    r"|oldest tested release (?:already )?had |HEAD had kernel build, boot or test errors"
    r"|reproducer does not crash the merge base).*)",
    "minimize": r"check whether we can drop unnecessary instrumentation|kconfig minimization: "
    r"|testing without sub-chunk |split chunk|crash reproduces with baseline config",
    "aside": r"building syzkaller on |disabling configs for |the bug reproduces without the instrumentation"
    r"|there was nothing we could disable|the chunk can be dropped|no need to test this chunk"
    r"|no way to further split|minimized to \d|base config crashes|disabling CONFIG|# configuration already"
    r"|config minimization failed|testing baseline config failed|unable to test using baseline config"
    r"|we have reached the limit|picked \[|false negative chance: |fetch other tags|fetch failed with "
    r"|determine whether the revision contains|no existing result, test the revision"
    r"|determining the merge base|revision \S+ crashed and is reachable|proceeding with the original config"
    r"|commit msg: |There are only 'skip'ped commits left|We cannot bisect more|\S.* starts bisection "
    r"|failed to detect |expected 1 merge base",
}
_ONE = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _FORMS.items()))
_EACH = {name: re.compile(pattern) for name, pattern in _FORMS.items()}

# Logs are quoted in mails and printed by programs that put the time before each line.
_TIME = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
_QUOTED = re.compile(r"(?:[>|] ?|\s)*(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?")
_ANCHOR = re.compile(
    rf"bisecting cause commit starting from {HASH}|bisecting fixing commit since {HASH}"
    rf"|testing commit {HASH}|# git bisect start \S+ \S+"
)


class Line(NamedTuple):
    """A line that was recognised: what it is, and its parts (absent ones are empty)."""

    form: str
    parts: tuple[str, ...]


def read_line(text: str) -> Line | None:
    """Return what a line is, None for one of no known form."""
    match = _ONE.match(text)
    if match is None:
        return None
    form = str(match.lastgroup)
    again = _EACH[form].match(text)
    return Line(form, tuple(part or "" for part in again.groups())) if again else None


def _fronts(text: str) -> Iterator[str]:
    """Yield what stands before each line that is surely of a bisection log, where that is a quotation."""
    for match in _ANCHOR.finditer(text):
        front = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if len(front) < 80 and _QUOTED.fullmatch(front):
            yield front


def is_syzbot(text: str) -> bool:
    """Return whether a bisection log of syzkaller's is in the text."""
    return next(_fronts(text), None) is not None


def margin(text: str) -> str:
    """Return what stands before the first line that is surely of the log: ``> `` in a mail, say.

    Times at the front of lines are not part of it, because they change from line to line.
    """
    return _TIME.sub("", next(_fronts(text), ""))


def without_time(line: str) -> str:
    """Return the line without a time that Go's log package put before it."""
    return _TIME.sub("", line, count=1) if line[:2] == "20" else line
