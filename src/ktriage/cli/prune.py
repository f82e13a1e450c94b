"""``ktriage prune``: give back what the case store need not keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.cli import case

if TYPE_CHECKING:
    import argparse

HELP = "Keep the logs of each bug's best crashes, and give back the room of the others; bugs and counts stay."
EXAMPLE = "ktriage prune --keep 10 --days 90"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    case.configure_prune(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage prune``."""
    from ktriage.case.store import open_store

    store = open_store(args.case)
    try:
        return case.prune(store, args)
    finally:
        store.close()
