"""Which crashes of a bug tell most: their logs are kept, and the best is shown first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ktriage.console.types import Crash

MOST_FUNCTIONS = 30


def rank(crash: Crash) -> float:
    """Return how much a crash tells; higher is better.

    A report that is whole, that is symbolized and has registers and a stack is
    worth more than one that is not.
    """
    points = 0.0
    points += 8 if crash.corrupted is None else 0
    points += 2 if not crash.suppressed else 0
    points += 1 if any(frame.line for frame in crash.stack) else 0
    points += 0.5 if crash.registers else 0
    points += 0.5 if len(crash.stack) >= 3 else 0
    return points


def functions(crash: Crash) -> list[str]:
    """Return the functions of a crash's own stack, innermost first, each once."""
    names = [frame.function for frame in crash.stack if frame.reliable and frame.context != "origin"]
    return list(dict.fromkeys(names))[:MOST_FUNCTIONS]
