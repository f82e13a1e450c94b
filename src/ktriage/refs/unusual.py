"""When a reference is open unusually long: beside others of its path, or in a pool that comes and goes."""

from __future__ import annotations

from ktriage.refs.book import Pool

ENOUGH = 20
"""So many references of a path must have been put before one that was not is held against it."""
LONGER = 2.5
FEW_ENOUGH = 3
MUCH_LONGER = 30.0
DRAINED = 0.35
_CHANCE = 0.001
_EXPECTED = 5
_AT_ONCE = 3
_AS_OFTEN = 0.3


def outlived(count: int, longest: int, age: int, tail: float) -> bool:
    """Return whether ``age`` is too long for one of ``count`` like it that took ``longest`` at most.

    ``tail`` is how many times as long it has to be: the wider hold times are spread, the more.
    """
    return (count >= ENOUGH and age > tail * longest) or (
        count >= FEW_ENOUGH and age > MUCH_LONGER * longest and age > tail * longest
    )


def risen(pool: Pool, level: int, until: int) -> bool:
    """Return whether the level that a pool comes back to has risen for good with its get at ``level``.

    Before, it came back below so many times; had it gone on like that, at random, it would hardly have missed
    all the time since. And since then it came back to just above about as often: a load that has grown does
    not do that.
    """
    use = pool.opens[level]
    count, longest = pool.levels.times.get(level, (0, 0))
    age, before = until - use.time, max(1, use.time - pool.start)
    chance = (before / (before + age)) ** count
    return (
        count >= FEW_ENOUGH
        and chance < _CHANCE
        and age > LONGER * longest
        and _as_before(pool, level, until, count / before)
    )


def _as_before(pool: Pool, level: int, until: int, rate: float) -> bool:
    """Return whether a pool came back to its new lowest levels about as often as ``rate`` says.

    A few references may be lost at about the same time. Where more stay at once, the load has grown.
    """
    returns = 0
    start = pool.opens[level].time
    longest = pool.levels.times.get(level, (0, 0))[1]
    for at in range(level, min(level + _AT_ONCE, len(pool.opens))):
        returns += pool.opens[at].returns
        end = pool.opens[at + 1].time if at + 1 < len(pool.opens) else until
        expected = rate * (end - start)
        if expected >= _EXPECTED and end - start > longest:
            return returns >= _AS_OFTEN * expected
    return False


def rare_of(pool: Pool) -> set[int]:
    """Return names of tasks that took next to nothing in a pool where others took much.

    Their references may be those of programs that hold on, for which the others are no measure.
    """
    counts = sorted(pool.kin.values())
    total = half = sum(counts)
    while counts and half > total / 2:
        half -= counts[-1]
        usual = counts.pop()
    return {kin for kin, n in pool.kin.items() if n <= max(2, usual / 10)} if total >= ENOUGH else set()


def is_drained(pool: Pool, until: int) -> bool:
    """Return whether far fewer references of a pool are open than usually were, and no new ones come."""
    span = max(1, pool.then - pool.start)
    usual = pool.area / span
    each = pool.area / max(1, pool.gets)
    return pool.gets >= ENOUGH and len(pool.opens) <= DRAINED * usual and until - pool.last_get >= each
