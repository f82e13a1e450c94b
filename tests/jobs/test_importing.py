"""Folders of logs into a store: each once, whatever else lies there."""

from __future__ import annotations

import gzip
import json
import os
import signal
from pathlib import Path

import pytest
import zstandard

from ktriage.case.store import Store, open_store
from ktriage.case.store.types import FindingKind
from ktriage.cli import main
from ktriage.console.journal import boots, is_journal
from ktriage.jobs.importing import Imported, import_logs

OOPS = """[    1.000000] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:{function}+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  caller+0x1be/0x22c
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder as a CI keeps one, and a syz-manager's."""
    logs = tmp_path / "logs"
    (logs / "night/1").mkdir(parents=True)
    (logs / "night/1/console.log").write_text(OOPS.format(function="alpha"))
    (logs / "night/1/same.log").write_text(OOPS.format(function="alpha"))
    (logs / "quiet.log").write_text("[    1.000000] all is well\n")
    (logs / "picture.bin").write_bytes(bytes(range(256)) * 99)
    (logs / ".hidden").write_text(OOPS.format(function="hidden"))
    (logs / "a.log.gz").write_bytes(gzip.compress(OOPS.format(function="beta").encode()))
    (logs / "b.log.zst").write_bytes(zstandard.compress(OOPS.format(function="gamma").encode())[:-9])
    crash = logs / "crashes/0123456789abcdef"
    crash.mkdir(parents=True)
    (crash / "description").write_text("BUG: unable to handle kernel NULL pointer dereference in delta\n")
    (crash / "log0").write_text(OOPS.format(function="delta"))
    (crash / "report0").write_text(OOPS.format(function="delta"))
    (crash / "machineInfo0").write_text("QEMU\n")
    (crash / "repro.prog").write_text("r0 = socket(0x2, 0x1, 0x0)\n")
    return logs


def names(store: Store) -> set[str]:
    return {bug.title.rpartition(" ")[2] for bug in store.bugs()[0]}


def test_all_logs_once(folder, tmp_path, capsys):
    command = ["import", "--case", str(tmp_path / "case.db"), "--jobs", "2", "--json", str(folder)]
    assert main(command) == 0
    *each, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (last["logs"], last["new"], last["unreadable"]) == (7, 3, 1)
    assert sum(one["known"] for one in each) == 1  # the same log by another name
    (bad,) = [one for one in each if one["error"]]
    assert bad["source"].endswith("b.log.zst")
    store = open_store(tmp_path / "case.db")
    assert names(store) == {"alpha", "beta", "delta"}
    (finding,) = store.findings(kind=FindingKind.REPRODUCER)
    assert store.blob(finding.blob) == b"r0 = socket(0x2, 0x1, 0x0)\n"
    assert store.bug(finding.bug).title.endswith("delta")
    before = [store.bug(bug.id) for bug in store.bugs()[0]]
    assert main(command) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["known"], last["new"]) == (6, 0)
    assert [store.bug(bug.id) for bug in store.bugs()[0]] == before
    assert main([*command[:-1], str(tmp_path / "absent")]) == 2
    assert main([*command[:-1], "--jobs", "0", str(folder)]) == 2


def export(function: str, boot: str, *, binary: bool = False) -> bytes:
    """Return a journal's export with a crash, and with what is not the kernel's."""
    lines = []
    for number, line in enumerate(OOPS.format(function=function).splitlines()):
        message = line.split("] ", 1)[1].encode()
        text = b"MESSAGE=" + message
        if binary:
            text = b"MESSAGE\n" + len(message).to_bytes(8, "little") + message
        lines.append(
            b"__CURSOR=s=1\n__REALTIME_TIMESTAMP=1700000000%06d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=%s\n"
            b"_TRANSPORT=kernel\n%s\n\n" % (number, 12345678 + number, boot.encode(), text)
        )
        lines.append(
            b"__CURSOR=s=2\n_BOOT_ID=%s\n_TRANSPORT=stdout\nMESSAGE=BUG: not ours\n\n" % boot.encode()
        )
    return b"".join(lines)


@pytest.mark.parametrize("binary", [False, True])
def test_a_journal_is_a_log_a_boot(tmp_path, binary):
    data = export("alpha", "b1", binary=binary) + export("beta", "b2", binary=binary)
    assert is_journal(data[:100])
    found = boots(data)
    assert [boot.boot for boot in found] == ["b1", "b2"]
    assert b"not ours" not in found[0].text
    assert found[0].text.startswith(b"[   12.345678] Linux version 6.1.0")
    assert found[0].when == pytest.approx(1700000000.0, abs=1)
    (tmp_path / "journal").write_bytes(data)
    store = open_store(tmp_path / "case.db")
    import_logs(store, [tmp_path / "journal"], jobs=1)
    assert names(store) == {"alpha", "beta"}
    assert store.bugs()[0][0].last_seen == pytest.approx(1700000000.0, abs=1)


def test_a_journal_as_json():
    lines = [
        {"__REALTIME_TIMESTAMP": "1700000000000000", "_TRANSPORT": "kernel", "_BOOT_ID": "b",
         "MESSAGE": line.split("] ", 1)[1]}
        for line in OOPS.format(function="alpha").splitlines()
    ]  # fmt: skip
    lines[-1]["MESSAGE"] = list(b" caller+0x1be/0x22c")  # as journalctl writes what is no UTF-8
    data = "\n".join(json.dumps(line) for line in lines).encode()
    assert is_journal(data)
    (boot,) = boots(data + b"\n{broken\n[1]\n")
    assert b"RIP: 0010:alpha" in boot.text
    assert boot.text.endswith(b" caller+0x1be/0x22c\n")


def test_a_spoilt_journal_raises_nothing():
    data = export("alpha", "b1", binary=True)
    for end in range(0, len(data), 37):
        boots(data[:end])
        boots(data[:end] + os.urandom(64) + data[end:])


def test_what_kills_its_reader_is_passed_over(folder, tmp_path, monkeypatch):
    (folder / "killer.log").write_text("kill")
    monkeypatch.setattr("ktriage.jobs.importing.read_crashes", _deadly)
    told: list[Imported] = []
    store = open_store(tmp_path / "case.db")
    import_logs(store, [folder], jobs=2, tell=told.append)
    assert [Path(one.source).name for one in told if one.error == "its reader died"] == ["killer.log"]
    assert names(store) == {"alpha", "beta", "delta"}


def _deadly(data: bytes, source: str = "") -> list:
    from ktriage.console import read_crashes

    if data == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_crashes(data, source)
