"""Which call paths drop what other call paths took, learnt from the events themselves.

Two things are learnt of the paths of one kind of object. First whether references on them are *bound* to the
task that took them: then a task's gets and puts balance by themselves, and each put is matched with the same
task's latest get that it is known to pair with. Which pairs those are is found by turns: puts are matched by
the pairs known so far, and pairs are counted again.

Paths that are not bound are *free*: what one task takes, another one, a softirq or a kworker drops. These are
put into groups that balance as a whole. A regression (non-negative least squares) of the puts on each path on
the gets, over stretches of time or over objects, says which may belong together; a group is then split
wherever both halves balance by themselves, at all times. Chance would not do that: the difference of two
counts that have nothing to do with each other strays as far as the square root of their number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ktriage.refs.types import NOBODY, Op

Pair = tuple[int, int]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEW = 5
"""So many faults are taken for faults and not for a habit."""
_RARE = 0.02
_EDGE = 0.04
_TURNS = 3
_WINDOW = 16
_WEAK = 0.01
_CHANCE = 0.15
_MOSTLY = 0.1
_FEWEST_ROWS = 8
_MOST_ROWS = 240


@dataclass(slots=True)
class Event:
    """A get or put while the pairing is learnt; ``owner`` numbers the object's life."""

    op: int
    owner: int
    task: int
    path: int


@dataclass(slots=True)
class Pairing:
    """What is known of the paths: the pairs of bound ones, and the group of each free one."""

    pairs: dict[Pair, float] = field(default_factory=dict)
    """Bound pairs, with how much the two have to do with each other."""
    best: dict[int, int] = field(default_factory=dict)
    """Put path of a bound pair to the get path that it has most to do with."""
    groups: dict[int, int] = field(default_factory=dict)
    """Free path to group; a path that is not in it is bound."""
    parts: dict[int, int] = field(default_factory=dict)
    """Bound path to the part of those that pair with each other, directly or by others."""
    known: set[int] = field(default_factory=set)

    def merge(self, other: Pairing) -> None:
        """Add what ``other`` knows of paths that were not known before."""
        new = other.known - self.known
        self.pairs |= {pair: weight for pair, weight in other.pairs.items() if new & {*pair}}
        self.best = {put: get for (get, put), _ in sorted(self.pairs.items(), key=lambda item: item[1])}
        same = {other.groups[path]: self.groups[path] for path in other.groups if path in self.groups}
        for path in new & set(other.groups):
            self.groups[path] = same.get(other.groups[path], other.groups[path])
        self.known |= new
        self.parts = parted(self.known, self.pairs)


@dataclass(slots=True)
class _Matched:
    """What comes of matching each put with a get of the same task."""

    pairs: Counter[Pair] = field(default_factory=Counter)
    gets: Counter[int] = field(default_factory=Counter)
    puts: Counter[int] = field(default_factory=Counter)
    gets_left: Counter[int] = field(default_factory=Counter)
    puts_left: Counter[int] = field(default_factory=Counter)

    def weights(self) -> dict[Pair, float]:
        """Return how much the ends of each pair have to do with each other, 0 to 1."""
        return {
            (get, put): count * count / (self.gets[get] * self.puts[put])
            for (get, put), count in self.pairs.items()
        }

    def edges(self) -> set[Pair]:
        """Return the pairs that are no accident: more than a few in a hundred of what either end does."""
        return {
            (get, put)
            for (get, put), count in self.pairs.items()
            if count >= _EDGE * min(self.gets[get], self.puts[put])
        }


def learn(events: Sequence[Event], lost: int = 0) -> Pairing:
    """Return the pairing of the paths in ``events``, which are in order and of one kind of object.

    ``lost`` is how many events of the trace are missing from among them.
    """
    matched = _matched(events, None)
    for _ in range(_TURNS):
        matched = _matched(events, matched.weights())
    edges = matched.edges()
    paths = {*matched.gets, *matched.puts}
    free = _free(matched, parted(paths, edges), lost)
    weights = matched.weights()
    pairing = Pairing({pair: weights[pair] for pair in edges if pair[0] not in free}, known=paths)
    if free:
        pairing.groups = _grouped([event for event in events if event.path in free], lost)
    return pairing


