"""What can be doubted of a foreign bisection by its log and its answer alone, before its runs are weighed."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from ktriage.bisect.judge_evidence import searched
from ktriage.bisect.judge_types import Doubt, Facts, plural
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.bisect.foreign_types import ForeignLog, ForeignRevision
    from ktriage.bisect.judge_types import Weight

_RELEASE = re.compile(r"Linux \d+\.\d+")


def of_log(log: ForeignLog) -> Iterator[Doubt]:
    """Yield what the log lacks."""
    for text in log.missing:
        yield Doubt("missing", "weak", text)
    if log.tool == "git":
        yield Doubt(
            "verdicts-only",
            "weak",
            "the log has verdicts and no runs: each counts as one run, so that a crash that comes and goes"
            " is not seen",
        )
    tests = [revision for revision in log.revisions if not (revision.note or "").startswith("not tested")]
    ran = sum(set(revision.outcomes) - {OutcomeKind.BUILD_FAILED} != set() for revision in tests)
    if log.claimed_revisions is not None and log.claimed_revisions not in (len(tests), ran):
        yield Doubt(
            "missing",
            "strong",
            f"the log counts {plural(log.claimed_revisions, 'tested revision')}, and shows {len(tests)}",
            {"claimed": log.claimed_revisions, "shown": len(tests)},
        )
    if log.ended is not None:
        yield Doubt("no-answer", "strong", f"the bisection ended without an answer: {log.ended}")
    elif log.culprit is None and not log.suspects:
        yield Doubt("cut", "strong", "the log ends without an answer: it is cut, or the bisection was")
    elif log.tool == "syzbot" and log.claimed_revisions is None:
        yield Doubt("cut", "weak", "the log's end is missing: no times, no recipients")
    for revision in log.revisions:
        numbers = {run.number for run in revision.runs or ()}
        gone = list(islice((n for n in range(max(numbers, default=0)) if n not in numbers), 8))
        if gone:
            runs = ", ".join(f"#{number}" for number in gone)
            yield Doubt("missing", "weak", f"{revision.name}: run {runs} is not in the log", {"runs": gone})


def of_answer(log: ForeignLog, facts: Facts) -> Iterator[Doubt]:
    """Yield what speaks against the commit that the log names."""
    if len(log.suspects) > 1:
        yield Doubt(
            "suspects",
            "strong",
            f"no revision that could be tested tells {len(log.suspects)} commits apart",
            {"suspects": list(log.suspects)},
        )
    culprit = log.culprit
    if culprit is None:
        return
    name = culprit.commit[:12]
    if culprit.merge or len(facts.parents) > 1:
        yield Doubt(
            "merge",
            "strong",
            f"{name} is a merge: it is to blame only if two sides are each without the bug and together have"
            " it; more often a parent was judged good that is not",
            {"parents": list(facts.parents)},
        )
    if _RELEASE.match(culprit.title or ""):
        yield Doubt(
            "release",
            "strong",
            f"{name} is a release: it changes nothing but the version",
            {"commit": culprit.commit},
        )
    mine, parent = log.signatures
    if mine is not None and mine == parent:
        yield Doubt(
            "same-binary",
            "strong",
            f"{name} and its parent build the same kernel (signature {mine[:12]}): it changes nothing",
            {"signature": mine},
        )
    yield from _of_files(culprit.title or "", culprit.files or facts.culprit_files, facts, name)
    tested = {revision.commit for revision in log.revisions if revision.outcomes or log.tool == "git"}
    if culprit.commit not in tested:
        yield Doubt("untested", "strong", f"{name} itself was never tested", {"commit": culprit.commit})
    for hash_ in facts.parents:
        if hash_ not in tested:
            yield Doubt(
                "untested", "weak", f"{hash_[:12]}, a parent of {name}, was never tested", {"commit": hash_}
            )


def _of_files(title: str, files: tuple[str, ...], facts: Facts, name: str) -> Iterator[Doubt]:
    """Compare the crash's stack with the files that the culprit changes."""
    files = facts.culprit_files or files
    if not files or not facts.files or title.startswith("Merge "):
        return
    folders = tuple(file for file in files if file.endswith("/"))
    shared = [file for file in facts.files if file in files or (folders and file.startswith(folders))]
    if not shared:
        yield Doubt(
            "elsewhere",
            "weak",
            f"no file that {name} changes ({', '.join(files[:3])}) is on the crash's stack"
            f" ({', '.join(facts.files[:4])}): what it broke shows later, or it is not the culprit",
            {"changed": list(files), "stack": list(facts.files)},
        )


def of_tests(log: ForeignLog) -> Iterator[Doubt]:
    """Yield what does not fit between the tests and their verdicts."""
    tests = searched(log)
    for revision in tests:
        crashed = {OutcomeKind.CRASHED, OutcomeKind.HUNG} & set(revision.outcomes)
        if revision.outcomes and revision.buggy is not None and revision.buggy != bool(crashed):
            word = "crashed" if crashed else "never crashed"
            taken = "to have the bug" if revision.buggy else "to be without the bug"
            yield Doubt(
                "contradiction",
                "strong",
                f"{revision.name} is taken {taken} and {word}",
                {"commit": revision.commit, "outcomes": revision.outcomes},
            )
    yield from _of_binaries(tests)
    if log.error_probability is not None and log.error_probability >= 0.05:
        weight: Weight = "strong" if log.error_probability >= 0.2 else "weak"
        text = f"the tool's own estimate that a good verdict is wrong is {log.error_probability:.2f}"
        yield Doubt("own-estimate", weight, text, {"probability": log.error_probability})
    if log.flaky:
        rate = f", at a rate of {log.repro_chance:.2f}" if log.repro_chance is not None else ""
        yield Doubt("flaky", "weak", f"the tool found the reproducer flaky{rate}", {"rate": log.repro_chance})


def _of_binaries(tests: list[ForeignRevision]) -> Iterator[Doubt]:
    compilers = {test.verdict: test.compiler for test in tests if test.verdict in ("good", "bad")}
    if len({c for c in compilers.values() if c}) > 1:
        text = f"the last good and the last bad revision were built by other compilers: {compilers}"
        yield Doubt("compiler", "weak", text.replace("'", ""), {"compilers": compilers})
    seen: dict[str, ForeignRevision] = {}
    for test in tests:
        if test.signature is None or test.buggy is None:
            continue
        other = seen.setdefault(test.signature, test)
        if other.buggy != test.buggy:
            yield Doubt(
                "same-binary",
                "strong",
                f"{other.name} and {test.name} are the same kernel (signature {test.signature[:12]}),"
                " yet one was judged bad and the other good",
                {"commits": [other.commit, test.commit], "signature": test.signature},
            )
