"""Where a module's sources come from: a revision, or a folder as it stands."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ktriage.errors import UserError
from ktriage.history.tree import export, list_files


class Sources(Protocol):
    """A set of source files."""

    def files(self) -> list[tuple[str, str]]:
        """Return ``(hash of the content, path)`` of each file, paths relative to the module's folder."""

    def write(self, target: Path, *, whole: bool = False) -> Path:
        """Write the files to ``target`` and return the module's folder in it.

        With ``whole``, all of the tree that the module's folder belongs to is written.
        """


@dataclass(frozen=True, slots=True)
class RevisionSources:
    """The folder ``folder`` of a git repository at a commit."""

    repo: Path
    commit: str
    folder: str = "."

    def __str__(self) -> str:
        return f"{self.folder} at {self.commit[:12]}"

    def files(self) -> list[tuple[str, str]]:
        """Return blob ids and paths."""
        return list_files(self.repo, self.commit, self.folder)

    def write(self, target: Path, *, whole: bool = False) -> Path:
        """Export the folder, or with ``whole`` the whole tree."""
        target.mkdir(parents=True)
        export(self.repo, self.commit, "." if whole else self.folder, target)
        return (target / self.folder).resolve() if whole else target


@dataclass(frozen=True, slots=True)
class FolderSources:
    """A folder as it stands; in a git checkout without the files that git ignores."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def _names(self) -> list[str]:
        command = ["git", "-C", str(self.folder), "ls-files", "-z", "-c", "-o", "--exclude-standard"]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            names = [name.decode(errors="surrogateescape") for name in done.stdout.split(b"\0") if name]
        else:
            names = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*")]
        return sorted(name for name in names if (self.folder / name).is_file())

    def files(self) -> list[tuple[str, str]]:
        """Return SHA-256 and path of each file; raises UserError where the folder is not there."""
        if not self.folder.is_dir():
            raise UserError(f"no such folder: {self.folder}", hint="[module] source")
        return [
            (hashlib.sha256((self.folder / name).read_bytes()).hexdigest(), name) for name in self._names()
        ]

    def write(self, target: Path, *, whole: bool = False) -> Path:
        """Copy the folder; it is its own whole."""
        del whole
        for name in self._names():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / name, place)
        return target


@dataclass(frozen=True, slots=True)
class WrittenSources:
    """What other sources wrote into the folder ``root``, perhaps on another machine.

    ``listing`` is what they list, and ``folder`` the module's below ``root``.
    """

    root: Path
    listing: tuple[tuple[str, str], ...]
    folder: str = "."

    def __str__(self) -> str:
        return str(self.root)

    def files(self) -> list[tuple[str, str]]:
        """Return the listing."""
        return list(self.listing)

    def write(self, target: Path, *, whole: bool = False) -> Path:
        """Copy what was written; the whole tree is there only if it was asked for then."""
        del whole
        shutil.copytree(self.root, target, symlinks=True)
        return (target / self.folder).resolve()