def _matched(events: Iterable[Event], weights: dict[Pair, float] | None) -> _Matched:
    found = _Matched()
    held: dict[Pair, list[int]] = defaultdict(list)
    for event in events:
        if event.op == Op.GET:
            found.gets[event.path] += 1
            if event.task == NOBODY:
                found.gets_left[event.path] += 1
            else:
                held[event.owner, event.task].append(event.path)
            continue
        found.puts[event.path] += 1
        stack = held[event.owner, event.task] if event.task != NOBODY else []
        at = _best(stack, event.path, weights)
        if at < 0:
            found.puts_left[event.path] += 1
        else:
            found.pairs[stack.pop(at), event.path] += 1
    for stack in held.values():
        found.gets_left.update(stack)
    return found


def _best(stack: list[int], path: int, weights: dict[Pair, float] | None) -> int:
    """Return where in ``stack`` the likeliest get for a put on ``path`` is, -1 where there is none."""
    if weights is None or not stack:
        return len(stack) - 1
    best, found = 0.0, -1
    for at in range(len(stack) - 1, max(-1, len(stack) - 1 - _WINDOW), -1):
        weight = weights.get((stack[at], path), 0.0)
        if weight > best:
            best, found = weight, at
    return found


def parted(paths: Iterable[int], edges: Iterable[Pair]) -> dict[int, int]:
    """Return the connected part of each path."""
    parts = {path: path for path in paths}

    def root(path: int) -> int:
        while parts[path] != path:
            parts[path] = parts[parts[path]]
            path = parts[path]
        return path

    for get, put in edges:
        parts[root(get)] = root(put)
    return {path: root(path) for path in parts}


def _free(matched: _Matched, parts: dict[int, int], lost: int) -> set[int]:
    """Return the paths whose references are dropped by others than the tasks that took them.

    A part that leaves both gets and puts over, or gets while another part leaves puts, is not bound: what is
    left over belongs together.
    """
    gets: Counter[int] = Counter()
    puts: Counter[int] = Counter()
    size: Counter[int] = Counter()
    for path, part in parts.items():
        gets[part] += matched.gets_left[path]
        puts[part] += matched.puts_left[path]
        size[part] += matched.gets[path] + matched.puts[path]
    total = sum(size.values()) or 1
    allowed = {part: max(0.001 * n, min(FEW, _RARE * n)) + 1.5 * lost * n / total for part, n in size.items()}
    giving = {part for part in size if gets[part] > allowed[part]}
    taking = {part for part in size if puts[part] > allowed[part]}
    mostly = {part for part in giving if gets[part] > _MOSTLY * size[part]}
    mostly |= {part for part in taking if puts[part] > _MOSTLY * size[part]}
    over = sum(gets[part] - puts[part] for part in mostly)
    free = giving & taking
    if giving and taking and len(giving | taking) > 1:
        # Those that leave over little join only where they are needed: else it is faults that they leave.
        free |= mostly
        free |= giving - mostly if over < 0 or not mostly else set()
        free |= taking - mostly if over > 0 or not mostly else set()
    return {path for path, part in parts.items() if part in free}


class _Steps:
    """The events of free paths as steps up and down, of each life by itself."""

    def __init__(self, events: Sequence[Event]) -> None:
        order = np.argsort(np.array([event.owner for event in events], np.int64), kind="stable")
        self.paths = np.array([event.path for event in events], np.int64)[order]
        ups = np.array([1 if event.op == Op.GET else -1 for event in events], np.int64)
        self.ups = ups[order]
        owners = np.array([event.owner for event in events], np.int64)[order]
        self.starts = np.concatenate(([0], np.flatnonzero(np.diff(owners)) + 1))

    def short(self, paths: Iterable[int]) -> tuple[int, int]:
        """Return how many puts too many ``paths`` have by themselves, and how many events."""
        own = np.isin(self.paths, np.fromiter(paths, np.int64))
        level = np.cumsum(np.where(own, self.ups, 0))
        before = np.concatenate(([0], level[self.starts[1:] - 1]))
        least = np.minimum.reduceat(level, self.starts) - before
        return int(-np.minimum(least, 0).sum()), int(own.sum())


