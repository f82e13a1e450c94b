"""From the engine's belief to what is written and shown: belief records and the answer."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr

from ktriage.bisect.types import Answer, Belief
from ktriage.history.repository import readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from ktriage.bisect.nodes import Nodes
    from ktriage.bisect.search import Search, Verdict
    from ktriage.bisect.types import Run
    from ktriage.bisect.types import Verdict as VerdictName

    Floats = NDArray[np.float64]

NAMED = 512
"""With so many commits at most, beliefs give each one's probability, and the start record names them."""
STRETCHES = 256
_SHOWN = 10
_MOST = 100


def belief(search: Search, nodes: Nodes, runs: Sequence[Run], *, jobs: int) -> Belief:
    """Return what is believed now."""
    view = search.view
    weights = nodes.mass(view.weights)
    top = nodes.ranked(view.weights, _SHOWN)
    if len(weights) <= NAMED:
        mass = weights
    else:
        edges = np.linspace(0, len(weights), STRETCHES + 1).astype(int)
        mass = np.add.reduceat(weights, edges[:-1])
    seen = any(run.outcome == "crashed" for run in runs)
    rates = search.posterior.rates(view) if runs else None
    left = remaining_runs(search) if seen else None
    seconds = None if left is None else _seconds(search, left, jobs)
    return Belief(
        runs=len(runs),
        revisions=len({run.commit for run in runs}),
        builds=builds(search, nodes, runs),
        entropy=round(view.entropy, 4),
        top=nodes.candidates(top, view.weights[top].tolist()),
        mass=tuple(float(f"{x:.4g}") for x in mass.tolist()),
        outside=float(view.nowhere + view.weights[: nodes.bases].sum()),
        when=time.time(),
        crash_rate=rates[0] if rates else None,
        false_rate=rates[1] if rates else None,
        runs_left=None if left is None else round(left, 1),
        seconds_left=None if seconds is None else round(seconds, 1),
    )


def remaining_runs(search: Search) -> float:
    """Return about how many runs are left until the confidence is reached.

    Two parts, fitted to simulated bisections: what is unknown, at the rate at which such a noisy search can
    learn (the capacity of its channel); then runs at the culprit's parents, each of which says a little.
    """
    view = search.view
    crash, false, _ = search.posterior.rates(view)
    crash = min(max(crash, 0.02), 0.99)
    best = float(view.weights.max())
    needed = math.log2(search.confidence / (1 - search.confidence))
    have = math.log2(best / max(1 - best, 1e-9)) if best > 0.5 else 0.0
    search_part = view.entropy / max(capacity(crash, min(false, crash / 2)), 1e-3)
    sure_part = max(0.0, needed - have) / -math.log2(1 - crash)
    return 1.1 * search_part + sure_part + 1


def _seconds(search: Search, runs: float, jobs: int) -> float:
    builds = min(runs, search.view.entropy + 1)
    return (runs * search.costs.run + builds * search.costs.build) / jobs


def capacity(p: float, q: float) -> float:
    """Return how many bits one run can tell at most, crashing with p on one side and q on the other."""
    shares = np.linspace(0.005, 0.995, 199)
    chance = shares * p + (1 - shares) * q
    return float((_entropy(chance) - shares * _entropy(p) - (1 - shares) * _entropy(q)).max())


def _entropy(p: ArrayLike) -> Floats:
    """Return the entropy in bits of a coin that shows heads with probability p."""
    q = np.asarray(p, dtype=np.float64)
    result: Floats = (entr(q) + entr(1 - q)) / math.log(2)
    return result


def builds(search: Search, nodes: Nodes, runs: Sequence[Run]) -> int:
    """Return how many builds there were, or tries: of revisions, and of revisions with something on top.

    A command that has no build of its own counts as one for each revision.
    """
    call = nodes.start.call
    if call.get("kind") == "command" and not call.get("build"):
        return len({run.commit for run in runs})
    return search.builds + len({(run.commit, run.patches) for run in runs if run.patches})


