"""What a bisection log of another tool says, as plain data: no judgement in it.

Verdicts are the log's own words. In a bisection for a fix, syzkaller swaps them before it calls git, so that
there ``bad`` is a revision that has the fix; ``ForeignRevision.buggy`` says what is meant.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from ktriage.words import OutcomeKind

Verdict = Literal["good", "bad", "skip"]
Purpose = Literal["start", "minimize", "release", "head", "merge-base", "search"]


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """One run: its number as the log has it, what it came to, and the crash's title, if there was one.

    ``note`` is what the log says of a run that says nothing of its revision: the first line of an error.
    """

    number: int
    outcome: OutcomeKind
    title: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ForeignRevision:
    """One test of a revision; a revision that was tested twice is there twice.

    ``runs`` is None where the log does not list them. ``every`` is then what all of them came to, if the log
    says that. ``left`` counts the revisions that git said were left to test after this one. ``release`` is
    the tag by which the log names the revision. ``note`` says in a line why it could not be tested.
    ``line`` is where the log begins with it, 1-based.
    """

    commit: str
    title: str | None = None
    purpose: Purpose = "search"
    runs: tuple[ForeignRun, ...] | None = None
    every: ForeignRun | None = None
    compiler: str | None = None
    signature: str | None = None
    verdict: Verdict | None = None
    buggy: bool | None = None
    release: str | None = None
    left: int | None = None
    note: str | None = None
    line: int = 0

    @property
    def name(self) -> str:
        """The tag or the first 12 characters of the hash."""
        return self.release or self.commit[:12]

    @property
    def outcomes(self) -> dict[str, int | None]:
        """How many runs came to what; None where the log gives no number."""
        if self.every is not None:
            return {str(self.every.outcome): None}
        return dict(Counter(str(run.outcome) for run in self.runs or ()))

    @property
    def titles(self) -> dict[str, int | None]:
        """How many runs crashed under which title; None where the log gives no number."""
        if self.every is not None:
            return {self.every.title: None} if self.every.title else {}
        return dict(Counter(run.title for run in self.runs or () if run.title))

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage bisect audit --json`` has for this revision."""
        return {
            "commit": self.commit,
            "title": self.title,
            "runs": None if self.runs is None else len(self.runs),
            "outcomes": self.outcomes,
            "titles": self.titles,
            "compiler": self.compiler,
            "signature": self.signature,
            "verdict": self.verdict,
            "buggy": self.buggy,
            "purpose": self.purpose,
            "release": self.release,
            "left": self.left,
            "note": self.note,
            "line": self.line,
        }


@dataclass(frozen=True, slots=True)
class ForeignCulprit:
    """The commit that a log names. ``files`` end with a slash where the log names only the directory."""

    commit: str
    title: str | None = None
    author: str | None = None
    files: tuple[str, ...] = ()
    merge: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the commit, its title and its author."""
        return {"commit": self.commit, "title": self.title, "author": self.author}


@dataclass(frozen=True, slots=True)
class ForeignLog:
    """A whole log.

    ``range`` is what git was started with: (bad, good), hashes or tags. ``suspects`` are the commits among
    which the log could not decide. ``seconds`` has ``total``, ``build`` and ``test``, each None where the
    log does not say. ``crash`` is the title that the report at the end is announced with, ``report`` the
    offset in bytes and the line, 1-based, at which that report begins. ``signatures`` are those of the
    culprit and of its parent. ``error_probability`` and ``repro_chance`` are the tool's own estimates,
    ``flaky`` that it took the reproducer for one that misses often. ``ended`` says how the bisection ended
    where it named no commit. ``missing`` says in lines what could not be read.
    """

    tool: Literal["syzbot", "git"]
    kind: Literal["cause", "fix"]
    start: str | None
    revisions: tuple[ForeignRevision, ...]
    culprit: ForeignCulprit | None = None
    suspects: tuple[str, ...] = ()
    range: tuple[str, str] | None = None
    claimed_revisions: int | None = None
    seconds: tuple[float | None, float | None, float | None] = (None, None, None)
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    crash: str | None = None
    report: tuple[int, int] | None = None
    signatures: tuple[str | None, str | None] = (None, None)
    error_probability: float | None = None
    repro_chance: float | None = None
    flaky: bool = False
    ended: str | None = None
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what ``ktriage bisect audit --json`` prints of the log itself."""
        return {
            "kind": self.kind,
            "tool": self.tool,
            "start": self.start,
            "revisions": [revision.to_json() for revision in self.revisions],
            "culprit": self.culprit.to_json() if self.culprit else None,
            "suspects": list(self.suspects),
            "claimed_revisions": self.claimed_revisions,
            "seconds": dict(zip(("total", "build", "test"), self.seconds, strict=True)),
            "recipients": {"to": list(self.to), "cc": list(self.cc)},
            "ended": self.ended,
            "error_probability": self.error_probability,
            "repro_chance": self.repro_chance,
        }
