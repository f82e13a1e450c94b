"""Trees of a repository that is on another machine: their objects come in packs, and have no commits.

A build needs a tree alone. The first comes whole; of later ones a pack has what the trees before did not.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from ktriage.cache import cache_root, digest, keep_newest, locked, touch
from ktriage.errors import MachineryError
from ktriage.history.git import GitError, git
from ktriage.history.repository import Repository
from ktriage.kernel.checkout import Checkout

ROOM = "mirror"
KEPT = 3
"""Mirrors that stay in the cache; one of a kernel's trees takes some 300 MB."""
NOTED = "ktriage-trees"
"""The folder with a file for each tree that is there, with all that is below it."""


class Mirror:
    """The trees that this machine has of the repository that is called ``name``."""

    def __init__(self, name: str) -> None:
        self.home = cache_root() / ROOM / digest(name)
        with self._locked():
            if not (self.home / NOTED).is_dir():
                self.home.mkdir(parents=True, exist_ok=True)
                git(self.home, "init", "--bare", "--quiet", "--template=", ".")
                (self.home / NOTED).mkdir()
        touch(self.home)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.home.with_name(self.home.name + ".lock"))

    def trees(self) -> tuple[str, ...]:
        """Return the ids of the trees that are there, those that came last at the end."""
        noted = [(path.stat().st_mtime_ns, path.name) for path in (self.home / NOTED).iterdir()]
        return tuple(name for _, name in sorted(noted))

    def take(self, tree: str, pack: Path) -> None:
        """Take in a pack, which makes ``tree`` whole with what is there; nothing where that is so already.

        Raises MachineryError where the pack is broken, or objects are missing.
        """
        with self._locked():
            if (self.home / NOTED / tree).exists():
                return
            fd = os.open(pack, os.O_RDONLY | os.O_CLOEXEC)
            try:
                git(self.home, "index-pack", "--stdin", "--fix-thin", stdin=fd)
                git(self.home, "rev-list", "--objects", "--quiet", tree)
            except GitError as error:
                raise MachineryError(f"the pack of {tree[:12]} is broken: {error.message}") from error
            finally:
                os.close(fd)
            (self.home / NOTED / tree).touch()
        keep_newest(ROOM, KEPT)

    def checkout(self) -> Checkout:
        """Return the checkout that moves between the trees."""
        return Checkout(Repository(self.home))
