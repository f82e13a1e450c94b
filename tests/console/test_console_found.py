"""What the fuzzer and logs made to hurt have found, and what mending it must not have broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ktriage.console import Crash, read_crashes
from ktriage.console.reader import Reader

REPORT = b"""\
BUG: unable to handle page fault for address: 0000000000000010
CPU: 0 PID: 1 Comm: bench Not tainted
RIP: 0010:broken+0x1/0x20
Call Trace:
 caller+0x10/0x20
"""


@pytest.mark.parametrize(
    ("line", "suppressed"),
    [
        (b"executor sshd " * 3000, False),
        (b"executor sshd " * 3000 + b"Killed process 12 (sshd)", True),
        (b"Killed process 12 (sshd)" + b"executor sshd " * 3000, True),
        (b"executor sshd " * 1500 + b"Killed process 12 (sshd)" + b" executor sshd" * 1500, True),
        (b"executor\nsshd\nKilled process 12 (sshd)\nexecutor", True),
    ],
)
def test_words_of_by_products_are_read_wherever_they_stand(line, suppressed):
    (crash,) = read_crashes(REPORT + line + b"\n")
    assert crash.suppressed == suppressed


def test_every_lock_is_told_once_in_the_log_s_order():
    head = (
        b"INFO: task bench:12 blocked for more than 120 seconds.\n"
        b"Call Trace:\n __schedule+0x1/0x2\n mutex_lock+0x1/0x2\n broken+0x1/0x2\n\n"
        b"Showing all locks held in the system:\n"
    )
    one = b"1 lock held by bench/%d:\n #0: ffff88800000%04x (&a->lock){+.+.}-{3:3}, at: f+0x1/0x2\n"
    numbers = [7, 3, 9, 3, 1]
    (crash,) = read_crashes(head + b"".join(one % (n, n) for n in numbers))
    assert [lock.pid for lock in crash.locks] == [7, 3, 9, 1]


def test_a_crash_has_the_release_of_the_last_boot_before_it():
    def booted(release: bytes) -> bytes:
        return b"Linux version %s (a@b) #1\n" % release

    other = REPORT.replace(b"broken", b"other").replace(b"0010", b"0020")
    log = REPORT + booted(b"6.1.0") + booted(b"6.2.0") + other + booted(b"6.3.0")
    assert [crash.kernel for crash in read_crashes(log)] == [None, "6.2.0"]


def test_the_same_crashes_from_a_log_in_halves():
    filler = b"[    1.000000] a line of the log that says nothing\n" * 400
    log = filler + REPORT + filler + REPORT.replace(b"broken", b"other") + filler
    reader = Reader()
    half = len(log) // 2
    fed = [*reader.feed(log[:half]), *reader.feed(log[half:]), *reader.close()]
    halves = [finding for finding in fed if isinstance(finding, Crash)]
    whole = read_crashes(log)
    assert [(c.title, c.start, c.line) for c in whole] == [(c.title, c.start, c.line) for c in halves]
    assert len(whole) == 2


def test_source_lines_keep_their_indentation(tmp_path):
    (tmp_path / "a.c").write_text("int broken(void)\n{\n\treturn *(int *)0;\n}\n")
    log = tmp_path / "log"
    log.write_bytes(REPORT.replace(b"caller+0x10/0x20", b"caller+0x10/0x20 a.c:3"))
    command = [sys.executable, "-m", "ktriage", "report", "--src", tmp_path, log]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "        return *(int *)0;" in said


def test_modules_may_be_one_file(tmp_path):
    module = tmp_path / "a.ko"
    module.write_bytes(b"no module")
    log = tmp_path / "log"
    log.write_bytes(REPORT)
    command = [sys.executable, "-m", "ktriage", "report", "--modules", module, log]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
