"""The reader against logs that syzbot's own reporter was tested with, where the corpus is at hand.

``$KTRIAGE_CORPUS``, or ``../shared/corpus`` beside the checkout. Prints a table by crash type (pytest -s)
and holds what was reached as a floor.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktriage.console import Crash, read_crashes

CORPUS = Path(os.environ.get("KTRIAGE_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
pytestmark = pytest.mark.skipif(
    not (CORPUS / "console").is_dir(), reason=f"no corpus of console logs at {CORPUS} (set KTRIAGE_CORPUS)"
)

TITLES_FLOOR = 384
CASES_FLOOR = 384
GUILTY_FLOOR = 37

_HEADER = re.compile(rb"(?:#.*|[A-Z]+: .*)\n")
_REPORT = re.compile(rb"(?:^|\n)\nREPORT:\n")


@dataclass(frozen=True)
class Case:
    name: str
    want: dict[str, list[str]]
    log: bytes
    report: bytes | None

    @property
    def kind(self) -> str:
        if "TITLE" not in self.want:
            return "no crash"
        return self.want.get("TYPE", ["UNKNOWN"])[0]


def load(path: Path) -> Case:
    data = path.read_bytes().replace(b"\r", b"")
    head, _, log = data.partition(b"\n\n")
    want: dict[str, list[str]] = defaultdict(list)
    if all(_HEADER.fullmatch(line + b"\n") for line in head.split(b"\n")) and b"TITLE: " in head:
        for line in head.decode().split("\n"):
            if not line.startswith("#"):
                key, _, value = line.partition(": ")
                want[key].append(value)
    else:
        log = data.removeprefix(b"\n")
    report = None
    if match := _REPORT.search(log):
        log, report = log[: match.end() - len(b"REPORT:\n")], log[match.end() :]
    return Case(path.stem, dict(want), log, report)


def compared(case: Case, crash: Crash) -> dict[str, tuple[object, object]]:
    want = case.want
    executor = crash.executor
    pairs: dict[str, tuple[object, object]] = {
        "TITLE": (crash.title, want["TITLE"][0]),
        "ALT": (sorted(crash.alt_titles), sorted(want.get("ALT", []))),
        "TYPE": (crash.type, want.get("TYPE", [None])[0]),
        "CORRUPTED": (crash.corrupted is not None, want.get("CORRUPTED") == ["Y"]),
        "SUPPRESSED": (crash.suppressed, want.get("SUPPRESSED") == ["Y"]),
        "PANICKED": (crash.panicked, want.get("PANICKED") == ["Y"]),
        "EXECUTOR": (
            executor and f"proc={executor['proc']}, id={executor['id']}",
            want.get("EXECUTOR", [None])[0],
        ),
    }
    if "FRAME" in want:
        pairs["FRAME"] = crash.frame, want["FRAME"][0]
    if case.report is not None:
        pairs["REPORT"] = crash.text, case.report.decode(errors="replace")
    if "START" in want:
        first, last = want["START"][0].encode(), want.get("END", want["START"])[0].encode()
        place = case.log.index(first), case.log.index(last) + len(last)
        pairs["PLACE"] = (crash.start, crash.end), place
    again = read_crashes(case.log[crash.start :])[0]
    pairs["AGAIN"] = (again.title, again.start), (crash.title, 0)
    after = read_crashes(case.log[crash.end :])
    pairs["AFTER"] = bool(after and after[0].title == crash.title), False
    return pairs


def differences(case: Case) -> dict[str, tuple[object, object]]:
    crashes = read_crashes(case.log)
    if "TITLE" not in case.want:
        return {"TITLE": (crashes[0].title, None)} if crashes else {}
    if not crashes:
        return {"TITLE": (None, case.want["TITLE"][0])}
    return {key: pair for key, pair in compared(case, crashes[0]).items() if pair[0] != pair[1]}


def test_console_logs() -> None:
    total: Counter[str] = Counter()
    titles: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    wrong: list[str] = []
    for path in sorted((CORPUS / "console").glob("*.txt"), key=lambda path: int(path.stem)):
        case = load(path)
        different = differences(case)
        total[case.kind] += 1
        titles[case.kind] += "TITLE" not in different
        whole[case.kind] += not different
        wrong += [f"{case.name} {key}: got {got!r}, want {want!r}" for key, (got, want) in different.items()]
    sys.stdout.write(f"\n{'type':36} {'logs':>5} {'title':>6} {'all':>5}\n")
    for kind, count in total.most_common():
        sys.stdout.write(f"{kind:36} {count:5} {titles[kind]:6} {whole[kind]:5}\n")
    sys.stdout.write(f"{'':36} {total.total():5} {titles.total():6} {whole.total():5}\n")
    assert whole["no crash"] == total["no crash"], wrong
    assert titles.total() >= TITLES_FLOOR, wrong
    assert whole.total() >= CASES_FLOOR, wrong


def test_guilty_files() -> None:
    right = 0
    wrong: list[str] = []
    for path in sorted((CORPUS / "guilty").glob("*.txt"), key=lambda path: int(path.stem)):
        data = path.read_bytes()
        while data.startswith(b"#"):
            data = data.partition(b"\n")[2]
        head, _, report = data.partition(b"\n\n")
        want = head.decode().removeprefix("FILE:").strip()
        crashes = read_crashes(report)
        got = crashes[0].guilty_file or "" if crashes else None
        right += got == want
        wrong += [f"{path.stem}: got {got!r}, want {want!r}"] if got != want else []
    sys.stdout.write(f"\nguilty files: {right} right, wrong: {wrong}\n")
    assert right >= GUILTY_FLOOR, wrong
