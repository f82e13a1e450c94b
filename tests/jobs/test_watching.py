"""Logs watched as they come: folders, growing files, pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktriage.case.store import open_store
from ktriage.cli import main

OOPS = """[    1.000000] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: sh Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:{function}+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  caller+0x1be/0x22c
[   12.345686] ---[ end trace 0000000000000000 ]---
"""


@pytest.fixture
def watching(tmp_path) -> Iterator:
    """Return what watches sources, as a process whose lines can be read."""
    started = []

    def start(*sources: Path) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "ktriage",
            "watch",
            "--json",
            "--case",
            tmp_path / "case.db",
            *sources,
        ]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_folder_a_growing_file_and_a_pipe(tmp_path, watching):
    folder, file, pipe = tmp_path / "logs", tmp_path / "console.log", tmp_path / "serial"
    folder.mkdir()
    (folder / "old.log").write_text(OOPS.format(function="old"))
    os.utime(folder / "old.log", (1, 1))
    file.write_text("[    0.000000] Linux version 6.1.0 (a@b) #1\n")
    os.mkfifo(pipe)
    process = watching(folder, file, pipe)
    with pipe.open("w") as serial:
        serial.write(OOPS.format(function="by_pipe"))
        serial.flush()
        with file.open("a") as log:
            log.write(OOPS.format(function="grown"))
        (folder / "new").mkdir()
        (folder / "new" / "one.log").write_text(OOPS.format(function="fresh"))
        seen = [json.loads(process.stdout.readline()) for _ in range(4)]
    found = {one["title"].rpartition(" ")[2]: Path(one["source"]).name for one in seen}
    assert found == {"old": "old.log", "by_pipe": "serial", "grown": "console.log", "fresh": "one.log"}
    assert all(one["new"] for one in seen)
    process.terminate()
    assert process.wait(timeout=20) == 0
    store = open_store(tmp_path / "case.db")
    assert store.bugs()[1] == 4


def test_a_stream_that_ends_ends_it(tmp_path, watching):
    pipe = tmp_path / "serial"
    os.mkfifo(pipe)
    process = watching(pipe)
    pipe.write_text(OOPS.format(function="last"))
    assert json.loads(process.stdout.readline())["title"].endswith("last")
    began = time.monotonic()
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - began < 20


def test_a_missing_source_is_said(tmp_path, capsys):
    assert main(["watch", "--case", str(tmp_path / "case.db"), str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_import_fails_on_what_is_new(tmp_path, capsys):
    log = tmp_path / "a.log"
    log.write_text(OOPS.format(function="alpha"))
    command = ["import", "--case", str(tmp_path / "case.db"), "--exit-code", str(log)]
    assert main(command) == 1
    assert main(command) == 0
    log.write_text(OOPS.format(function="alpha").replace("81", "82"))
    assert main(command) == 0
    capsys.readouterr()
