"""A checkout of a kernel tree that is kept and moves from revision to revision.

A move writes only the files that differ, so that make builds only what depends on them. The checkout has an
index and an object store of its own: the repository it comes from gets no worktree, no object and no lock.
"""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ktriage.cache import cache_root, digest, keep_newest, locked, touch
from ktriage.errors import MachineryError, UserError
from ktriage.history.git import GitError, clean_environment, git
from ktriage.history.repository import Repository
from ktriage.kernel.kconfig import SOURCE_ARCH

ROOM = "checkout"
KEPT = 3
"""Checkouts that stay in the cache; one of a kernel tree takes 1.3 GB."""

NEEDED_BYTES = 2 << 30
"""What a kernel tree takes, with some room."""

PLAIN = ("core.fsmonitor=false", "core.sparseCheckout=false", "core.splitIndex=false", "core.autocrlf=false")
"""What a person may have set for a checkout of their own, and what must not hold for this one."""

NO_CODE = frozenset(
    {
        *("CREDITS", "COPYING", "LICENSES", "MAINTAINERS", "README", "Documentation", "arch", "tools"),
        *(".mailmap", ".gitignore", ".gitattributes", ".clang-format", ".cocciconfig", ".editorconfig"),
        *(".get_maintainer.ignore", ".pylintrc", "tools/testing", "tools/perf"),
    }
)
"""Entries of a kernel tree that no build reads, or of which only some are read (see ``code_of``)."""


class Checkout:
    """The kept checkout of one repository. What moves it holds ``held()``."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.home = cache_root() / ROOM / digest(str(repository.common.resolve()))
        self.tree = self.home / "tree"
        (self.home / "objects").mkdir(parents=True, exist_ok=True)

    def tree_of(self, commit: str, patches: tuple[str, ...] = ()) -> tuple[str | None, str]:
        """Return the tree id of a commit with patches on top; None, and git's complaint, where they don't
        apply.
        """  # noqa: D205 (one sentence)
        if not patches:
            return git(self.repository.path, "rev-parse", "--verify", f"{commit}^{{tree}}").strip(), ""
        index = self.home / f"index.{uuid.uuid4().hex[:12]}"
        try:
            self._git(index, "read-tree", commit)
            for patch in patches:
                try:
                    self._git(index, "apply", "--cached", "--whitespace=nowarn", "-", stdin=patch)
                except GitError as error:
                    return (
                        None,
                        f"a patch does not apply: {str(error.data['stderr']).strip().splitlines()[0]}",
                    )
            return self._git(index, "write-tree").strip(), ""
        finally:
            index.unlink(missing_ok=True)
            index.with_name(index.name + ".lock").unlink(missing_ok=True)

    def code_of(self, tree: str) -> str:
        """Return a key of what a build for x86 can read of a tree.

        Documents, self-tests and other processors don't count: of ``Documentation`` its Kconfig only, of
        ``tools`` (objtool is built from it) all but ``testing`` and ``perf``, of ``arch`` one folder.
        """
        parts = []
        listed = self._git(None, "ls-tree", "-z", tree, ".", "arch/", "tools/", "Documentation/Kconfig")
        for entry in filter(None, listed.split("\0")):
            meta, _, path = entry.partition("\t")
            document = path.startswith("Documentation/") and path != "Documentation/Kconfig"
            other = path.startswith("arch/") and meta.startswith("040000") and path != f"arch/{SOURCE_ARCH}"
            if path not in NO_CODE and not document and not other:
                parts.append(entry)
        return digest(*parts)

    def pack(self, tree: str, without: tuple[str, ...], target: Path) -> None:
        """Write a pack with all objects of a tree to ``target``, those apart that trees in ``without`` have.

        Thin: what those have may be a delta's base (git-pack-objects(1)). Raises MachineryError.
        """
        # Git looks for such bases in commits only; --shallow has it look where it need not be a parent.
        commits = [self._commit(one) for one in (tree, *without)]
        revisions = "".join(f"{'^' if number else ''}{commit}\n" for number, commit in enumerate(commits))
        options = ["--revs", "--thin", "--shallow", "--stdout", "-q"]
        with target.open("wb") as file:
            done = subprocess.run(
                ["git", "-C", str(self.home), "pack-objects", *options],
                input=revisions.encode(), stdout=file, stderr=subprocess.PIPE, check=False,
                env=clean_environment() | self._environment(None),
            )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise MachineryError(f"{tree[:12]} can't be packed: {said}")

    def _commit(self, tree: str) -> str:
        """Return a commit of this tree that has no history, the same whenever it is asked for."""
        said = {"NAME": "ktriage", "EMAIL": "ktriage", "DATE": "@0 +0000"}
        env = {f"GIT_{role}_{what}": text for role in ("AUTHOR", "COMMITTER") for what, text in said.items()}
        return self._git(None, "commit-tree", tree, "-m", "-", env=env).strip()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the checkout: nobody else moves it while the block lasts."""
        with locked(self.home.with_name(self.home.name + ".lock")):
            yield

    def move(self, tree: str) -> Path:
        """Bring the checkout to a tree and return its folder; the caller holds it.

        Raises MachineryError where git or the disk fails.
        """
        new = not self.tree.is_dir()
        if new:
            if shutil.disk_usage(self.home).free < NEEDED_BYTES:
                raise MachineryError(f"no room for a checkout of {self.repository.path} in {self.home}")
            self.tree.mkdir()
        # Whoever was killed in the middle left a lock, and files that --reset writes anew.
        (self.home / "index.lock").unlink(missing_ok=True)
        try:
            self._git(self.home / "index", "read-tree", "--reset", "-u", tree)
        except GitError as error:
            raise MachineryError(
                f"{tree[:12]} can't be checked out in {self.tree}: {error.message}"
            ) from error
        touch(self.home)
        if new:
            keep_newest(ROOM, KEPT)
        return self.tree

    def _environment(self, index: Path | None) -> dict[str, str]:
        environment = {
            "GIT_DIR": str(self.repository.common),
            "GIT_WORK_TREE": str(self.tree),
            "GIT_OBJECT_DIRECTORY": str(self.home / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self.repository.common / "objects"),
        }
        return environment if index is None else environment | {"GIT_INDEX_FILE": str(index)}

    def _git(
        self, index: Path | None, *args: str, stdin: str | None = None, env: dict[str, str] | None = None
    ) -> str:
        environment = self._environment(index) | (env or {})
        options = [word for setting in PLAIN for word in ("-c", setting)]
        return git(self.home, *options, *args, stdin=stdin, env=environment)


def check_revision(repository: Repository, commit: str) -> None:
    """Raise UserError where a commit holds no kernel source."""
    names = git(repository.path, "ls-tree", "--name-only", "--full-tree", commit).split("\n")
    if not {"Kconfig", "Makefile", "scripts"} <= set(names):
        raise UserError(f"{commit[:12]} in {repository.path} holds no kernel source", hint="[kernel] tree")
