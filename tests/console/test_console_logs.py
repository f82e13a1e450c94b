"""Whole logs: where crashes stand, what follows from what, floods, and the ways logs come in."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard
from console_reports import GPF, KASAN, REFCOUNT, WARNING

from ktriage.console import Crash, Flood, read, read_crashes
from ktriage.console.reader import Reader
from ktriage.console.scan import _small, candidates
from ktriage.console.sources import chunks, followed, whole
from ktriage.errors import UserError

BENIGN = b"".join(
    b"[%12.6f][ T%4d] usb 1-%d: new high-speed USB device number %d using xhci_hcd (%s)\n"
    % (number / 10, number % 97, number % 8, number, bytes([97 + number % 26]) * (number % 13))
    for number in range(20_000)
)


def titles(log: bytes) -> list[str]:
    return [crash.title for crash in read_crashes(log)]


def test_places_are_of_the_raw_log() -> None:
    log = b"boot\r\n" + WARNING.replace(b"\n", b"\r\n")
    (crash,) = read_crashes(log)
    assert log[crash.start : crash.end].startswith(b"[   55.967976] WARNING: CPU: 1")
    assert crash.line == 3
    assert "\r" not in crash.text


def test_crashes_in_a_big_log() -> None:
    log = BENIGN + WARNING + BENIGN + GPF + BENIGN
    findings = read(log)
    assert [finding.title for finding in findings] == [
        "WARNING in module_put",
        "general protection fault in bar_timeout",
        "kernel panic: Fatal exception",
    ]
    for crash in findings:
        assert crash.line == 1 + log.count(b"\n", 0, crash.start)
    reader = Reader()
    streamed = [found for at in range(0, len(log), 300_000) for found in reader.feed(log[at : at + 300_000])]
    assert [*streamed, *reader.close()] == findings


def test_what_follows_has_its_cause() -> None:
    crashes = read_crashes(REFCOUNT + BENIGN + WARNING)
    assert [(crash.title, crash.cause) for crash in crashes] == [
        ("WARNING: refcount bug in vethx_put_peer", None),
        ("kernel panic: kernel: panic_on_warn set ...", 0),
        ("WARNING in module_put", None),
    ]
    assert crashes[0].panicked
    assert not crashes[2].panicked


def test_trap_behind_a_bug_is_the_same_crash() -> None:
    log = (
        b"kernel BUG at a.c:1!\nOops: invalid opcode: 0000 [#1] SMP\nRIP: 0010:f+0x1/0x2\n"
        b"Call Trace:\n f+0x1/0x2\n"
    )
    assert titles(log) == ["kernel BUG in f"]


def test_replayed_messages_are_read_once() -> None:
    assert titles(GPF + GPF) == titles(GPF)


def test_flood_is_reported_once() -> None:
    flood = b"".join(
        b"[%5d.%06d] alx 0000:03:00.0 enp3s0: fatal interrupt 0x%x, resetting\n" % (9 + n // 100, n % 100, n)
        for n in range(5000)
    )
    (finding,) = read(BENIGN + flood + BENIGN)
    assert isinstance(finding, Flood)
    assert finding.count == 5000
    assert "fatal interrupt" in finding.title
    assert finding.start == len(BENIGN)
    assert finding.end == len(BENIGN) + len(flood) - 1
    assert finding.line == BENIGN.count(b"\n") + 1
    assert finding.rate == pytest.approx(100, rel=0.05)


def test_storm_of_one_warning_becomes_a_flood() -> None:
    log = b"".join(b"[%5d.000000] WARNING: widget %d is loose\n" % (n, n) for n in range(1000))
    findings = read(log)
    floods = [finding for finding in findings if isinstance(finding, Flood)]
    crashes = [finding for finding in findings if isinstance(finding, Crash)]
    assert len(crashes) + sum(flood.count for flood in floods) == 1000
    assert len(crashes) < 50


def _journal_json(log: bytes) -> bytes:
    lines = []
    for line in log.decode().splitlines():
        text = line.partition("] ")[2]
        entry = {"_TRANSPORT": "kernel", "__MONOTONIC_TIMESTAMP": "55967976", "MESSAGE": text}
        lines.append(json.dumps(entry))
    return "\n".join(lines).encode() + b"\n"


def _kmsg(log: bytes) -> bytes:
    rows = []
    for number, line in enumerate(log.decode().splitlines()):
        rows.append(f"4,{number},{55967976 + number},-,caller=T812;{line.partition('] ')[2]}\n")
    return "".join(rows).encode()


def _prefixed(log: bytes, prefix: str, *, bare: bool = False) -> bytes:
    lines = log.decode().splitlines()
    return "".join(f"{prefix}{line.partition('] ')[2] if bare else line}\n" for line in lines).encode()


@pytest.mark.parametrize(
    "log",
    [
        _prefixed(WARNING, "Nov 20 05:11:22 box kernel: ", bare=True),
        _prefixed(WARNING, "Nov 20 05:11:22 box kernel: "),
        _prefixed(WARNING, "2026-11-20T05:11:22.123456+01:00 box kernel: "),
        _prefixed(WARNING, "[   55.967976] box kernel: ", bare=True),
        _prefixed(WARNING, "[2026-11-20 05:11:22] "),
        _prefixed(WARNING, "> "),
        _prefixed(WARNING, "> > Nov 20 05:11:22 box kernel: "),
        _prefixed(WARNING, "<4>"),
        _journal_json(WARNING),
        _kmsg(WARNING),
    ],
)
def test_wrapped_logs(log: bytes) -> None:
    (crash,) = read_crashes(log)
    assert crash.title == "WARNING in module_put"
    assert "tcp_cleanup_ulp" in [frame.function for frame in crash.stack]
    assert crash.comm == "server"
    assert crash.corrupted is None


def test_mail_that_wrapped_its_lines() -> None:
    mail = "Subject: it crashed\n\n" + "".join(
        f"> {line.partition('] ')[2]}\n" for line in WARNING.decode().splitlines()
    )
    long = "> WARNING: CPU: 1 PID: 812 at kernel/module/main.c:842 module_put+0x7d/0x90\n"
    broken = "> WARNING: CPU: 1 PID: 812 at kernel/module/main.c:842\n> module_put+0x7d/0x90\n"
    assert long in mail
    (crash,) = read_crashes(mail.replace(long, broken).encode())
    assert crash.title == "WARNING in module_put"


COMPRESSORS = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_logs(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](KASAN) + COMPRESSORS[suffix](b"more\n"))
    assert b"".join(chunks(str(path))) == KASAN + b"more\n"
    (crash,) = read(path)
    assert crash.source == str(path)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_log_cut_short(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    path.write_bytes(COMPRESSORS[suffix](os.urandom(100_000))[:50_000])
    with pytest.raises(UserError, match=r"log\.\w+: "):
        list(chunks(str(path)))


def test_a_log_read_whole_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(bytes(3 << 20)))
    assert whole(str(path), 3 << 20) == bytes(3 << 20)
    with pytest.raises(UserError, match=r"log\.gz: unpacks to over 2 MiB"):
        whole(str(path), 2 << 20)


def test_pstore(tmp_path: Path) -> None:
    half = len(WARNING) // 2
    cut = WARNING.index(b"\n", half) + 1
    (tmp_path / "dmesg-efi_pstore-17001").write_bytes(b"Oops#1 Part1\n" + WARNING[cut:])
    (tmp_path / "dmesg-efi_pstore-17002").write_bytes(b"Oops#1 Part2\n" + WARNING[:cut])
    (crash,) = read_crashes(b"".join(chunks(str(tmp_path))))
    assert crash.title == "WARNING in module_put"
    assert "tcp_cleanup_ulp" in [frame.function for frame in crash.stack]


def test_log_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        list(chunks(str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="directory"):
        list(chunks(str(tmp_path)))


def test_followed_file_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    stream = followed(str(path))
    assert next(stream) == b"one\n"
    with path.open("ab") as file:
        file.write(b"two\n")
    assert next(stream) == b"two\n"
    path.unlink()
    (tmp_path / "new").write_bytes(b"three\n")
    (tmp_path / "new").rename(path)
    assert next(chunk for chunk in stream if chunk) == b"three\n"


def _report(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ktriage", "report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload, no-any-return]  # options are run()'s own


def test_report_json(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(REFCOUNT)
    done = _report("--json", "--exit-code", str(path))
    assert done.returncode == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["kind"] == "crash"
    assert first["source"] == str(path)
    assert first["title"] == "WARNING: refcount bug in vethx_put_peer"
    assert first["stack"][0]["function"] == "refcount_warn_saturate"
    assert second["cause"] == 0
    only = _report("--json", "--first", str(path), str(path))
    assert len(only.stdout.splitlines()) == 2


def test_report_reads_standard_input() -> None:
    done = _report(input=KASAN.decode())
    assert done.returncode == 0
    assert "KASAN: slab-use-after-free Read in foo_release" in done.stdout
    assert _report("--exit-code", "-", input="all is well\n").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nonexistent/log"], "No such file"),
        (["/proc/self/fd"], "directory"),
        (["--vmlinux", "/nonexistent/vmlinux", "-"], "no such file"),
        (["--follow", "a", "b"], "--follow reads one log"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], says: str) -> None:
    done = _report(*arguments, input="")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_followed_crash_comes_out_while_the_log_is_open(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(WARNING)
    command = [sys.executable, "-m", "ktriage", "report", "--json", "--follow", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["title"] == "WARNING in module_put"
            with path.open("ab") as file:
                file.write(KASAN)
            begin = time.monotonic()
            assert json.loads(process.stdout.readline())["title"].startswith("KASAN")
            assert time.monotonic() - begin < 30
        finally:
            process.kill()


def test_both_ways_of_scanning_find_the_same() -> None:
    log = (BENIGN + WARNING + GPF + REFCOUNT) * 2
    assert len(log) > 1 << 20
    assert candidates(log) == sorted(set(_small(log)))
