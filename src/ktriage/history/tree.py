"""The files of a revision: listed and exported without touching anybody's checkout."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

from ktriage.errors import MachineryError, UserError


def _git(repo: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise UserError(f"git {arguments[0]} in {repo}: {message}", repo=str(repo))
    return done.stdout


def list_files(repo: Path, commit: str, folder: str = ".") -> list[tuple[str, str]]:
    """Return ``(blob id, path)`` of every file below ``folder`` at ``commit``, paths relative to it.

    Raises UserError where the commit or the folder is not there.
    """
    place = commit if folder in ("", ".") else f"{commit}:{folder.strip('/')}"
    entries = _git(repo, "ls-tree", "-r", "-z", "--full-tree", place).split(b"\0")
    files = []
    for entry in filter(None, entries):
        meta, _, path = entry.partition(b"\t")
        files.append((meta.split()[2].decode(), path.decode(errors="surrogateescape")))
    return files


def export(repo: Path, commit: str, folder: str, target: Path) -> None:
    """Write the files below ``folder`` at ``commit`` into ``target``.

    Raises UserError where the commit or the folder is not there, MachineryError where the disk fails.
    """
    place = commit if folder in ("", ".") else f"{commit}:{folder.strip('/')}"
    archive = _git(repo, "archive", "--format=tar", place)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(target, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise MachineryError(f"{commit[:12]} does not unpack into {target}: {error}") from error


def apply_patches(target: Path, patches: tuple[str, ...]) -> str | None:
    """Apply patches, given as texts, to an exported tree; return git's complaint where one does not apply."""
    for patch in patches:
        # Outside of any repository, or git would look for the paths in that one's index.
        done = subprocess.run(
            ["git", "apply", "--whitespace=nowarn", "-"],
            cwd=target,
            input=patch.encode(errors="surrogateescape"),
            capture_output=True,
            check=False,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(target.parent)},
        )
        if done.returncode:
            return f"a patch does not apply: {done.stderr.decode(errors='replace').strip()}"
    return None
