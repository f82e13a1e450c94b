"""Fuzz the reading of console logs: no exception, sane findings, the same ones however the log comes in.

usage: fuzz/console_log.py [--cpu-minutes N] [--max-mb N] [LIBFUZZER-OPTION]... [INPUT]...

It begins with the project's own logs and, where it is there, the corpus (``$KTRIAGE_CORPUS``, or
``../shared/corpus`` beside the checkout).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ktriage"]):
    from ktriage.console.formats.headers import HEADERS
    from ktriage.console.reader import Reader
    from ktriage.console.types import Crash

from harness import fuzz

ROOT = Path(__file__).parents[1]
CORPUS = Path(os.environ.get("KTRIAGE_CORPUS", ROOT.parent / "shared" / "corpus"))
WORDS = (
    *HEADERS,
    "[    1.234567] ",
    "[    1.234567][    T1] ",
    "[    1.234567][    C0] ",
    "\r\n",
    "\0",
    "> ",
    "Call Trace:",
    "RIP: 0010:func+0x10/0x20",
    " func+0x10/0x20 [mod]",
    " ? func+0x10/0x20",
    "Kernel panic - not syncing: ",
    "---[ cut here ]---",
    "---[ end Kernel panic - not syncing",
    "---[ end trace 0000000000000000 ]---",
    "Modules linked in: a(OE) b [last unloaded: c]",
    "Code: 0f <0b>",
    "Sending NMI from CPU 0 to CPUs 1:",
    "NMI backtrace for cpu 1",
    "Showing all locks held in the system:",
    "** 3 printk messages dropped ** ",
    "ref_tracker: ",
    '{"MESSAGE": "',
    "6,1,1,-,caller=T1;",
    "Nov 20 05:11:22 host kernel: ",
    "rust_kernel: panicked",
    "_RNv",
    "Linux version ",
)


def _found(crash: Crash) -> tuple[object, ...]:
    return crash.title, crash.start, crash.line, crash.type, crash.corrupted, crash.guilty_file


def target(data: bytes) -> None:
    """Read a log whole and in two pieces."""
    findings = list(Reader("log").read(data))
    crashes = [finding for finding in findings if isinstance(finding, Crash)]
    for finding in findings:
        json.dumps(finding.to_json())
    for index, crash in enumerate(crashes):
        assert 0 <= crash.start <= crash.end <= len(data)
        assert crash.title
        assert crash.line == 1 + data.count(b"\n", 0, crash.start)
        assert crash.cause is None or 0 <= crash.cause < index
    assert [crash.start for crash in crashes] == sorted(crash.start for crash in crashes)
    reader = Reader("log")
    half = len(data) // 2
    pieces = [*reader.feed(data[:half]), *reader.feed(data[half:]), *reader.close()]
    # What is kept to look back on, and where floods are looked for, depends on how the log came in.
    again = [_found(finding) for finding in pieces if isinstance(finding, Crash)]
    assert again == [_found(crash) for crash in crashes]


def logs() -> list[bytes]:
    """Return the logs to begin with."""
    files = [*(ROOT / "tests/fixtures/console").glob("*.log"), *CORPUS.glob("console/*.txt")]
    return [file.read_bytes() for file in files]


if __name__ == "__main__":
    fuzz("console_log", target, logs(), WORDS)
