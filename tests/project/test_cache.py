"""The cache: made once, whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ktriage.cache import cached, digest, keep_newest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache of its own, and return it."""
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_made_once_and_not_at_all_where_it_fails() -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("x")
        if len(calls) == 1:
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        cached("room", "key", make)
    assert not calls[0].exists()
    assert (cached("room", "key", make) / "x").read_text() == "x"
    cached("room", "key", make)
    assert len(calls) == 2


KILLED = """
import sys, time
from pathlib import Path
from ktriage.cache import cached
def make(folder):
    (folder / "half").touch()
    print("there", flush=True)
    time.sleep(60)
cached("room", "key", make)
"""


def test_who_is_killed_in_the_middle_leaves_no_entry(own_cache: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (own_cache / "room" / "key").exists()
    entry = cached("room", "key", lambda folder: (folder / "whole").touch())
    assert [path.name for path in entry.iterdir()] == ["whole"]


def test_only_old_entries_make_room(own_cache: Path) -> None:
    for age in range(5):
        entry = cached("room", f"entry-{age}", lambda _: None)
        then = time.time() - age * 86400
        os.utime(entry, (then, then))
    keep_newest("room", 2)
    assert sorted(p.name for p in (own_cache / "room").iterdir() if p.is_dir()) == ["entry-0", "entry-1"]
    for age in range(3):
        cached("room", f"new-{age}", lambda _: None)
    keep_newest("room", 1)
    assert sum(p.is_dir() for p in (own_cache / "room").iterdir()) == 4
    keep_newest("no-room", 1)


def test_digest_tells_parts_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ab")
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(tmp_path / "file") == digest("ab") == digest(b"ab")
    assert len(digest("x")) == 20
