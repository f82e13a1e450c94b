"""Bugs as syzbot's dashboard gives them with ``json=1`` (dashboard/api/api.go of syzkaller, version 1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ktriage.case.formats.bundle import iso

if TYPE_CHECKING:
    from ktriage.case.formats.bundle import BugBundle

VERSION = 1
_COMPILER = re.compile(r"\(((?:gcc|clang|Debian clang)[^()]*(?:\([^()]*\))?[^()]*)\)")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def syzbot(one: BugBundle) -> dict[str, Any]:
    """Return a bug as an object of syzbot's form; links, of which there are none, are left out."""
    bug, found = one.bug, one.bisection
    data: dict[str, Any] = {
        "version": VERSION,
        "title": bug.title,
        "id": str(bug.id),
        "first-crash": iso(bug.first_seen),
        "last-crash": iso(bug.last_seen),
        "discussions": None,
        "crashes": [
            {"title": entry.title, "compiler-description": _compiler(report), "architecture": "amd64"}
            for entry, report in one.crashes
        ],
    }
    if found is not None:
        subject = found.data.get("subject") or ""
        data["cause-commit"] = {
            "title": subject,
            "hash": found.data["culprit"],
            "repo": found.data.get("repo", ""),
        }
    if bug.fixed_by:
        fixed = _COMMIT.fullmatch(bug.fixed_by)
        data["fix-commits"] = [{"hash": bug.fixed_by, "title": ""} if fixed else {"title": bug.fixed_by}]
    return data


def _compiler(report: dict[str, Any]) -> str:
    match = re.search(
        r"\(((?:gcc|clang|Debian clang)[^()]*(?:\([^()]*\))?[^()]*)\)", report.get("kernel") or ""
    )
    return match[1].strip() if match else ""