def answer(search: Search, nodes: Nodes, runs: Sequence[Run], verdict: Verdict | None, why: str) -> Answer:
    """Return the answer; ``verdict`` None means that a limit (``why``) ended the search."""
    view = search.view
    crashed = any(run.outcome == "crashed" for run in runs)
    kind, probability, members, reason, hint = _verdict(search, nodes, verdict, crashed, why)
    hint = hint or (_not_run(runs) if kind == "not-in-range" else None)
    order = nodes.ranked(view.weights, 2 * _SHOWN)
    shown = members or [v for v in order if view.weights[v] >= 1e-4]
    culprit = nodes.commits[members[0]] if kind == "culprit" else None
    if kind == "culprit":
        shown = [*members, *(v for v in order if v not in members and view.weights[v] >= 1e-6)]
    about = nodes.repository.commit(culprit) if culprit else None
    if about and not about.parents and nodes.repository.shallow:
        hint = "this clone is shallow: the commit stands for all before it (git fetch --unshallow)"
    rates = search.posterior.rates(view) if runs else None
    return Answer(
        culprit=culprit,
        probability=probability,
        candidates=nodes.candidates(shown, [float(view.weights[v]) for v in shown]),
        runs=len(runs),
        revisions=len({run.commit for run in runs}),
        builds=builds(search, nodes, runs),
        outcomes=dict(Counter(str(run.outcome) for run in runs)),
        seconds=0.0,
        verdict=kind,
        kind="fix" if search.fix else "cause",
        reason=reason,
        hint=hint,
        subject=about.subject if about else None,
        author=about.author if about else None,
        date=about.date if about else None,
        files=tuple(map(readable, nodes.repository.files(culprit))) if culprit else (),
        crash_rate=rates[0] if rates else None,
        false_rate=rates[1] if rates else None,
        crash_interval=rates[2] if rates else None,
        titles={title: round(chance, 4) for title, chance in view.hunted.items()},
        untestable=tuple(nodes.commits[v] for v in search.untestable.broken),
    )


def _not_run(runs: Sequence[Run]) -> str | None:
    """Return a hint where it looks as if the command never ran."""
    codes = {run.note for run in runs if run.outcome == "crashed"}
    if codes and codes <= {"exit code 126", "exit code 127"}:
        code = min(str(note) for note in codes)
        return (
            f"{code} each time: is the command there, and can it be run? It starts in the revision's worktree"
        )
    return None


def _verdict(
    search: Search, nodes: Nodes, verdict: Verdict | None, crashed: bool, why: str
) -> tuple[VerdictName, float, list[int], str, str | None]:
    """Return the verdict's name, its probability, the nodes that it names, the reason, and what to do."""
    view = search.view
    outside = float(view.weights[: nodes.bases].sum())
    if verdict is not None and verdict.kind == "nowhere":
        what = "the good revision crashes too" if search.fix else "nothing crashes in the range"
        return "not-in-range", verdict.probability, [], what, None
    if outside >= search.confidence:
        return "not-in-range", outside, [], *_below(nodes, view.weights)
    if verdict is not None and verdict.kind == "culprit":
        reason = "the confidence asked for is reached"
        return "culprit", verdict.probability, list(verdict.members), reason, None
    if verdict is not None and verdict.kind == "candidates":
        members = [v for v in verdict.members if v >= nodes.bases]
        reason = f"no revision that can be tested tells these {len(members)} commits apart"
        reason += f"; {why}" if why else ""
        return "candidates", verdict.probability, members, reason, None
    reason = why or "no run that can be made would tell more"
    if not crashed:
        best = float(view.weights[nodes.bases :].max())
        return "inconclusive", best, [], f"{reason}; the crash was not seen", None
    order = np.array(nodes.ranked(view.weights, nodes.n))
    enough = int(np.searchsorted(np.cumsum(view.weights[order]), search.confidence)) + 1
    members = order[: min(enough, _MOST)].tolist()
    return "candidates", float(view.weights[members].sum()), members, reason, None


def _below(nodes: Nodes, weights: Floats) -> tuple[str, str | None]:
    """Return in a line that the crash came, or ended, below the range, and what to do next."""
    start = nodes.start
    fix = start.kind == "fix"
    what = "does not crash" if fix else "crashes"
    if not start.bases:
        return f"the {'bad' if fix else 'good'} revision {what}{'' if fix else ' too'}", None
    base = nodes.commits[int(weights[: nodes.bases].argmax())] or start.bases[0]
    reason = f"the merge base {base[:12]} of good and bad {what}"
    if fix:
        return reason, f"what crashes at bad came after it, on a side that good ({start.good[:12]}) lacks"
    return reason, (
        f"the bug is not new in bad; it may have been fixed on good's side: "
        f"ktriage bisect run --find fix --bad {base[:12]} --good {start.good[:12]} looks for the fix"
    )
