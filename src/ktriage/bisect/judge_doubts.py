"""Reasons to doubt the answer of a foreign bisection, each with its evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect.judge import weigh
from ktriage.bisect.judge_claims import of_answer, of_log, of_tests
from ktriage.bisect.judge_runs import coincidence, seldom
from ktriage.bisect.judge_types import Doubt, Facts, plural, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.bisect.foreign_types import ForeignLog
    from ktriage.bisect.judge import Weighed
    from ktriage.bisect.judge_evidence import Observed
    from ktriage.bisect.judge_runs import Coincidence
    from ktriage.bisect.judge_types import Weight

_FIRST = ("belief", "range", "no-answer", "cut", "run-number")
_STRENGTH = {"strong": 0, "weak": 1, "note": 2}


def doubts(log: ForeignLog, weighed: Weighed | None, facts: Facts) -> tuple[Doubt, ...]:
    """Return the doubts, the strongest first."""
    found = [*of_log(log), *of_answer(log, facts), *of_tests(log)]
    if weighed is not None:
        found += [*_of_runs(weighed), *_of_neighbours(weighed), *_of_titles(weighed), *_of_belief(weighed)]
    found += [Doubt("repository", "note", note) for note in facts.notes]
    return tuple(sorted(found, key=lambda doubt: (_STRENGTH[doubt.weight], doubt.kind not in _FIRST)))


# How the runs came out.


def _of_runs(weighed: Weighed) -> Iterator[Doubt]:
    tests = weighed.evidence.tests
    found = coincidence(test.revision for test in tests)
    if found is not None and found.chance < 0.05:
        yield _run_number(weighed, found)
    start = next((test for test in tests if test.revision.purpose == "start" and test.telling), None)
    if start is not None and weighed.log.tool != "git" and start.ok and start.crashed:
        weight: Weight = "strong" if start.crashed * 2 < start.telling else "weak"
        yield Doubt(
            "flaky-start",
            weight,
            f"the revision that it starts from crashes in {start.crashed} of {start.telling} runs: every run"
            " without a crash may be a miss",
            {"commit": start.revision.commit, "crashed": start.crashed, "runs": start.telling},
        )
    for test, rate, chance in seldom(tests):
        yield Doubt(
            "seldom",
            "strong",
            f"{test.revision.name} is taken to have the bug on {test.crashed} of {test.telling} runs; others"
            f" crash in {rate:.0%} of theirs: so few would come with a probability of {say(chance)}",
            {"commit": test.revision.commit, "crashed": test.crashed, "runs": test.telling, "chance": chance},
        )
    assumed = sum(test.assumed for test in tests)
    if assumed and weighed.log.tool != "git":
        listed = any(len(r.runs or ()) > 1 for r in weighed.log.revisions)
        as_what = "as many as this log's other tests have" if listed else "as many as syzkaller usually makes"
        yield Doubt(
            "no-counts",
            "note",
            f'{assumed} of {len(tests)} tests say only "all runs": {weighed.evidence.assumed} are taken,'
            f" {as_what}",
            {"tests": assumed, "assumed": weighed.evidence.assumed},
        )


def _run_number(weighed: Weighed, found: Coincidence) -> Doubt:
    names = ", ".join(commit[:12] for commit in found.revisions)
    what = f"{'the' if found.sole else 'a'} run {'without' if found.missed else 'with'} a crash"
    each = "each of the" if len(found.revisions) == found.of else f"{len(found.revisions)} of the"
    odds = f", 1 in {round(1 / found.chance):,}" if found.chance > 0 else ""
    claimed = weigh(weighed.log, weighed.places, without=found.number).claimed
    rest = "" if claimed is None else f" Without them, the commit that is named has {say(claimed)}."
    return Doubt(
        "run-number",
        "strong",
        f"{what} is run #{found.number} at {each} {found.of} revisions with the bug where some runs crash and"
        f" some do not ({names}). If all runs were alike, one number would stand out so with a probability of"
        f" {say(found.chance)}{odds}: it is the run's number, or its machine, that decides.{rest}",
        {
            "run": found.number,
            "missed": found.missed,
            "revisions": list(found.revisions),
            "of": found.of,
            "chance": found.chance,
            "claimed_without": claimed,
        },
    )


# Revisions beside the answer, and those that say little.


def _of_neighbours(weighed: Weighed) -> Iterator[Doubt]:
    last = _last_before(weighed)
    missed: dict[str, float] = {}
    for test in weighed.evidence.tests:
        if test.silent and test.telling:
            yield _little_said(weighed, test, beside=test is last)
        elif test.telling and not test.crashed and weighed.log.tool != "git":
            chance = _silence(weighed, test)
            if chance > 0.01 and test is last:
                yield _may_have_missed(test, chance)
            elif chance > 0.01:
                missed[test.revision.commit] = chance
        if test.revision.verdict == "skip" or (test.silent and not test.telling):
            yield _skipped(weighed, test)
    if missed:
        yield _may_have_missed_here(missed)


def _last_before(weighed: Weighed) -> Observed | None:
    """Return the last test that was judged free of the bug: it bounds the answer on one side."""
    return next((t for t in reversed(weighed.evidence.tests) if t.revision.buggy is False), None)


def _silence(weighed: Weighed, test: Observed) -> float:
    """Return how likely so many runs without a crash are at a revision with the bug."""
    bad = [other for other in weighed.evidence.tests if other.revision.buggy and other is not test]
    crashed, quiet = sum(other.crashed for other in bad), sum(other.ok for other in bad)
    prior = weighed.posterior.priors.crash
    before, _ = prior.evidence(crashed, quiet)
    after, _ = prior.evidence(crashed, quiet + test.ok)
    return float(np.exp(after - before))


def _little_said(weighed: Weighed, test: Observed, *, beside: bool) -> Doubt:
    revision = test.revision
    total = test.telling + test.silent
    where = f"{revision.name}, the last revision without the bug" if beside else revision.name
    text = (
        f"only {test.telling} of {total} runs said anything at {where}: {plural(test.silent, 'run')} failed"
    )
    evidence = {"commit": revision.commit, "telling": test.telling, "runs": total, "beside": beside}
    why = next((run.note for run in revision.runs or () if run.note), None)
    text += f" ({why.split(': failed')[0][:70]})" if why else ""
    if test.crashed == 0:
        chance = _silence(weighed, test)
        evidence["chance"] = chance
        text += f"; with the bug, {test.telling} runs would show no crash with a probability of {say(chance)}"
        weight: Weight = "strong" if chance > 0.05 else "weak" if beside or chance > 0.001 else "note"
    else:
        weight = "note"
    return Doubt("infra", weight, text, evidence)


def _may_have_missed(test: Observed, chance: float) -> Doubt:
    return Doubt(
        "few-runs",
        "strong",
        f"{test.revision.name}, the last revision without the bug, had {plural(test.telling, 'run')}"
        f"{' (assumed)' if test.assumed else ''}: with the bug, none would crash with a probability of"
        f" {say(chance)}",
        {"commit": test.revision.commit, "runs": test.telling, "chance": chance},
    )


def _may_have_missed_here(missed: dict[str, float]) -> Doubt:
    worst = max(missed, key=lambda commit: missed[commit])
    return Doubt(
        "few-runs",
        "strong" if missed[worst] > 0.1 else "weak",
        f"{plural(len(missed), 'further revision')} may have the bug: with it, no run would crash with a"
        f" probability of up to {say(missed[worst])} ({worst[:12]})",
        {"revisions": missed},
    )


def _skipped(weighed: Weighed, test: Observed) -> Doubt:
    revision, log = test.revision, weighed.log
    why = (
        revision.note or next(iter(revision.titles), "") or ", ".join(revision.outcomes) or "no reason given"
    )
    suspect = revision.commit in log.suspects or (log.culprit is None and not log.suspects)
    evidence = {"commit": revision.commit, "reason": why, "beside": suspect}
    v = weighed.places.place.get(revision.commit)
    if weighed.places.graph is not None and v is not None and log.culprit is not None:
        c = weighed.places.place.get(log.culprit.commit)
        parents = () if c is None or c == 0 else tuple(p + 1 for p in weighed.places.graph.parents(c - 1))
        suspect = evidence["beside"] = v in parents or v == c
    if suspect:
        text = f"{revision.name} could not be tested ({why}) and may hide the culprit"
        return Doubt("skipped", "strong", text, evidence)
    text = f"{revision.name} could not be tested ({why}); it is not beside the answer"
    return Doubt("skipped", "note", text, evidence)


# Other crashes than the hunted one.


def _of_titles(weighed: Weighed) -> Iterator[Doubt]:
    hunted = weighed.evidence.hunted
    tests = weighed.evidence.tests
    for title, same in weighed.view.hunted.items():
        where = {t.revision.commit: t.crashes[title] for t in tests if t.crashes and title in t.crashes}
        count = sum(where.values())
        names = ", ".join(commit[:12] for commit in list(where)[:4])
        weight: Weight = "weak" if same >= 0.5 else "strong"
        yield Doubt(
            "other-title",
            weight,
            f'{plural(count, "run")} crashed as "{title}", not as "{hunted}" (at {names}):'
            f" {'the same bug' if same >= 0.5 else 'another bug'} more likely than not, the same with a"
            f" probability of {say(same)}",
            {"title": title, "revisions": where, "same": same},
        )
    alone = {
        test.revision.name: list(test.crashes or {})
        for test in tests
        if test.revision.buggy and test.crashed and hunted and hunted not in (test.crashes or {})
    }
    if alone:
        names = ", ".join(list(alone)[:6])
        yield Doubt(
            "other-title-alone",
            "strong",
            f'taken to have the bug, though none of their runs crashed as "{hunted}": {names}',
            {"revisions": alone},
        )
    if weighed.log.crash and hunted and weighed.log.crash != hunted:
        yield Doubt(
            "other-title-alone",
            "weak",
            f'it started from "{hunted}" and ended with "{weighed.log.crash}"',
            {"start": hunted, "end": weighed.log.crash},
        )


# The claim against the belief.


def _of_belief(weighed: Weighed) -> Iterator[Doubt]:
    claimed = weighed.claimed
    view = weighed.view
    best = int(view.weights.argmax())
    if claimed is not None and claimed < 0.9:
        other = weighed.places.commits[best]
        rival = f"; {other[:12]} has {say(float(view.weights[best]))}" if other and claimed < 0.5 else ""
        yield Doubt(
            "belief",
            "strong" if claimed < 0.5 else "weak",
            f"the runs give the commit that is named a probability of {say(claimed)}{rival}",
            {"claimed": claimed},
        )
    already, nowhere = "the good revision has the bug already", "no commit of the range brings the crash"
    if weighed.log.kind == "fix":
        already, nowhere = "the oldest revision is without the bug", "no commit of the range ends the crash"
    for text, chance in ((already, float(view.weights[0])), (nowhere, view.nowhere)):
        if chance > 0.05:
            yield Doubt("range", "strong", f"{text}, with a probability of {say(chance)}", {"chance": chance})
    if weighed.places.outside:
        text = f"{plural(len(weighed.places.outside), 'tested revision')} are not in the repository's range"
        yield Doubt("repository", "note", text, {"commits": list(weighed.places.outside)})
