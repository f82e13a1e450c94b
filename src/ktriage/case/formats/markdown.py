"""A bug as Markdown, for an issue tracker or a wiki."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ktriage.case.formats.bundle import iso
from ktriage.case.store.types import FindingKind

if TYPE_CHECKING:
    from ktriage.case.formats.bundle import BugBundle

LONGEST_REPORT = 20_000


def markdown(one: BugBundle) -> str:
    """Return a bug's description: what is known of it, its culprit, the best report."""
    bug, found = one.bug, one.bisection
    lines = [f"# {_plain(bug.title)}", ""]
    facts = [
        ("state", str(bug.state) + (f", by {bug.fixed_by}" if bug.fixed_by else "")),
        ("crashes", str(bug.crashes)),
        ("first seen", iso(bug.first_seen)),
        ("last seen", iso(bug.last_seen)),
        ("guilty file", bug.guilty_file or "unknown"),
    ]
    others = [title for title, _ in one.titles if title != bug.title]
    if others:
        facts.append(("also seen as", "; ".join(others)))
    lines += [f"- **{name}**: {_plain(value)}" for name, value in facts]
    if found is not None:
        lines += ["", "## Culprit", ""]
        probability = found.data.get("probability")
        sure = f", {probability:.1%}" if isinstance(probability, float) else ""
        lines.append(f"`{found.data['culprit'][:12]}` {_plain(found.data.get('subject') or '')}{sure}")
    for finding in one.findings:
        if finding.kind in (FindingKind.LEDGER, FindingKind.DUMP):
            lines += ["", f"- {finding.kind}: {_plain(finding.summary)}"]
    report: dict[str, Any] | None = one.best
    if report is not None and report.get("text"):
        lines += ["", "## Report", "", _fenced(str(report["text"])[:LONGEST_REPORT])]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return text with what Markdown and HTML would take for their own escaped."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    """Return a block of code whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"
