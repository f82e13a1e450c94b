"""A crash rate and how well it is known."""

from __future__ import annotations

from scipy.special import betaincinv


def rate_interval(crashes: int, runs: int, level: float = 0.95) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a rate of ``crashes`` in ``runs``.

    Clopper and Pearson, Biometrika 26 (1934): it covers the true rate at least as often as ``level`` says.
    Without runs it is (0, 1).
    """
    tail = (1 - level) / 2
    low = float(betaincinv(crashes, runs - crashes + 1, tail)) if crashes else 0.0
    high = float(betaincinv(crashes + 1, runs - crashes, 1 - tail)) if crashes < runs else 1.0
    return low, high
