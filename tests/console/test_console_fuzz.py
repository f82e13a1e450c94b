"""Whatever is fed, in whatever pieces: no exception, and sane findings."""

from __future__ import annotations

import string

from console_reports import GPF, HUNG, KASAN, LOCKDEP, REFCOUNT, WARNING
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktriage.console import Crash, Flood, read
from ktriage.console.formats.headers import HEADERS
from ktriage.console.reader import Finding, Reader
from ktriage.console.rust import demangled

LOGS = [WARNING, KASAN, GPF, LOCKDEP, HUNG, REFCOUNT]
WORDS = [
    *HEADERS,
    "Call Trace:",
    "\n",
    "\r\n",
    "[    1.234567] ",
    "[    1.234567][    T1] ",
    "[    1.234567][    C0] ",
    "RIP: 0010:func+0x10/0x20",
    " func+0x10/0x20 [mod]",
    " ? func+0x10/0x20",
    "Kernel panic - not syncing: ",
    "Modules linked in: a(OE) b [last unloaded: c]",
    "BUG: KASAN: use-after-free in func+0x10/0x20",
    "Read of size 8",
    "Sending NMI from CPU 0 to CPUs 1:",
    "at: func+0x1",
    "> ",
    '{"MESSAGE": "',
    "\0",
    "\ufffd",
]

pieces = st.lists(
    st.one_of(st.sampled_from(WORDS), st.text(string.printable, max_size=20)), max_size=120
).map("".join)
fast = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(log: bytes, findings: list[Finding]) -> None:
    crashes = [finding for finding in findings if isinstance(finding, Crash)]
    assert all(isinstance(finding, Crash | Flood) for finding in findings)
    for index, crash in enumerate(crashes):
        assert 0 <= crash.start <= crash.end <= len(log)
        assert crash.title
        assert crash.line == 1 + log.count(b"\n", 0, crash.start)
        assert crash.cause is None or 0 <= crash.cause < index
        crash.to_json()
    assert [crash.start for crash in crashes] == sorted(crash.start for crash in crashes)


@fast
@given(pieces)
def test_words_in_any_order(text: str) -> None:
    log = text.encode()
    check(log, read(log))


@fast
@given(st.binary(max_size=2000))
def test_bytes(log: bytes) -> None:
    check(log, read(log))


@fast
@given(st.sampled_from(LOGS), st.integers(0, 6000), st.integers(0, 6000))
def test_cut_anywhere(log: bytes, start: int, end: int) -> None:
    check(log[start:end], read(log[start:end]))


@fast
@given(st.sampled_from(LOGS), st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=40))
def test_bytes_flipped(log: bytes, flips: list[tuple[int, int]]) -> None:
    broken = bytearray(log)
    for place, value in flips:
        broken[place % len(broken)] = value
    check(bytes(broken), read(bytes(broken)))


@fast
@given(st.sampled_from(LOGS), st.sampled_from(LOGS), st.randoms(use_true_random=False))
def test_lines_of_two_cpus_mixed(one: bytes, other: bytes, random: object) -> None:
    queues = [one.splitlines(keepends=True), other.splitlines(keepends=True)]
    mixed = b""
    while any(queues):
        queue = random.choice([queue for queue in queues if queue])  # type: ignore[attr-defined]  # a Random
        mixed += queue.pop(0)
    check(mixed, read(mixed))


@fast
@given(st.lists(st.sampled_from(LOGS), min_size=1, max_size=4), st.lists(st.integers(1, 3000), min_size=1))
def test_any_chunks_give_the_same(logs: list[bytes], sizes: list[int]) -> None:
    log = b"".join(logs)
    reader = Reader()
    found: list[Finding] = []
    place = turn = 0
    while place < len(log):
        size = sizes[turn % len(sizes)]
        found += reader.feed(log[place : place + size])
        place, turn = place + size, turn + 1
    found += reader.close()
    assert found == read(log)


@fast
@given(st.text("CMXYNIBsu_0123456789abcijRQTSAFDEKLpPOn", max_size=200))
def test_rust_names(name: str) -> None:
    assert len(demangled("_R" + name)) < 1 << 20
    assert demangled(name) == name
