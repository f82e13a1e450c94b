"""From a run's outcome to evidence for the search, and from a crash to a better prior."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ktriage.bisect.titles import likeness
from ktriage.errors import MachineryError
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from ktriage.bisect.nodes import Nodes
    from ktriage.bisect.search import Kind, Search
    from ktriage.bisect.types import Options, Run

# Above so many commits, listing the files that each one touches would take longer than it saves.
_LISTED = 20_000
_NO_CODE = (".md", ".rst", ".txt", ".adoc")
_NO_CODE_DIRS = ("Documentation/", "doc/", "docs/", "tools/testing/", "tests/", "LICENSES/")


@dataclass(slots=True)
class Reader:
    """Feeds runs to a search.

    ``reasons`` says what, besides the runs, made some commits likelier than others.
    """

    search: Search
    nodes: Nodes
    options: Options
    reasons: list[str] = field(default_factory=list)
    _failed: Counter[str] = field(default_factory=Counter)
    _in_a_row: int = 0
    _note: str = ""
    _frames: Counter[str] = field(default_factory=Counter)
    _files: Counter[str] = field(default_factory=Counter)
    _informed: int = 0

    def take(self, run: Run) -> Kind:
        """Take in a run of the search, and return what it was taken for."""
        kind = self._kind(run)
        v = self.nodes.places[run.commit]
        if kind == "infra":
            self._failed[run.commit] += 1
            self._in_a_row += 1
            self._note = run.note or ""
            if self._failed[run.commit] <= self.options.max_infra:
                return kind
            kind = "broken"
        else:
            self._in_a_row = 0
            self.search.costs.saw(run.run_seconds, run.build_seconds)
        if kind == "crash":
            self._frames.update(dict.fromkeys(run.frames, 1))
            self._files.update(dict.fromkeys(run.files, 1))
        self._inform()
        title = (run.title or str(run.outcome)) if kind == "other" else None
        alike = likeness(run.frames, run.files, self._frames, self._files)
        self.search.record(v, kind, title=title, signature=run.signature, likeness=alike)
        return kind

    def check(self) -> None:
        """Raise ``MachineryError`` where run after run fails for reasons that have nothing to do with it."""
        most = 3 * (self.options.max_infra + 1)
        if self._in_a_row >= most:
            why = self._note or "no reason given"
            raise MachineryError(
                f"{self._in_a_row} runs in a row said nothing of their revision: {why}",
                hint="ktriage bisect resume goes on once this is mended",
            )

    def _kind(self, run: Run) -> Kind:
        match run.outcome:
            case OutcomeKind.CRASHED:
                return "crash"
            case OutcomeKind.OK:
                return "ok"
            case OutcomeKind.INFRA:
                return "infra"
            case OutcomeKind.OTHER_CRASH:
                return "other"
            case OutcomeKind.HUNG:
                hang: dict[str, Kind] = {"hunted": "crash", "other": "other", "infra": "infra"}
                return hang[self.options.hang_is]
            case _:
                # A revision that could be tested before still can: this time the machine failed.
                tested = sum(self.search.posterior.counts(self.nodes.places[run.commit]))
                return "infra" if tested else "broken"

    def _inform(self) -> None:
        """Let commits that touch files of the crash weigh more, and those without code less.

        Done at the first run, and again once a crash has shown files.
        """
        known = 2 if self._files else 1
        many = len(self.nodes.graph.commits) > _LISTED
        if self._informed >= known or not self.options.informed or many:
            return
        self._informed = known
        start, graph = self.nodes.start, self.nodes.graph
        ends = (start.bad, start.good) if start.kind == "fix" else (start.good, start.bad)
        touched = self.nodes.repository.touched(*ends)
        weight = np.ones(len(graph.commits))
        for i, commit in enumerate(graph.commits):
            files = touched.get(commit, ())
            if any(file in self._files for file in files):
                weight[i] = 4.0
            elif files and all(name.endswith(_NO_CODE) or name.startswith(_NO_CODE_DIRS) for name in files):
                weight[i] = 0.1
        self.reasons.clear()
        if (weight == 4.0).any():
            shown = ", ".join(name for name, _ in self._files.most_common(3))
            self.reasons.append(f"commits that touch {shown} weigh 4 times as much")
        if (weight == 0.1).any():
            self.reasons.append("commits that touch nothing but documentation and tests weigh a tenth")
        self.search.posterior.reweigh(self.nodes.prior(weight))
