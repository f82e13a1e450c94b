"""Which logs land in one bug, against the titles that syzbot gave them, where the corpus is at hand."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import pytest

from ktriage.case.store import open_store
from ktriage.console import read_crashes

CORPUS = Path(os.environ.get("KTRIAGE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
pytestmark = pytest.mark.skipif(
    not (CORPUS / "console").is_dir(), reason=f"no corpus of console logs at {CORPUS} (set KTRIAGE_CORPUS)"
)


def wanted(data: bytes) -> tuple[str, frozenset[str], bytes] | None:
    """Return a case's title, all its titles, and its log; None where it has no crash."""
    head, _, log = data.replace(b"\r", b"").partition(b"\n\n")
    lines = [line.partition(": ") for line in head.decode(errors="replace").splitlines()]
    titles = [value for key, _, value in lines if key == "TITLE"]
    if not titles or data.startswith(b"\n"):
        return None
    return (
        titles[0],
        frozenset([*titles, *(value for key, _, value in lines if key == "ALT")]),
        log.split(b"\n\nREPORT:\n")[0],
    )


def test_one_bug_a_title(tmp_path):
    store = open_store(tmp_path / "case.db")
    placed: dict[str, tuple[str, frozenset[str], int]] = {}
    with store.batch():
        for path in sorted((CORPUS / "console").glob("*.txt")):
            case = wanted(path.read_bytes())
            crashes = (
                [crash for crash in read_crashes(case[2], path.name) if crash.cause is None] if case else []
            )
            if case and crashes:
                # Logs that are the same are one log.
                added = store.add_log(path.name, case[2] + path.name.encode(), crashes[:1])
                placed[path.name] = (case[0], case[1], added.bugs[0])
    assert len(placed) > 300
    apart, together = [], []
    for (a, (title, titles, bug)), (b, (other, others, second)) in combinations(placed.items(), 2):
        if title == other and bug != second:
            apart.append((a, b, title))
        if not titles & others and bug == second:
            together.append((a, b, title, other))
    assert apart == []
    # Through a third log that shares a title with each.
    for pair in together:
        print(pair)  # noqa: T201 (the list is what is asked for)
    assert len(together) <= 3
