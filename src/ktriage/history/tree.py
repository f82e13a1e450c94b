"""The files of a revision: listed and exported without touching anybody's checkout."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from ktriage.errors import MachineryError, UserError
from ktriage.history.git import GitError, git


def _place(commit: str, folder: str) -> str:
    return commit if folder in ("", ".") else f"{commit}:{folder.strip('/')}"


def list_files(repo: Path, commit: str, folder: str = ".") -> list[tuple[str, str]]:
    """Return ``(blob id, path)`` of every file below ``folder`` at ``commit``, paths relative to it.

    Raises UserError where the commit or the folder is not there.
    """
    try:
        entries = git(repo, "ls-tree", "-r", "-z", "--full-tree", _place(commit, folder)).split("\0")
    except GitError as error:
        raise UserError(f"nothing at {_place(commit, folder)} in {repo}", repo=str(repo)) from error
    files = []
    for entry in filter(None, entries):
        meta, _, path = entry.partition("\t")
        files.append((meta.split()[2], path))
    return files


def export(repo: Path, commit: str, folder: str, target: Path) -> None:
    """Write the files below ``folder`` at ``commit`` into the existing folder ``target``.

    Raises MachineryError where git or the disk fails.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tar") as archive:
            git(repo, "archive", "--format=tar", "-o", archive.name, _place(commit, folder))
            with tarfile.open(archive.name) as tar:
                # Python 3.11.4 brought filters; what git packs has no path that leads out of the target.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(target)  # noqa: S202 (see above)
    except (OSError, tarfile.TarError) as error:
        raise MachineryError(f"{commit[:12]} does not unpack into {target}: {error}") from error


def apply_patches(target: Path, patches: tuple[str, ...]) -> str | None:
    """Apply patches, given as texts, to an exported tree; return git's complaint where one does not apply."""
    for patch in patches:
        try:
            # Outside of any repository, or git would look for the paths in that one's index.
            git(target, "--git-dir=/nonexistent", "apply", "--whitespace=nowarn", "-", stdin=patch)
        except GitError as error:
            return f"a patch does not apply: {str(error.data['stderr']).strip()}"
    return None
