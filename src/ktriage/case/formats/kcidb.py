"""KCIDB's schema, version 5: bugs as issues, crashes as failed tests and their incidents.

The schema is kcidb-io's (kcidb_io/schema/v05_03.py): an identifier begins with the origin and a colon; text
has no NUL; an excerpt of a log has at most 16384 characters.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from ktriage.case.formats.bundle import iso
from ktriage.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ktriage.case.formats.bundle import BugBundle
    from ktriage.case.store.types import Bug

VERSION = {"major": 5, "minor": 3}
LONGEST_EXCERPT = 16384
ORIGIN = re.compile(r"[a-z0-9_]+")
UNKNOWN_KERNEL = "unknown"


def kcidb(bundles: Iterable[BugBundle], origin: str) -> dict[str, Any]:
    """Return a report for KCIDB: each kernel that crashed as a checkout and a build of it.

    Raises UserError where ``origin`` is no name that KCIDB takes.
    """
    if not ORIGIN.fullmatch(origin):
        raise UserError(f"{origin!r}: an origin has a to z, 0 to 9 and _ only")
    checkouts: dict[str, dict[str, Any]] = {}
    builds: dict[str, dict[str, Any]] = {}
    issues, tests, incidents = [], [], []
    for one in bundles:
        issue = _issue(one, origin)
        issues.append(issue)
        for entry, report in one.crashes:
            kernel = _text(report.get("kernel") or UNKNOWN_KERNEL)
            name = hashlib.sha256(kernel.encode()).hexdigest()[:16]
            checkout, build = f"{origin}:{name}", f"{origin}:{name}-build"
            checkouts[checkout] = {"id": checkout, "origin": origin, "comment": kernel, "valid": True}
            builds[build] = {"id": build, "origin": origin, "checkout_id": checkout, "status": "PASS"}
            test = f"{origin}:crash-{entry.id}"
            tests.append(
                {
                    "id": test, "origin": origin, "build_id": build, "path": "ktriage", "status": "FAIL",
                    "start_time": iso(entry.when), "comment": _text(entry.title),
                    "log_excerpt": _text(report.get("text") or "")[:LONGEST_EXCERPT],
                    "misc": {"title": entry.title, "line": entry.line, "source": entry.source or ""},
                }
            )  # fmt: skip
            incidents.append(
                {
                    "id": f"{test}-incident", "origin": origin, "issue_id": issue["id"],
                    "issue_version": issue["version"], "test_id": test, "present": True,
                }
            )  # fmt: skip
    return {
        "version": VERSION, "checkouts": list(checkouts.values()), "builds": list(builds.values()),
        "tests": tests, "issues": issues, "incidents": incidents,
    }  # fmt: skip


def _issue(one: BugBundle, origin: str) -> dict[str, Any]:
    bug, found = one.bug, one.bisection
    misc: dict[str, Any] = {
        "title": bug.title, "titles": [title for title, _ in one.titles], "type": bug.type,
        "state": str(bug.state), "crashes": bug.crashes, "first_seen": iso(bug.first_seen),
        "last_seen": iso(bug.last_seen), "guilty_file": bug.guilty_file,
    }  # fmt: skip
    if found is not None:
        misc["culprit"] = {
            "commit": found.data["culprit"],
            "subject": found.data.get("subject"),
            "probability": found.data.get("probability"),
        }
    if bug.fixed_by:
        misc["fixed_by"] = bug.fixed_by
    return {
        "id": f"{origin}:bug-{bug.id}", "origin": origin, "version": _version(bug, found is not None),
        "comment": _text(bug.title), "report_subject": _text(bug.title),
        "culprit": {"code": str(bug.state) != "invalid", "tool": False, "harness": False},
        "categories": ["linux.kernel"], "misc": {k: v for k, v in misc.items() if v is not None},
    }  # fmt: skip


def _version(bug: Bug, found: bool) -> int:
    """Return a number that grows with what is known: KCIDB shows the highest."""
    return int(bug.last_seen) * 4 + 2 * found + (str(bug.state) != "open")


def _text(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
