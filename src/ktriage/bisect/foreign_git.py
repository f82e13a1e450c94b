"""What ``git bisect log`` prints, and what ``git bisect replay`` takes: verdicts are all there is in it.

The forms are those of git's builtin/bisect.c. Newer ones put a term in quotes ("first 'bad' commit").
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from typing import Literal

from ktriage.bisect.foreign_types import ForeignCulprit, ForeignLog, ForeignRevision, Verdict

_TERM = r"[\w-]{1,40}"
_COMMAND = re.compile(rf"git bisect (start|{_TERM})(?: (.*))?$")
_SAID = re.compile(rf"# ({_TERM}): \[([0-9a-f]{{7,64}})\] ?(.*)")
_FIRST = re.compile(rf"# first '?{_TERM}'? commit: \[([0-9a-f]{{7,64}})\] ?(.*)")
_POSSIBLE = re.compile(rf"# possible first '?{_TERM}'? commit: \[([0-9a-f]{{7,64}})\] ?(.*)")
_GIT = re.compile(rf"^[ \t>|]*git bisect (?:start\b|(?:{_TERM}) [0-9a-f]{{7,64}}\b)", re.MULTILINE)
_FRONT = re.compile(r"[ \t>|]*")
_MOST_NOTICES = 20
# Terms that say that a change is looked for which ended something.
_FIXING = {"fixed", "fix", "good", "pass", "ok", "works", "working"}


def is_git(text: str) -> bool:
    """Return whether the log of a ``git bisect`` is in the text."""
    return _GIT.search(text) is not None


@dataclass(slots=True)
class GitReader:
    """Reads one log. ``read`` is called once."""

    new: str = "bad"
    old: str = "good"
    begun: bool = False
    revisions: list[ForeignRevision] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)
    culprit: str | None = None
    suspects: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    _number: int = 0
    _known: set[tuple[str, str]] = field(default_factory=set)
    _ends: set[str] = field(default_factory=set)

    def read(self, text: str) -> ForeignLog:
        """Return what the log says."""
        for self._number, raw in enumerate(text.split("\n"), 1):
            line = raw.rstrip("\r")
            self._take(line[_FRONT.match(line).end() :])  # type: ignore[union-attr]  # matches anything
        self._check()
        kind: Literal["cause", "fix"] = "fix" if self.new in _FIXING else "cause"
        bad = next((r.commit for r in self.revisions if r.verdict == "bad"), None)
        good = next((r.commit for r in self.revisions if r.verdict == "good"), None)
        culprit = None
        if self.culprit:
            title = self.titles.get(self.culprit)
            culprit = ForeignCulprit(self.culprit, title, merge=(title or "").startswith("Merge "))
        return ForeignLog(
            tool="git",
            kind=kind,
            start=bad if kind == "cause" else good,
            revisions=tuple(
                replace(
                    revision,
                    title=self.titles.get(revision.commit),
                    buggy=None
                    if revision.verdict == "skip"
                    else (revision.verdict == "bad") != (kind == "fix"),
                )
                for revision in self.revisions
            ),
            culprit=culprit,
            suspects=tuple(dict.fromkeys(self.suspects)),
            range=(bad, good) if bad and good else None,
            missing=tuple(self.missing),
        )

    def _take(self, line: str) -> None:
        if match := _FIRST.match(line):
            self.culprit = match[1]
            self.titles[match[1]] = match[2]
        elif match := _POSSIBLE.match(line):
            self.suspects.append(match[1])
            self.titles[match[1]] = match[2]
        elif match := _SAID.match(line):
            self.titles[match[2]] = match[3]
            self.said.setdefault(match[1], []).append(match[2])
        elif match := _COMMAND.match(line):
            self._command(match[1], match[2] or "")

    def _command(self, word: str, rest: str) -> None:
        try:
            words = shlex.split(rest)
        except ValueError:
            self._notice(f"line {self._number} is cut: {rest[:60]}")
            words = rest.split()
        if word == "start":
            self._start(words)
            return
        verdicts: dict[str, Verdict] = {self.new: "bad", self.old: "good", "skip": "skip"}
        verdicts |= {} if self.begun and self.new != "bad" else {"new": "bad", "old": "good"}
        verdict = verdicts.get(word)
        if verdict is None:
            if word not in ("terms", "log", "replay", "run", "reset", "visualize", "view", "next", "help"):
                self._notice(f"line {self._number}: git bisect {word} is no verdict that is known")
            return
        for commit in words:
            self._add(commit, verdict)

    def _start(self, words: list[str]) -> None:
        if self.revisions:
            self._notice(f"a second bisection begins at line {self._number}")
            return
        self.begun = True
        names: list[str] = []
        rest = iter(words)
        for word in rest:
            option, _, value = word.partition("=")
            if option in ("--term-new", "--term-bad"):
                self.new = value or next(rest, self.new)
            elif option in ("--term-old", "--term-good"):
                self.old = value or next(rest, self.old)
            elif word == "--":
                break
            elif not word.startswith("-"):
                names.append(word)
        # The comments before it give the hashes of what may be named by branches and tags.
        olds = self.said.get(self.old, [])
        for place, name in enumerate(names):
            hashes = self.said.get(self.new, []) if place == 0 else olds[place - 1 : place]
            self._add(hashes[0] if hashes else name, "bad" if place == 0 else "good")

    def _add(self, commit: str, verdict: Verdict) -> None:
        if any(r.commit == commit and r.verdict == verdict for r in self.revisions):
            return
        ends = {r.verdict for r in self.revisions}
        purpose: Literal["start", "search"] = (
            "start" if verdict not in ends and verdict != "skip" else "search"
        )
        self.revisions.append(ForeignRevision(commit, purpose=purpose, verdict=verdict, line=self._number))

    def _notice(self, text: str) -> None:
        if len(self.missing) < _MOST_NOTICES:
            self.missing.append(text)

    def _check(self) -> None:
        for verdict, word in (("bad", self.new), ("good", self.old)):
            if not any(r.verdict == verdict for r in self.revisions):
                self._notice(f"no revision is {word}")
