"""A crash rate and how well it is known; and how soon a crash comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scipy.special import betaincinv

if TYPE_CHECKING:
    from ktriage.trial.outcome import Outcome


def rate_interval(crashes: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate of ``crashes`` in ``runs``.

    Clopper and Pearson, Biometrika 26 (1934): it covers the true rate at least as often as ``level`` says.
    Without runs it is (0, 1).
    """
    tail = (1 - level) / 2
    low = float(betaincinv(crashes, runs - crashes + 1, tail)) if crashes else 0.0
    high = float(betaincinv(crashes + 1, runs - crashes, 1 - tail)) if crashes < runs else 1.0
    return low, high


def crash_seconds(outcome: Outcome) -> float | None:
    """Return how long after the reproducer began the hunted crash stood on the console, in host's seconds.

    That is the time at which the piece of console came in which the report begins. A crash that no report
    tells of counts from when the run ended. None where the run did not crash, or its folder is gone.
    """
    if not outcome.hunted or "run" not in outcome.seconds:
        return None
    if outcome.crash is None or outcome.directory is None:
        return outcome.seconds["run"]
    try:
        text = (Path(outcome.directory) / "console.log.times").read_text()
    except OSError:
        return None
    pieces = [line.split() for line in text.splitlines()]
    before = [float(words[1]) for words in pieces if len(words) == 2 and int(words[0]) <= outcome.crash.start]
    return max(0.0, before[-1] - outcome.seconds.get("start", 0.0)) if before else None
