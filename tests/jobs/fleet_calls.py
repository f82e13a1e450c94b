"""What tests have workers do."""

from __future__ import annotations

import time
from pathlib import Path

from fleet import here, wait_there

from ktriage.jobs.fleet import content
from ktriage.jobs.fleet.content import Blob
from ktriage.jobs.fleet.under_way import doing


def busy(seconds: float) -> None:
    """Wait, as a trial that is told of."""
    with doing("trial", "0001-abc"):
        time.sleep(seconds)


def left(note: str, until: str) -> Blob:
    """Wait as ``wait_there`` does, and offer what a trial would leave."""
    wait_there(note, until)
    folder = Path(here()) / "left"
    folder.mkdir(parents=True)
    (folder / "console.log").write_text(here())
    return content.offer(folder)
