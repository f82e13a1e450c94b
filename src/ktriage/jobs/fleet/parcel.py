"""A folder as one stream of bytes and back: tar (POSIX 1003.1-2001), equal for equal content.

Names are sorted, owners and times left out, modes kept. Symbolic links are kept where they stay inside. What
comes from another machine is not trusted: nothing that is unpacked lands, or points, outside.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ktriage.errors import MachineryError

MTIME = 1_000_000_000
"""Of all that is unpacked, in seconds since the epoch; make takes the first few for words of its own."""

BUFFER = 1 << 20


def members(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Give name and lstat of all below ``folder``, parents first, in a fixed order."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(folders + files):
            path = Path(root) / name
            yield path.relative_to(folder).as_posix(), path.lstat()


def pack(folder: Path, sink: Callable[[bytes], object]) -> None:
    """Hand the archive of ``folder`` to ``sink``, piece by piece.

    Links that lead outside are left out, and what is no file, folder or link. Raises OSError.
    """
    root = folder.resolve(strict=True)
    with tarfile.open(
        fileobj=_Sink(sink), mode="w|", format=tarfile.PAX_FORMAT, bufsize=BUFFER, dereference=False
    ) as tar:
        for name, found in members(root):
            info = tarfile.TarInfo(name)
            info.mtime = MTIME
            info.mode = stat.S_IMODE(found.st_mode) & 0o777
            if stat.S_ISDIR(found.st_mode):
                info.type = tarfile.DIRTYPE
                info.mode |= 0o700
                tar.addfile(info)
            elif stat.S_ISLNK(found.st_mode):
                target = _inside(root, root / name)
                if target is not None:
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
                    tar.addfile(info)
            elif stat.S_ISREG(found.st_mode):
                info.size = found.st_size
                with (root / name).open("rb") as file:
                    tar.addfile(info, file)


class _Sink(io.RawIOBase):
    """A file to write to, whose bytes go to a callable."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._sink(piece)
        return len(piece)


def _inside(root: Path, link: Path) -> str | None:
    """Return the target of a link as ``unpack`` takes it; None where it leads outside of ``root``."""
    target = str(link.readlink())
    if _stays(link.relative_to(root).as_posix(), target):
        return target
    real = link.resolve()
    return os.path.relpath(real, link.parent) if real.is_relative_to(root) else None


def _stays(name: str, target: str) -> bool:
    """Return whether a link called ``name`` stays inside, whatever other links there are.

    True where it first goes up no further than the root, and then only down: a ``..`` behind a name might go
    up from wherever that name is a link to.
    """
    path = PurePosixPath(target)
    ups = 0
    while ups < len(path.parts) and path.parts[ups] == "..":
        ups += 1
    down = path.parts[ups:]
    return not path.is_absolute() and ".." not in down and ups <= len(PurePosixPath(name).parts) - 1


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into the new folder ``folder``.

    Raises MachineryError where the archive is broken, or holds what ``pack`` never writes: names that are
    absolute, lead outside, come twice or lie below a link; links that lead outside; devices.
    """
    folder.mkdir(parents=True)
    links: dict[PurePosixPath, str] = {}
    names: set[PurePosixPath] = set()
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for info in tar:
                _check(info, names, links)
                if info.issym():
                    links[PurePosixPath(info.name)] = info.linkname
                elif info.isdir():
                    (folder / info.name).mkdir(parents=True, exist_ok=True)
                else:
                    _write(tar, info, folder / info.name)
        # Last, so that nothing was written through one.
        for name, target in links.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)
    except (tarfile.TarError, EOFError, ValueError, FileExistsError, NotADirectoryError) as error:
        raise MachineryError(f"the archive is broken: {error}") from error


def _check(info: tarfile.TarInfo, names: set[PurePosixPath], links: dict[PurePosixPath, str]) -> None:
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in info.name:
        raise MachineryError(f"the archive has a name that leads outside: {info.name!r}")
    if not (info.isreg() or info.isdir() or info.issym()) or info.issparse():
        raise MachineryError(f"the archive has something that is no file, folder or link: {info.name!r}")
    if path in names:
        raise MachineryError(f"the archive has a name twice: {info.name!r}")
    names.add(path)
    if not links.keys().isdisjoint(path.parents):
        raise MachineryError(f"the archive has a name below a link: {info.name!r}")
    if info.issym() and not _stays(path.as_posix(), info.linkname):
        raise MachineryError(f"the archive has a link that leads outside: {info.name!r}")


def _write(tar: tarfile.TarFile, info: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(info)
    assert source is not None
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        shutil.copyfileobj(source, file, BUFFER)
        if file.tell() != info.size:
            raise MachineryError(f"the archive is cut off in {info.name!r}")
        os.fchmod(file.fileno(), info.mode & 0o777)
    os.utime(place, (MTIME, MTIME))
