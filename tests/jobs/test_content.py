"""Blobs: what arrives is what was sent, or nothing is there; nothing lands outside; what is in use stays."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import time
from pathlib import Path

import pytest
import zstandard

from ktriage.errors import MachineryError, UserError
from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.content import Blob, MissingError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for a machine's files; its cache is its own."""
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "here"))
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pieces small, so that there are several."""
    monkeypatch.setattr(content, "PIECE", 1000)


def pieces(blob: Blob) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    content.send(blob, lambda offset, piece: found.append((offset, piece)))
    return found


def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be another machine from now on; return its store."""
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path / "there"))
    return tmp_path / "there" / "content"


def write_folder(folder: Path) -> None:
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "deep/er/script").write_bytes(os.urandom(5000))
    (folder / "deep/er/script").chmod(0o755)
    (folder / "a").symlink_to("deep/er/script")
    (folder / "deep/absolute").symlink_to(folder / "deep/er")
    (folder / "outside").symlink_to("/etc/passwd")


@pytest.mark.usefixtures("small")
def test_a_folder_arrives_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = here / "folder"
    write_folder(folder)
    data = (folder / "deep/er/script").read_bytes()
    blob = content.register(folder)
    sent = pieces(blob)
    assert len(sent) > 5
    again = here / "again"
    write_folder(again)
    (again / "deep/er/script").write_bytes(data)
    (again / "deep/er/script").chmod(0o755)
    assert content.register(again) == blob  # whatever the times
    store = there(here, monkeypatch)
    with pytest.raises(MissingError) as caught:
        content.unpacked(blob)
    assert pickle.loads(pickle.dumps(caught.value)).blobs == (blob,)
    assert [content.put(blob, "one", offset, piece) for offset, piece in sent][-2:] == [False, True]
    tree = content.unpacked(blob)
    assert (tree / "deep/er/script").read_bytes() == data
    assert os.access(tree / "deep/er/script", os.X_OK)
    assert (tree / "a").read_bytes() == data
    assert (tree / "deep/absolute").resolve() == (tree / "deep/er").resolve()
    assert not (tree / "outside").is_symlink()
    assert (tree / "empty").is_dir()
    assert not [*store.glob("*.draft"), *store.glob("*.made")]


def test_what_changed_has_another_name(here: Path) -> None:
    path = here / "file"
    path.write_bytes(b"one")
    old = content.register(path)
    assert content.register(path) == old
    assert old.sha256 == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"other")
    with pytest.raises(MachineryError, match="changed while"):
        pieces(old)
    assert content.register(path) != old
    with pytest.raises(UserError, match="No such file"):
        content.register(here / "nothing")


@pytest.mark.usefixtures("small")
def test_what_is_broken_or_cut_is_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = here / "file"
    path.write_bytes(os.urandom(3500))
    blob = content.register(path)
    sent = pieces(blob)
    store = there(here, monkeypatch)
    assert not content.put(blob, "cut", *sent[0])  # its sender was killed
    offset, piece = sent[1]
    broken = piece[:-1] + bytes([piece[-1] ^ 1])
    content.put(blob, "broken", *sent[0])
    with pytest.raises(MachineryError, match="is broken"):
        content.put(blob, "broken", offset, broken)
    content.put(blob, "gap", *sent[0])
    with pytest.raises(MachineryError, match="not the next"):
        content.put(blob, "gap", *sent[2])
    other = zstandard.compress(bytes(1000))
    for at, wrong in [sent[0], (1000, other), sent[2]]:
        content.put(blob, "other", at, wrong)
    with pytest.raises(MachineryError, match="what came for"):
        content.put(blob, "other", *sent[3])
    with pytest.raises(MachineryError, match=r"is broken|too long"):
        content.put(blob, "bomb", 0, zstandard.compress(bytes(1 << 24)))
    with pytest.raises(MachineryError, match="no name of a blob"):
        content.put(Blob("../" * 21 + "a", 1, "file"), "name", 0, b"")
    assert content.missing([blob]) == (blob,)
    for at, good in sent:
        content.put(blob, "good", at, good)
    assert content.path_of(blob).read_bytes() == path.read_bytes()
    for left in store.glob("*.draft"):
        os.utime(left, (0, 0))
    path.write_bytes(b"next")
    content.adopt(path)
    assert not list(store.glob("*.draft"))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "absolute": [member("/tmp/x")],
    "up": [member("a/../../x")],
    "twice": [member("a"), member("./a")],
    "link out": [member("a", tarfile.SYMTYPE, "/etc/passwd")],
    "link up": [member("a", tarfile.SYMTYPE, "../x")],
    "links that add up": [member("a", tarfile.SYMTYPE, "."), member("b", tarfile.SYMTYPE, "a/../..")],
    "through a link": [member("a", tarfile.SYMTYPE, "."), member("a/b")],
    "through a later link": [member("a/b"), member("a", tarfile.SYMTYPE, ".")],
    "device": [member("a", tarfile.CHRTYPE)],
    "hard link": [member("a", tarfile.LNKTYPE, "/etc/passwd")],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(here: Path, what: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info in HOSTILE[what]:
            tar.addfile(info)
    data = buffer.getvalue()
    blob = Blob(hashlib.sha256(data).hexdigest(), len(data), "folder")
    with pytest.raises(MachineryError, match="the archive"):
        content.put(blob, "hostile", 0, zstandard.compress(data))
    assert content.missing([blob])
    assert [path.name for path in (here / "here/content").iterdir()] == []


def test_what_was_used_longest_ago_goes_first_and_what_is_used_stays(here: Path) -> None:
    blobs = []
    for number in range(5):
        path = here / str(number)
        path.write_bytes(bytes([number]) * 1000)
        blobs.append(content.adopt(path))
        os.utime(here / "here/content" / blobs[-1].sha256, (time.time() - 1000 + number,) * 2)
    content.path_of(blobs[1])
    with content.using(blobs[0]):
        os.utime(here / "here/content" / blobs[0].sha256, (0, 0))
        content.evict(2500)
        assert content.missing(blobs) == (blobs[2], blobs[3])
    content.evict(2500)
    assert content.missing(blobs) == (blobs[0], blobs[2], blobs[3])
    with pytest.raises(MissingError) as caught, content.using(*blobs):
        pass
    assert len(caught.value.blobs) == 3
