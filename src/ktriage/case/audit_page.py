"""An audit of someone else's bisection as one self-contained HTML page; see ``page`` for its rules."""

from __future__ import annotations

from ktriage.case.audit import (
    Audit,
    claim,
    heading,
    outside_words,
    runs_of,
    stretch_words,
    summary,
    verdict_of,
)
from ktriage.case.page import OUTCOMES, environment

WEIGHTS = {
    "strong": "may make the answer wrong",
    "weak": "to be kept in mind",
    "note": "no reason to worry",
}


def render_audit_page(audit: Audit) -> str:
    """Return the page of ``audit`` as one HTML document."""
    belief = audit.judgement.belief
    hunted = belief.hunted if belief else None
    seen = {kind for revision in audit.log.revisions for kind, _ in runs_of(revision, hunted)}
    template = environment().get_template("audit.html.j2")
    return template.render(
        audit=audit,
        log=audit.log,
        belief=belief,
        hunted=hunted,
        doubts=audit.judgement.doubts,
        crash=audit.crash,
        heading=heading(audit.log),
        claim=claim(audit.log),
        outcomes=[(kind, words) for kind, words in OUTCOMES.items() if kind in seen],
        frames=[(frame, None) for frame in audit.crash.stack if frame.reliable] if audit.crash else [],
        weights=WEIGHTS,
        outside=outside_words(audit.log),
        runs_of=runs_of,
        summary=summary,
        verdict_of=verdict_of,
        stretch_words=stretch_words,
    )