def _grouped(events: Sequence[Event], lost: int) -> dict[int, int]:
    gets = sorted({event.path for event in events if event.op == Op.GET})
    puts = sorted({event.path for event in events if event.op == Op.PUT})
    paths = sorted({*gets, *puts})
    rows = _rows(events, gets, puts) if len(gets) > 1 and len(puts) > 1 else None
    if rows is None:
        return dict.fromkeys(paths, paths[0])
    edges = _related(*rows, gets, puts)
    steps = _Steps(events)
    parts = _joined(parted(paths, edges), steps, lost)
    for edge in sorted(edges, key=lambda pair: edges[pair]):
        rest = {pair: share for pair, share in edges.items() if pair != edge}
        fewer = _joined_as(parts, parted(paths, rest), edge)
        if fewer is None:
            edges = rest
        elif _splits(steps, fewer, lost):
            edges = rest
            parts = {path: part if path not in fewer[0] else min(fewer[0]) for path, part in parts.items()}
            parts |= dict.fromkeys(fewer[1], min(fewer[1]))
    return parts


def _joined_as(parts: dict[int, int], split: dict[int, int], edge: Pair) -> tuple[set[int], set[int]] | None:
    """Return the two halves of a part that ``split`` makes of it, None where it stays whole."""
    if split[edge[0]] == split[edge[1]] or parts[edge[0]] != parts[edge[1]]:
        return None
    whole = {path for path, part in parts.items() if part == parts[edge[0]]}
    first = {path for path in whole if split[path] == split[edge[0]]}
    second = {path for path in whole if split[path] == split[edge[1]]}
    return (first, second) if first | second == whole else None


def _splits(steps: _Steps, halves: tuple[set[int], set[int]], lost: int) -> bool:
    """Return whether two halves balance by themselves as well as they do together."""
    together, _ = steps.short(halves[0] | halves[1])
    (first, size), (second, other) = steps.short(halves[0]), steps.short(halves[1])
    smaller = min(size, other)
    chance = _CHANCE * smaller**0.5
    return smaller > 1 and first + second - together <= min(FEW, chance) + min(chance, lost)


def _joined(parts: dict[int, int], steps: _Steps, lost: int) -> dict[int, int]:
    """Join groups of which one had more puts than gets and so can't be whole."""
    while len(set(parts.values())) > 1:
        members: dict[int, set[int]] = defaultdict(set)
        for path, part in parts.items():
            members[part].add(path)
        short = {part: steps.short(paths)[0] for part, paths in members.items()}
        worst = max(short, key=lambda part: short[part])
        if short[worst] <= FEW + lost:
            break
        other = min(
            (part for part in members if part != worst),
            key=lambda part: steps.short(members[part] | members[worst])[0],
        )
        parts = {path: other if part == worst else part for path, part in parts.items()}
    return parts


def _related(taken: Floats, dropped: Floats, gets: list[int], puts: list[int]) -> dict[Pair, float]:
    """Return which gets may be dropped by which puts, with how much of either that would be."""
    from scipy.optimize import nnls

    edges: dict[Pair, float] = {}
    for causes, effects, flip in ((taken, dropped, False), (dropped, taken, True)):
        totals = causes.sum(axis=0)
        for at in range(effects.shape[1]):
            weights, _ = nnls(causes, effects[:, at])
            for i in np.flatnonzero(weights).tolist():
                share = weights[i] * totals[i] / max(1.0, min(totals[i], effects[:, at].sum()))
                pair = (gets[at], puts[i]) if flip else (gets[i], puts[at])
                if share >= _WEAK:
                    edges[pair] = max(edges.get(pair, 0.0), float(share))
    return edges


def _rows(events: Sequence[Event], gets: list[int], puts: list[int]) -> tuple[Floats, Floats] | None:
    """Return counts of gets and puts by path, a row an object or a stretch of time; None where too few."""
    column = {path: at for at, path in enumerate(gets)} | {path: at for at, path in enumerate(puts)}
    owners = {owner: at for at, owner in enumerate(dict.fromkeys(event.owner for event in events))}
    if len(owners) >= 2 * _FEWEST_ROWS:
        count = min(_MOST_ROWS, len(owners))
        where = [owners[event.owner] * count // len(owners) for event in events]
    else:
        level = most = 0
        for event in events:
            level += 1 if event.op == Op.GET else -1
            most = max(most, level)
        size = max(24, 3 * most, len(events) // _MOST_ROWS)
        where = [at // size for at in range(len(events))]
        count = where[-1] + 1
    if count < _FEWEST_ROWS:
        return None
    taken, dropped = np.zeros((count, len(gets))), np.zeros((count, len(puts)))
    for row, event in zip(where, events, strict=True):
        (taken if event.op == Op.GET else dropped)[row, column[event.path]] += 1
    return taken, dropped
