"""syzkaller's bisection logs, read line by line into a ``ForeignLog``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ktriage.bisect.foreign_lines import margin, read_line, without_time
from ktriage.bisect.foreign_types import (
    ForeignCulprit,
    ForeignLog,
    ForeignRevision,
    ForeignRun,
    Purpose,
    Verdict,
)
from ktriage.bisect.foreign_words import go_list, go_seconds, known_result, run_result
from ktriage.words import OutcomeKind

_LONGEST_LINE = 1 << 16
_MOST_NOTE = 300
_MOST_NOTICES = 20


@dataclass(slots=True)
class _Test:
    """A revision while it is read. ``built`` says that it was tested, not only built for its signature."""

    commit: str
    purpose: Purpose
    line: int
    compiler: str | None = None
    signature: str | None = None
    release: str | None = None
    left: int | None = None
    runs: list[ForeignRun] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    every: ForeignRun | None = None
    verdict: Verdict | None = None
    note: str | None = None
    stray: list[str] = field(default_factory=list)
    pretended: bool = False


class SyzbotReader:
    """Reads one log. ``read`` is called once."""

    def __init__(self) -> None:
        self.kind: Literal["cause", "fix"] = "cause"
        self.fields: dict[str, Any] = {}
        self._tests: list[_Test] = []
        self._latest: dict[str, _Test] = {}
        self._titles: dict[str, str] = {}
        self._culprit = ""
        self._author: str | None = None
        self._files: list[str] = []
        self._merge = False
        self._suspects: list[str] = []
        self._signatures: list[str | None] = [None, None]
        self._missing: list[str] = []
        # What comes next: the commit's own text, a list of commits, a release's test.
        self._quoting = False
        self._listing = False
        self._purpose: Purpose = "search"
        self._release: str | None = None
        self._left: int | None = None
        self._announced = ""
        self._only_built = ""
        self._done = False
        self._line = 0

    def read(self, data: bytes) -> ForeignLog:
        """Return what the log says."""
        front = margin(data.decode(errors="replace")).encode()
        offset = 0
        for number, raw in enumerate(data.split(b"\n"), 1):
            offset += len(raw) + 1
            self._line = number
            line = raw[:_LONGEST_LINE].rstrip(b"\r")
            if front:
                line = line.removeprefix(front if line.startswith(front) else front.rstrip())
            self._take(without_time(line.decode(errors="replace")))
            if self._done:
                break
        if "crash" in self.fields:
            self.fields["report"] = (min(offset, len(data)), number + 1)
        return self._finish()

    def _take(self, line: str) -> None:
        if self._quoting and (line.startswith("    ") or not line.strip()):
            if line.strip():
                self._titles.setdefault(self._culprit, line.strip())
            return
        known = read_line(line)
        if known is None:
            self._quoting = False
            self._stray(line)
            return
        if known.form not in ("author", "date", "merge", "commit", "raw", "stat", "stats", "mode"):
            self._quoting = False
        handler: Callable[..., None] | None = getattr(self, f"_on_{known.form}", None)
        if handler is not None:
            handler(*known.parts)

    def _stray(self, line: str) -> None:
        """Keep a line of no known form with the test that it stands behind: the rest of an error."""
        test = self._tests[-1] if self._tests else None
        if test is not None and line.strip() and len(test.stray) < 8 and not self._culprit:
            test.stray.append(line.strip()[:_MOST_NOTE])

    def _notice(self, text: str) -> None:
        if len(self._missing) < _MOST_NOTICES and text not in self._missing:
            self._missing.append(text)

    # The frame: what is bisected, and where.

    def _begin(self, kind: Literal["cause", "fix"], commit: str) -> None:
        if "start" in self.fields:
            self._notice(f"a second bisection begins at line {self._line}; only the first is read")
            self._done = True
            return
        self.kind, self.fields["start"], self._purpose = kind, commit, "start"

    def _on_cause(self, commit: str) -> None:
        self._begin("cause", commit)

    def _on_fix(self, commit: str) -> None:
        self._begin("fix", commit)

    def _on_original(self, commit: str) -> None:
        self.fields["start"], self._purpose = commit, "start"

    def _on_rewritten(self, commit: str, title: str) -> None:
        self.fields["start"] = commit
        self._titles[commit] = title

    def _on_release(self, tag: str) -> None:
        self._purpose, self._release = "release", tag

    def _on_head(self, _commit: str) -> None:
        self._purpose = "head"

    def _on_base(self, commit: str, title: str) -> None:
        self._purpose = "merge-base"
        self._titles[commit] = title

    def _on_check_base(self, _commit: str) -> None:
        self._purpose = "merge-base"

    def _on_bare(self, commit: str) -> None:
        if self._listing:
            self._suspects.append(commit)

    def _on_minimize(self) -> None:
        self._purpose = "minimize"

    def _on_start(self, bad: str, good: str) -> None:
        self.fields["range"] = (bad, good)
        self._purpose = "search"

    def _on_left(self, count: str) -> None:
        self._left = int(count) if count else None
        self._purpose = "search"

    def _on_title(self, commit: str, title: str) -> None:
        self._titles[commit] = title
        self._announced = commit

    # The tests.

    def _on_testing(self, commit: str, compiler: str) -> None:
        if self._only_built == commit:
            return
        test = _Test(commit, self._purpose, self._line, compiler=compiler or None)
        if self._purpose == "start" and self._tests:
            # Between 2019 and 2020 nothing announces that the next test is of another configuration.
            again = commit in self._latest
            test.purpose = "minimize" if again else "search"
            test.left = None if again else self._left
        elif self._purpose == "release":
            test.release, self._purpose = self._release, "search"
        elif self._purpose == "search":
            test.left = self._left
        elif self._purpose in ("head", "merge-base"):
            self._purpose = "search"
        self._left = None
        self._add(test)

    def _add(self, test: _Test) -> None:
        self._tests.append(test)
        self._latest[test.commit] = test

    def _on_compiler(self, compiler: str) -> None:
        if self._tests and not self._only_built:
            self._tests[-1].compiler = compiler

    def _on_signature(self, signature: str) -> None:
        if self._tests and not self._only_built:
            self._tests[-1].signature = signature

    def _on_run(self, number: str, text: str) -> None:
        run = self._run(int(number), text)
        if run is None:
            return
        test = self._tests[-1]
        if run.number in test.numbers:
            self._notice(f"run #{run.number} of {test.commit[:12]} is there twice (line {self._line})")
        test.numbers.add(run.number)
        test.runs.append(run)

    def _on_all(self, text: str) -> None:
        run = self._run(-1, text)
        if run is not None:
            self._tests[-1].every = run

    def _run(self, number: int, text: str) -> ForeignRun | None:
        if not self._tests:
            self._notice(
                f"line {self._line} has a run of an unknown revision: the log's beginning is missing"
            )
            return None
        self._tests[-1].stray.clear()
        if not known_result(text):
            self._notice(f"line {self._line}: a result of no known form counts as infra: {text[:80]}")
        return ForeignRun(number, *run_result(text))

    def _on_not_built(self, _commit: str, why: str) -> None:
        if self._tests:
            self._tests[-1].note = why[:_MOST_NOTE]

    def _on_not_run(self, why: str) -> None:
        if self._tests and not self._tests[-1].runs:
            self._tests[-1].runs.append(ForeignRun(0, OutcomeKind.INFRA, note=why[:_MOST_NOTE]))

    def _on_undecided(self, why: str) -> None:
        if self._tests:
            self._tests[-1].note = f"no verdict: {why[:_MOST_NOTE]}"

    def _on_pretend(self) -> None:
        test = _Test(self._announced, "search", self._line, left=self._left, pretended=True)
        test.note = "not tested: the bug was not introduced yet"
        self._left = None
        self._add(test)

    def _on_verdict(self, word: Verdict, commit: str) -> None:
        last = self._latest.get(commit)
        if last is None:
            last = _Test(commit, "search", self._line, left=self._left)
            last.note = "the log has a verdict and no test"
            self._left = None
            self._add(last)
        last.verdict = word

    # The answer.

    def _on_found(self, commit: str) -> None:
        self._culprit = commit

    def _on_commit(self, commit: str) -> None:
        self._quoting = self._culprit == commit

    def _on_author(self, author: str) -> None:
        if self._quoting and self._author is None:
            self._author = author.strip()

    def _on_merge(self) -> None:
        self._merge = self._merge or self._quoting

    def _on_raw(self, mode: str, path: str) -> None:
        if self._culprit:
            self._files.append(f"{path}/" if mode.startswith("04") else path)

    def _on_stat(self, path: str) -> None:
        if self._culprit:
            self._files.append(path)

    def _on_culprit_signature(self, signature: str) -> None:
        self._signatures[0] = signature

    def _on_parent_signature(self, signature: str) -> None:
        self._signatures[1] = signature
        self._only_built = ""

    def _on_parent(self, commit: str) -> None:
        self._only_built = commit

    def _on_tested(self, count: str, total: str, build: str, test: str) -> None:
        self.fields["claimed_revisions"] = int(count)
        # "test: 2h44m6.2s)": the bracket is no part of the time.
        self.fields["seconds"] = tuple(go_seconds(part.rstrip(",)")) for part in (total, build, test))

    def _on_answer(self, commit: str, title: str) -> None:
        self._culprit = commit
        if title:
            self._titles[commit] = title

    def _on_to(self, people: str) -> None:
        self.fields["to"] = go_list(people)

    def _on_cc(self, people: str) -> None:
        self.fields["cc"] = go_list(people)

    def _on_crash(self, title: str) -> None:
        self.fields["crash"] = title.strip()
        self._done = True

    def _on_error_probability(self, number: str) -> None:
        self.fields["error_probability"] = _number(number)

    def _on_flaky(self, chance: str) -> None:
        self.fields["flaky"], self.fields["repro_chance"] = True, _number(chance)

    def _on_flaky_old(self) -> None:
        self.fields["flaky"] = True

    def _on_error(self, text: str) -> None:
        self.fields["ended"] = text.strip()[:_MOST_NOTE]

    def _on_ended(self, text: str) -> None:
        self.fields.setdefault("ended", text[:_MOST_NOTE])

    def _on_any_of(self) -> None:
        self._listing = True

    def _finish(self) -> ForeignLog:
        culprit = None
        if self._culprit:
            culprit = ForeignCulprit(
                self._culprit,
                self._titles.get(self._culprit),
                self._author,
                tuple(dict.fromkeys(self._files)),
                self._merge or self._titles.get(self._culprit, "").startswith("Merge "),
            )
        revisions = tuple(self._revision(test) for test in self._tests)
        start = self.fields.pop("start", None) or (revisions[0].commit if revisions else None)
        return ForeignLog(
            tool="syzbot",
            kind=self.kind,
            start=start,
            revisions=self._judged(revisions),
            culprit=culprit,
            suspects=tuple(dict.fromkeys(self._suspects)),
            signatures=(self._signatures[0], self._signatures[1]),
            missing=tuple(self._missing),
            **self.fields,
        )

    def _revision(self, test: _Test) -> ForeignRevision:
        runs = tuple(test.runs)
        note = test.note
        if not runs and test.every is None:
            note = note or next(iter(test.stray), None)
            if note and not test.pretended and test.verdict in ("skip", None):
                runs = (ForeignRun(0, OutcomeKind.BUILD_FAILED, note=note),)
        return ForeignRevision(
            commit=test.commit,
            title=self._titles.get(test.commit),
            purpose=test.purpose,
            runs=None if test.every is not None and not runs else runs,
            every=None if runs else test.every,
            compiler=test.compiler,
            signature=test.signature,
            verdict=test.verdict,
            release=test.release,
            left=test.left,
            note=note,
            line=test.line,
        )

    def _judged(self, revisions: tuple[ForeignRevision, ...]) -> tuple[ForeignRevision, ...]:
        """Give the ends of the range their verdicts, and say of every revision whether the log holds it for
        one with the bug.
        """  # noqa: D205 (one sentence)
        bad, good = self.fields.get("range", ("", ""))
        judged = []
        for revision in revisions:
            verdict = revision.verdict
            named = (revision.commit, revision.release)
            if verdict is None and revision.purpose != "minimize":
                verdict = "bad" if bad in named else "good" if good in named else self._by_runs(revision)
            buggy = None if verdict in (None, "skip") else (verdict == "bad") != (self.kind == "fix")
            judged.append(replace(revision, verdict=verdict, buggy=buggy))
        return tuple(judged)

    def _by_runs(self, revision: ForeignRevision) -> Verdict | None:
        """Return what syzkaller takes from the runs of a revision that git was not told about."""
        seen = set(revision.outcomes)
        if not seen:
            return None
        if seen & {OutcomeKind.CRASHED, OutcomeKind.HUNG}:
            return "good" if self.kind == "fix" else "bad"
        if OutcomeKind.OK not in seen:
            return "skip"
        return "bad" if self.kind == "fix" else "good"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
