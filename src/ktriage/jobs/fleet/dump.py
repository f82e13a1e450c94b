"""A dump analysed by a worker of a cluster, by the same command that would do it here.

The dump and the files of its kernel reach the worker by their content, once; of the modules only those that
the dump has loaded.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard

from ktriage.cache import cached, digest
from ktriage.errors import MachineryError
from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.children import run_child
from ktriage.jobs.fleet.content import Blob
from ktriage.jobs.fleet.under_way import doing

ASK_BYTES = 32 << 20
"""Where the modules' files are more than this, the dump is asked first which of them it has loaded."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is to be shown of a dump: ``files`` by the options that name them, ``modules`` by their files'
    names, ``options`` and report names as ``ktriage dump show`` takes them.

    ``keep`` asks for what a case store keeps of it, ``terminal`` (columns, lines) for what one would show.
    """  # noqa: D205 (one sentence)

    vmcore: tuple[str, Blob]
    files: tuple[tuple[str, str, Blob], ...]
    modules: tuple[tuple[str, Blob], ...]
    options: tuple[str, ...]
    keep: bool = False
    terminal: tuple[int, int] | None = None
    environment: tuple[tuple[str, str], ...] = ()

    def needs(self) -> list[Blob]:
        """Return what is needed in any case."""
        return [self.vmcore[1], *(blob for _, _, blob in self.files)]


@dataclass(frozen=True, slots=True)
class Shown:
    """What the command printed, compressed, and came to; ``kept`` is what it kept, pickled.

    ``places`` are the worker's names of files, which its messages may hold, each with what it is to us.
    """

    code: int
    out: bytes
    errors: bytes
    kept: bytes | None
    places: tuple[tuple[str, str], ...]


def analyse(what: Analysis) -> Shown:
    """Show a dump, on the worker where this is called. Raises MissingError for modules that are not there."""
    with doing("dump", what.vmcore[0]), ExitStack() as stack:
        stack.enter_context(content.using(*what.needs()))
        modules = _wanted(what) if what.modules else ()
        stack.enter_context(content.using(*(blob for _, blob in modules)))
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="ktriage-dump-")))
        places: dict[str, str] = {}
        command = _command(what, modules, scratch, places)
        out, errors, kept = scratch / "out", scratch / "errors", scratch / "kept"
        command += ["--kept", str(kept)] if what.keep else []
        code = run_child(command, out, errors, terminal=what.terminal, environment=dict(what.environment))
        if code < 0:
            raise MachineryError(f"the analysis of {what.vmcore[0]} was killed by signal {-code}")
        return Shown(
            code, _packed(out), _packed(errors), kept.read_bytes() if kept.exists() else None,
            tuple(places.items()),
        )  # fmt: skip


def _packed(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdCompressor().compress(file.read())


def _command(
    what: Analysis, modules: tuple[tuple[str, Blob], ...], scratch: Path, places: dict[str, str]
) -> list[str]:
    """Return the command, its files in ``scratch`` under their own names."""

    def place(folder: str, name: str, blob: Blob) -> str:
        link = scratch / folder / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(content.path_of(blob))
        places[str(link)] = f"{folder}/{name}"
        return str(link)

    command = [sys.executable, "-m", "ktriage", "dump", "show", place("vmcore", *what.vmcore)]
    for option, name, blob in what.files:
        command += [option, place(option.strip("-"), name, blob)]
    for name, blob in modules:
        place("modules", name, blob)
    command += ["--modules", str(scratch / "modules")] if modules else []
    return [*command, *what.options]


def _wanted(what: Analysis) -> tuple[tuple[str, Blob], ...]:
    """Return those of the modules that the dump has loaded, by what it says, which is asked once."""
    if sum(blob.size for _, blob in what.modules) <= ASK_BYTES:
        return what.modules
    parts = [what.vmcore[1].sha256, *(blob.sha256 for option, _, blob in what.files if option == "--vmlinux")]

    def ask(folder: Path) -> None:
        bare = Analysis(what.vmcore, what.files, (), ("--json", "modules"))
        with TemporaryDirectory(prefix="ktriage-dump-") as scratch:
            out = Path(scratch) / "out"
            if run_child(_command(bare, (), Path(scratch), {}), out, Path(scratch) / "errors"):
                raise _SilentError
            names = [json.loads(line)["name"] for line in out.read_text().splitlines()]
        (folder / "names").write_text("\n".join(names))

    try:
        loaded = set((cached("loaded", digest("1", *parts), ask) / "names").read_text().split())
    except _SilentError:
        return ()  # what is wrong with it will be said when it is shown
    return tuple(
        (name, blob) for name, blob in what.modules if name.partition(".ko")[0].replace("-", "_") in loaded
    )


class _SilentError(Exception):
    """A dump does not say which modules it has loaded."""


def terminal_of(descriptor: int) -> tuple[int, int] | None:
    """Return the columns and lines of the terminal that a descriptor is; None where it is none."""
    try:
        return tuple(os.get_terminal_size(descriptor)) if os.isatty(descriptor) else None  # type: ignore[return-value]
    except OSError:
        return None
