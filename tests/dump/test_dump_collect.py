"""A dump copied off a machine: whole, resumed, with reads that fail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from ktriage.cli import main
from ktriage.dump.collect import CHUNK, PAGE, SYNC, collect, copy
from ktriage.errors import MachineryError, UserError


def content(size: int) -> bytes:
    """Return bytes with runs of zeros in them."""
    rng = random.Random(5)
    parts = [rng.randbytes(PAGE) if rng.random() < 0.5 else bytes(PAGE) for _ in range(size // PAGE)]
    return b"".join(parts) + b"end"


class Memory:
    """A source whose reads fail: those over ``most`` bytes for want of memory, those of bad pages always."""

    def __init__(self, data: bytes, most: int = CHUNK, bad: tuple[int, ...] = (), stop: int | None = None):
        self.data, self.most, self.bad, self.stop = data, most, bad, stop
        self.size = len(data)
        self.first: int | None = None

    def read(self, size: int, offset: int) -> bytes:
        self.first = offset if self.first is None else self.first
        if self.stop is not None and offset >= self.stop:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if size > self.most:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if any(offset <= page * PAGE < offset + size for page in self.bad):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.data[offset : offset + size]


def test_a_copy_is_the_same_and_has_its_checksum(tmp_path, capsys):
    data = content(4 * CHUNK)
    (tmp_path / "from").write_bytes(data)
    assert (
        main(["dump", "collect", "--plain", "--json", "--from", str(tmp_path / "from"), str(tmp_path / "to")])
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert (tmp_path / "to").read_bytes() == data
    assert said["sha256"] == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "to.sha256").read_text() == f"{said['sha256']}  to\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "to", "to.sha256"]
    assert (tmp_path / "to").stat().st_blocks * 512 < len(data)


def test_reads_that_fail_for_want_of_memory_are_made_smaller(tmp_path):
    data = content(2 * CHUNK)
    made = copy(Memory(data, most=PAGE), tmp_path / "to")
    assert (made.unreadable, (tmp_path / "to").read_bytes() == data) == (0, True)


def test_what_can_not_be_read_is_zeros_and_said(tmp_path):
    data = b"x" * (2 * CHUNK)
    made = copy(Memory(data, bad=(0, 7, 300)), tmp_path / "to")
    got = (tmp_path / "to").read_bytes()
    lost = {place // PAGE for place in range(0, len(data), PAGE) if got[place] == 0}
    assert lost == {0, 7, 300}
    assert made.unreadable == 3 * PAGE
    assert made.sha256 == hashlib.sha256(got).hexdigest()


def test_a_copy_that_broke_off_goes_on(tmp_path):
    data = content(SYNC + 8 * CHUNK)
    with pytest.raises(MachineryError, match="No space left"):
        copy(Memory(data, stop=SYNC + 4 * CHUNK), tmp_path / "to")
    assert not (tmp_path / "to").exists()
    second = Memory(data)
    made = copy(second, tmp_path / "to")
    assert second.first == made.resumed == SYNC
    assert (tmp_path / "to").read_bytes() == data
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    # Another dump under the same name is begun anew.
    (tmp_path / "to").rename(tmp_path / "to.partial")
    (tmp_path / "to.partial.json").write_text(json.dumps({"size": 5, "done": 5, "unreadable": 0}))
    assert copy(Memory(data), tmp_path / "to").resumed == 0


@pytest.mark.parametrize(
    "state", ["", "{}", "[]", '{"size": 3}', '{"size": 4096, "done": "x", "unreadable": 0}']
)
def test_a_spoilt_state_means_from_the_start(tmp_path, state):
    (tmp_path / "to.partial.json").write_text(state)
    assert copy(Memory(content(PAGE)), tmp_path / "to").resumed == 0


def test_bad_input_is_said(tmp_path, capsys):
    (tmp_path / "there").write_bytes(b"x")
    for source, target in (("absent", "to"), ("there", "there"), ("there", "no/to")):
        with pytest.raises(UserError):
            collect(tmp_path / source, tmp_path / target)
    assert main(["dump", "collect", "--from", str(tmp_path / "absent"), str(tmp_path / "to")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_said_before_it_is_full(tmp_path):
    source = Memory(b"")
    source.size = shutil.disk_usage(tmp_path).free * 2
    with pytest.raises(MachineryError, match="are free"):
        copy(source, tmp_path / "to")


def test_the_shell_has_the_findings(tmp_path, capsys):
    assert main(["dump", "shell", str(tmp_path / "absent"), "--exec", str(Path(__file__))]) == 2
    assert "no such file" in capsys.readouterr().err
