"""What pages ask of a store, on SQLite and on PostgreSQL: when crashes came, whose findings are whose."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ktriage.case.store import timeline as timelines
from ktriage.case.store.better import better
from ktriage.case.store.loose import give, loose
from ktriage.case.store.timeline import timeline
from ktriage.case.store.types import FindingKind
from ktriage.case.timeline import plot_timeline
from ktriage.console import read_crashes
from ktriage.errors import UserError

DAY = 86400.0
BEGIN = 1_700_000_000.0


def add(store, log: bytes, when: float) -> int:
    (bug,) = store.add_log("a log", log, read_crashes(log), when=when).bugs
    return bug


def test_a_timeline_counts_each_crash_in_its_stretch(store, make_log, monkeypatch):
    assert timeline(store, 1) is None
    for number in range(24):
        log = make_log("alpha", number=number)
        if number % 4 == 0:
            log = log.replace(b"6.1.0", b"6.6.3")
        # 20 hours apart: in places where a cast that rounds is not one that cuts.
        bug = add(store, log, BEGIN + number * DAY * 5 / 6)
    line = timeline(store, bug)
    assert line is not None
    assert (line.width, line.start % 43200, line.bins, line.crashes) == (43200, 0.0, 40, 24)
    placed = sorted(place for place, _, _, count in line.counts for _ in range(count))
    assert placed == [int((BEGIN + n * DAY * 5 / 6 - line.start) // 43200) for n in range(24)]
    plot = plot_timeline(line)
    ((heading, lanes),) = [(group.heading, group.lanes) for group in plot.groups]
    assert (heading, [(lane.label, lane.count) for lane in lanes]) == (
        "by kernel", [("6.1.0", 18), ("6.6.3", 6)],
    )  # fmt: skip
    assert sum(count for _, count, _, _ in plot.rows) == 24
    monkeypatch.setattr(timelines, "MOST_TIMED", 10)
    line = timeline(store, bug)
    assert line is not None
    assert line.crashes == 10
    assert line.start > BEGIN + 13 * DAY * 5 / 6 - line.width


def test_a_finding_of_no_bug_is_given_one(store, make_log):
    bug = add(store, make_log("alpha"), BEGIN)
    numbers = [
        store.add_finding(FindingKind.LEDGER, f"{n}", f"ledger {n}", {}, when=BEGIN + n) for n in range(3)
    ]
    store.add_finding(FindingKind.MAIL, "mail", "mail", {}, bug=bug)
    assert [one.id for one in loose(store, 2)] == numbers[:0:-1]
    give(store, numbers[2], bug)
    assert [one.id for one in loose(store, 9)] == numbers[1::-1]
    assert {one.summary for one in store.findings(bug)} == {"ledger 2", "mail"}
    with pytest.raises(UserError, match="there is no bug 99"):
        give(store, numbers[1], 99)
    with pytest.raises(UserError, match="there is no finding 999"):
        give(store, 999, bug)


def test_a_log_that_is_read_better(store, make_log):
    log = make_log("alpha")
    bug = add(store, log, BEGIN)
    (crash,) = read_crashes(log)
    with_lines = replace(crash, stack=tuple(replace(frame, file="a.c", line=7) for frame in crash.stack))
    assert better(store, make_log("beta"), [with_lines]) == 0
    assert better(store, log, [replace(with_lines, start=5)]) == 0
    assert better(store, log, [with_lines]) == 1
    assert better(store, log, [with_lines, crash]) == 0
    (entry,) = store.crashes(bug)
    assert json.loads(store.blob(entry.report))["stack"][0]["line"] == 7
