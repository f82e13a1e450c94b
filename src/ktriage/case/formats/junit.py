"""A run of trials as JUnit XML, which CI systems show: a crash is a failure, a machine that failed an error.

The form is Jenkins' and GitLab's common one: ``testsuites``, ``testsuite``, ``testcase``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILURES = (OutcomeKind.CRASHED, OutcomeKind.OTHER_CRASH, OutcomeKind.HUNG)
ERRORS = (OutcomeKind.BUILD_FAILED, OutcomeKind.BOOT_FAILED)
LONGEST = 64 << 10
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no place for, not even escaped."""


@dataclass(frozen=True, slots=True)
class TrialCase:
    """One trial: its name, what it came to, and the text of its crash."""

    name: str
    outcome: OutcomeKind
    seconds: float = 0.0
    title: str | None = None
    text: str = ""
    detail: str = ""


def junit(name: str, trials: Sequence[TrialCase]) -> str:
    """Return the XML of a suite of trials."""
    failed = sum(trial.outcome in FAILURES for trial in trials)
    errors = sum(trial.outcome in ERRORS for trial in trials)
    skipped = sum(trial.outcome is OutcomeKind.INFRA for trial in trials)
    counts = {
        "tests": str(len(trials)), "failures": str(failed), "errors": str(errors), "skipped": str(skipped),
        "time": f"{sum(trial.seconds for trial in trials):.3f}",
    }  # fmt: skip
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(name), **counts})
    for trial in trials:
        case = ElementTree.SubElement(
            suite, "testcase",
            {"name": _text(trial.name), "classname": _text(name), "time": f"{trial.seconds:.3f}"},
        )  # fmt: skip
        message = _text(trial.title or trial.detail or str(trial.outcome))
        if trial.outcome in FAILURES:
            failure = ElementTree.SubElement(
                case, "failure", {"message": message, "type": str(trial.outcome)}
            )
            failure.text = _text(trial.text)[:LONGEST]
        elif trial.outcome in ERRORS:
            ElementTree.SubElement(case, "error", {"message": message, "type": str(trial.outcome)})
        elif trial.outcome is OutcomeKind.INFRA:
            ElementTree.SubElement(case, "skipped", {"message": message})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
