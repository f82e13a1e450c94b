"""From the engine's log to what a page shows of a bisection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.bisect.types import SAID, Belief
from ktriage.bisect.types import Run as Ran
from ktriage.case.types import Bisection, Commit, Run
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ktriage.bisect.types import Answer, Log, Start, Verification

_REVERTED = {
    "gone": "no crash any more",
    "rarer": "it still crashes, less often",
    "stays": "it still crashes",
    "conflict": "does not revert cleanly",
    "unseen": "tells nothing: the runs do not depend on what is in the worktree",
    "untestable": "can't be tested",
    "returns": "it crashes again",
    "stays-away": "no crash either",
}
_APPLIED = _REVERTED | {"conflict": "does not go on top of it"}
_OWN = {"crashes": "crashes", "silent": "did not crash"}
_PARENT = {"ok": "did not crash", "crashes": "crashes"}


def from_log(log: Log, commits: Sequence[Commit] | None = None) -> Bisection:
    """Return what is to be shown of the bisection in ``log``; it may have been interrupted.

    ``commits`` are the commits of the range, parents before children, with as much of their authors and
    dates as is known; without them the log's own are used, or where the range was too long for the log
    to have them, the commits that it names.
    """
    shown = list(commits) if commits else _commits(log)
    runs, beliefs, entropies = _steps(log, shown)
    answer = log.end
    final = _final(answer, beliefs)
    start = log.start
    return Bisection(
        verdict=answer.verdict if answer else "inconclusive",
        commits=tuple(_with_belief(commit, final, answer) for commit in shown),
        runs=tuple(runs),
        total=start.candidates,
        beliefs=tuple(beliefs),
        entropies=tuple(entropies),
        probability=answer.probability if answer else max(final.values(), default=0.0),
        reason=answer.reason if answer else "The bisection was interrupted.",
        builds=answer.builds if answer else sum(1 for run in runs if run.build_seconds > 0),
        seconds=answer.seconds
        if answer
        else max((r.when for r in log.runs), default=start.when) - start.when,
        bad=start.bad,
        good=start.good,
        confidence=start.confidence,
        seed=start.seed,
        vms=start.jobs if start.call.get("kind") != "command" else None,
        crash_rate=answer.crash_rate if answer else None,
        crash_interval=answer.crash_interval if answer else None,
        priors=answer.priors if answer else (),
        titles=tuple(sorted(answer.titles.items())) if answer else (),
        verification=_verification(answer.verification, start.kind) if answer and answer.verification else (),
        verified=answer.verification.passed if answer and answer.verification else None,
        kind=start.kind,
        below=start.bases or (start.bad if start.kind == "fix" else start.good,),
        notes=_notes(answer) if answer else (),
    )


def _commits(log: Log) -> list[Commit]:
    start = log.start
    if start.commits:
        return [
            Commit(commit, subject, parents=tuple(parents))
            for commit, subject, parents in zip(start.commits, start.subjects, start.parents, strict=True)
        ]
    named: dict[str, str] = {start.good: ""} | {run.commit: "" for run in log.runs} | {start.bad: ""}
    for candidate in log.end.candidates if log.end else ():
        named[candidate.commit] = candidate.subject or ""
    return [Commit(commit, subject) for commit, subject in named.items()]


def _mass(belief: Belief, start: Start, commits: Sequence[Commit]) -> dict[str, float]:
    """Return a belief by commit: of each in a short range, else of those at the top."""
    if start.commits and len(belief.mass) == len(start.commits):
        return dict(zip(start.commits, belief.mass, strict=True))
    known = {commit.hash for commit in commits}
    return {c.commit: c.probability for c in belief.top if c.commit in known}


def _steps(log: Log, commits: Sequence[Commit]) -> tuple[list[Run], list[dict[str, float]], list[float]]:
    """Pair each finished run of the search with the belief that was written next after it."""
    runs: list[Run] = []
    beliefs: list[dict[str, float]] = []
    entropies: list[float] = []
    for record in log.records:
        if isinstance(record, Ran) and record.purpose == "search":
            runs.append(_run(record, len(runs) + 1))
        elif isinstance(record, Belief) and runs:
            mass = _mass(record, log.start, commits)
            # Runs that came in together share the belief that followed them.
            while len(beliefs) < len(runs):
                beliefs.append(mass)
                entropies.append(record.entropy)
    return runs, beliefs, entropies


def _run(record: Ran, number: int) -> Run:
    return Run(
        number=number,
        commit=record.commit,
        outcome=OutcomeKind(record.outcome),
        title=record.title,
        seconds=record.run_seconds,
        build_seconds=record.build_seconds,
        directory=record.where,
        signature=record.signature,
        on_top=tuple(name.partition(" ")[2].partition("@")[0][:40] for name in record.patches),
    )


def _final(answer: Answer | None, beliefs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    final = dict(beliefs[-1]) if beliefs else {}
    if answer:
        final |= {candidate.commit: candidate.probability for candidate in answer.candidates}
        if answer.culprit:
            final[answer.culprit] = answer.probability
    return final


def _with_belief(commit: Commit, final: Mapping[str, float], answer: Answer | None) -> Commit:
    named = answer is not None and answer.culprit == commit.hash
    return Commit(
        hash=commit.hash,
        subject=commit.subject or (answer.subject if answer and named else None) or "",
        author=commit.author or (answer.author if answer and named else None) or "",
        date=commit.date or (answer.date if answer and named else None) or "",
        parents=commit.parents,
        probability=final.get(commit.hash, 0.0),
    )


def _verification(verification: Verification, kind: str) -> tuple[tuple[str, str], ...]:
    """Say what was checked, leaving out what was skipped."""
    fix = kind == "fix"
    what = "the good revision with the fix reverted" if fix else "the bad revision with the culprit reverted"
    checks = [
        (what, _REVERTED.get(verification.reverted)),
        ("the bad revision with the fix on top", _APPLIED.get(verification.applied)),
        ("the fix itself" if fix else "the culprit itself", _OWN.get(verification.culprit)),
        ("its parent", _PARENT.get(verification.parent)),
    ]
    return tuple((what, came) for what, came in checks if came)


def _notes(answer: Answer) -> tuple[str, ...]:
    """Say what else there is to the answer."""
    notes = [f"{answer.hint[0].upper()}{answer.hint[1:]}."] if answer.hint else []
    if answer.several is not None and answer.several >= SAID:
        besides = " and ".join(commit[:12] for commit in answer.others[:3])
        notes.append(
            f"One commit does not explain these runs, there are several (probability {answer.several:.2f})"
            + (f"; the other may be {besides}." if besides and len(answer.others) <= 3 else ".")
        )
    notes += [f"Revisions were made testable: {fix}." for fix in answer.fixes]
    return tuple(notes)
