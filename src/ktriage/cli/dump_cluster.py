"""``ktriage dump show --cluster``: the same, done by a worker."""

from __future__ import annotations

import json
import os
import pickle
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import zstandard

from ktriage.cli import tls
from ktriage.errors import UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ktriage.jobs.fleet.content import Blob
    from ktriage.jobs.fleet.dump import Analysis

SECONDS = 3600.0
"""How long an analysis may take until it is given to another worker."""
LOOKS = ("TERM", "COLORTERM", "NO_COLOR")


def show_away(args: argparse.Namespace, reports: Sequence[str]) -> int:
    """Have a worker show the dump, print what it printed and keep what it found."""
    from ktriage.case.text import size
    from ktriage.jobs.fleet.cluster import connected
    from ktriage.jobs.fleet.crew import crew_of
    from ktriage.jobs.fleet.dump import analyse

    if args.src is not None:
        raise UserError("--src: a source tree is not sent to workers", hint="leave it out, or --cluster")
    if not args.vmcore.is_file():
        raise UserError(f"{args.vmcore}: no such file, or none that can be sent", path=str(args.vmcore))
    tls.apply(args)
    with connected(args.cluster) as client, closing(crew_of(client, args.cluster, _note)) as crew:
        what, paths = _analysis(args, reports)
        crew.learn(what.needs())
        if sys.stderr.isatty():
            total = sum(blob.size for blob in what.needs())
            _note(f"a worker gets what it lacks of {size(total)}, and reads the dump")
        shown = crew.call(analyse, what, seconds=SECONDS, needs=what.needs())
    names = {there: str(paths[here]) for there, here in shown.places}
    if shown.kept is not None:
        _keep(args, pickle.loads(shown.kept))  # noqa: S301 (of our own worker, which we send code to)
    sys.stdout.write(_named(shown.out, names, as_json=args.json))
    sys.stdout.flush()
    sys.stderr.write(_named(shown.errors, names))
    return shown.code


def _note(line: str) -> None:
    sys.stderr.write(f"ktriage dump: {line}\n")


def _analysis(args: argparse.Namespace, reports: Sequence[str]) -> tuple[Analysis, dict[str, Path]]:
    """Return what is to be done, and where each file lies here."""
    from ktriage.jobs.fleet import content
    from ktriage.jobs.fleet.dump import Analysis, terminal_of
    from ktriage.symbols.program import find_modules

    paths: dict[str, Path] = {}

    def blob_of(folder: str, path: Path) -> tuple[str, Blob]:
        paths[f"{folder}/{path.name}"] = path
        return path.name, content.register(path)

    vmlinux, places = args.vmlinux, list(args.modules)
    if vmlinux is not None and vmlinux.is_dir():
        places.append(vmlinux)
        vmlinux /= "vmlinux"
    named = {"--vmlinux": vmlinux, "--earlier": args.earlier, "--ledger": args.ledger}
    flags = [*(["--json"] if args.json else []), *(["--all"] if args.all else [])]
    what = Analysis(
        vmcore=blob_of("vmcore", args.vmcore),
        files=tuple(
            (option, *blob_of(option.strip("-"), path)) for option, path in named.items() if path is not None
        ),
        modules=tuple(blob_of("modules", path) for path in find_modules(places).values()),
        options=(*flags, *(f"--task={task}" for task in args.task), *reports),
        keep=args.case is not None,
        terminal=terminal_of(1),
        environment=tuple((name, os.environ[name]) for name in LOOKS if name in os.environ),
    )
    return what, paths


def _named(packed: bytes, names: Mapping[str, str], *, as_json: bool = False) -> str:
    """Return what a worker printed, with our files' names in place of its own."""
    text = zstandard.ZstdDecompressor().decompressobj().decompress(packed).decode(errors="surrogateescape")
    for there, here in names.items():
        text = text.replace(there, json.dumps(here)[1:-1] if as_json else here)
    return text


def _keep(args: argparse.Namespace, kept: dict[str, Any]) -> None:
    from ktriage.jobs.keeping import keep_dump

    crashes = [replace(crash, source=str(args.vmcore)) for crash in kept.pop("crashes")]
    kept["summary"] = replace(kept["summary"], path=str(args.vmcore))
    keep_dump(args.case, args.vmcore, crashes, **kept, bug=args.bug)
