"""Gets matched with puts, as they come: what is open, what was put without having been taken.

References on bound paths (see ``pairing``) are matched within the task that took them. Those on free paths
are counted in pools, one a life and group of paths: which get a put there belongs to can't be known, but the
pool's level can, and how long it takes to come back to a level it was at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ktriage.refs.columns import Ints
from ktriage.refs.pairing import Pair, Pairing
from ktriage.refs.types import Op

BUCKETS = 65
_GET = int(Op.GET)
_MOST_LEFT = 20_000
_MOST_CANDIDATES = 16
_EARLY = 3
_DEEP = 32
_UNSEEN = 0.002
_ENOUGH = 20
_MUCH_OLDER = 2
_MOST_TASKS = 4096


@dataclass(slots=True)
class Open:
    """A reference that was taken. ``among`` are gets, path and task, of which one may be meant instead."""

    path: int
    task: int
    time: int
    among: tuple[Pair, ...] = ()
    returns: int = 0
    """How often the pool came back to the level that this get brought it to."""


@dataclass(slots=True)
class Extra:
    """A put that nothing was open for.

    ``event`` counts the life's events. ``bare`` says that nothing that calls took was open on the whole
    object: this put, or one before it, is wrong for sure.
    """

    path: int
    task: int
    time: int
    event: int
    among: tuple[Pair, ...] = ()
    bare: bool = False
    ate: str = ""
    """The modules that use the object by linking, where their uses are all that was left to drop."""


@dataclass(slots=True)
class Levels:
    """How long a pool was above each of its levels, until it came back."""

    times: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Level to how often it came back, and the longest time that took."""

    def note(self, level: int, duration: int) -> None:
        """Count one coming back to ``level``."""
        count, longest = self.times.get(level, (0, 0))
        self.times[level] = count + 1, max(longest, duration)


@dataclass(slots=True)
class Pool:
    """What is open on the free paths of one group, of one life."""

    group: int
    opens: list[Open] = field(default_factory=list)
    levels: Levels = field(default_factory=Levels)
    recent: set[Pair] = field(default_factory=set)
    """Path and task of the puts since the pool was last empty."""
    gets: int = 0
    kin: Counter[int] = field(default_factory=Counter)
    """How many were taken by tasks of a name."""
    times_of: dict[int, list[int]] = field(default_factory=dict)
    """When tasks of a name took their first ones."""
    last_get: int = 0
    area: float = 0.0
    """Level times nanoseconds: divided by the gets it is how long one is held on average."""
    then: int = 0
    start: int = 0

    def get(self, path: int, task: int, time: int, kin: int) -> None:
        """Enter a get by a task whose name has the number ``kin``."""
        if not self.gets:
            self.start = time
        self.area += len(self.opens) * max(0, time - self.then)
        self.then = self.last_get = time
        self.gets += 1
        self.kin[kin] += 1
        if self.kin[kin] <= _MOST_CANDIDATES:
            self.times_of.setdefault(kin, []).append(time)
        if not self.opens:
            self.recent.clear()
        self.opens.append(Open(path, task, time))

    def put(self, path: int, task: int, time: int) -> bool:
        """Enter a put; return whether something was open for it."""
        if not self.opens:
            return False
        self.area += len(self.opens) * max(0, time - self.then)
        self.then = time
        if len(self.recent) < _MOST_CANDIDATES:
            self.recent.add((path, task))
        done = self.opens.pop()
        self.levels.note(len(self.opens), max(0, time - done.time))
        if self.opens:
            below = self.opens[-1]
            if below.returns < _EARLY:
                both = {(below.path, below.task), (done.path, done.task), *below.among, *done.among}
                below.among = tuple(both)[:_MOST_CANDIDATES]
            below.returns += 1
        return True


@dataclass(slots=True)
class Life:
    """One life of one object while it is read.

    ``prior`` is how many references were held before the trace's first event of it and not put since,
    None where no count was printed. ``loading`` says that one of them is the loader's.
    """

    number: int
    counted: int
    start: int
    prior: int | None = None
    born: bool = False
    """The trace has the object's beginning: nobody held it before."""
    held: dict[int, list[Open]] = field(default_factory=dict)
    pools: dict[int, Pool] = field(default_factory=dict)
    statics: dict[str, list[Open]] = field(default_factory=dict)
    """Uses that linking made, by the module that was linked; by ``task N`` while its load is in progress."""
    extras: list[Extra] = field(default_factory=list)
    dropped: Counter[Pair] = field(default_factory=Counter)
    doubts: dict[int, set[Pair]] = field(default_factory=dict)
    """By task, puts that were given another path's get for want of their own."""
    events: int = 0
    dynamic: int = 0
    """References open that calls took."""
    ended: int | None = None
    """When it was freed."""


class Book:
    """Matches the plain gets and puts of all lives of one kind."""

    def __init__(self, pairing: Pairing, kin: list[int]) -> None:
        self.pairing = pairing
        self.kin = kin
        """Task to the number of its name."""
        self.held_for: dict[Pair, list[int]] = {}
        """Bound pair to how long such references were held: counts by the number of bits of nanoseconds."""

        self.lossy = False
        """Events were lost: a get that is far too old for a put is not taken for its own."""
        self.done: dict[int, set[int]] = {}
        """Bound path to tasks that put what they took on it; not all of them where there are very many."""

    def enter(self, life: Life, times: Ints, tasks: Ints, ops: Ints, paths: Ints) -> None:
        """Enter gets and puts of one life in order."""
        groups, best, held_for, done = self.pairing.groups, self.pairing.best, self.held_for, self.done
        held, lossy = life.held, self.lossy
        for time, task, op, path in zip(
            times.tolist(), tasks.tolist(), ops.tolist(), paths.tolist(), strict=True
        ):
            life.events += 1
            if path in groups:
                self._free(life, task, op, path, time)
                continue
            stack = held.get(task)
            if op == _GET:
                life.dynamic += 1
                if stack is None:
                    held[task] = [Open(path, task, time)]
                else:
                    stack.append(Open(path, task, time))
                continue
            if stack:
                last = stack[-1]
                buckets = held_for.get((last.path, path))
                if buckets is not None and not lossy and (len(stack) == 1 or best[path] == last.path):
                    stack.pop()
                    if not stack:
                        del held[task]
                    buckets[(time - last.time).bit_length()] += 1
                    life.dynamic -= 1
                    if task not in done[last.path] and len(done[last.path]) < _MOST_TASKS:
                        done[last.path].add(task)
                    continue
            self._slow(life, stack, task, path, time)

    def _free(self, life: Life, task: int, op: int, path: int, time: int) -> None:
        group = self.pairing.groups[path]
        pool = life.pools.get(group)
        if op == _GET:
            life.dynamic += 1
            if pool is None:
                pool = life.pools[group] = Pool(group, then=time, start=time)
            pool.get(path, task, time, self.kin[task])
        elif pool is not None and pool.put(path, task, time):
            life.dynamic -= 1
        else:
            self._extra(life, task, path, time, tuple(pool.recent) if pool else ())

    def _slow(self, life: Life, stack: list[Open] | None, task: int, path: int, time: int) -> None:
        best, found = 0.0, -1
        for at in range(len(stack or ()) - 1, max(-1, len(stack or ()) - _DEEP), -1):
            assert stack is not None
            weight = self._likelihood((stack[at].path, path), time - stack[at].time)
            if weight > best:
                best, found = weight, at
        if found < 0:
            found = -1 if self.lossy else self._related(stack, path)
            if found < 0:
                self._extra(life, task, path, time, tuple(life.doubts.pop(task, ())))
                return
            life.doubts.setdefault(task, set()).add((path, task))
        assert stack is not None
        use = stack.pop(found)
        if not stack:
            del life.held[task]
        held = self.held_for.setdefault((use.path, path), [0] * BUCKETS)
        held[min(BUCKETS - 1, (time - use.time).bit_length())] += 1
        life.dynamic -= 1
        tasks = self.done.setdefault(use.path, set())
        if len(tasks) < _MOST_TASKS:
            tasks.add(task)

    def _related(self, stack: list[Open] | None, path: int) -> int:
        """Return the place of a get that is none of this put's own, but of the same part.

        In a part where several paths drop the same, an earlier put may have been given the wrong one of two.
        """
        part = self.pairing.parts.get(path)
        for at in range(len(stack or ()) - 1, max(-1, len(stack or ()) - _DEEP), -1):
            if stack and part is not None and self.pairing.parts.get(stack[at].path) == part:
                return at
        return -1

    def _likelihood(self, pair: Pair, age: int) -> float:
        """Return how likely it is that a put is for a get that old, up to a factor; 0 for no pair."""
        weight = self.pairing.pairs.get(pair, 0.0)
        if not weight:
            return 0.0
        held = self.held_for.get(pair)
        bucket = max(0, age).bit_length()
        if self.lossy and held and sum(held) >= _ENOUGH and not any(held[max(0, bucket - _MUCH_OLDER) :]):
            return 0.0  # the get that this put is for was lost
        seen = held[bucket] / sum(held) if held and any(held) else 0.0
        return weight * (seen + _UNSEEN) / (1 << bucket)

    def _extra(self, life: Life, task: int, path: int, time: int, among: tuple[Pair, ...]) -> None:
        if life.prior:
            life.prior -= 1
            life.dropped[path, task] += 1
            return
        if len(life.extras) < _MOST_LEFT:
            bare = life.dynamic == 0
            ate = ", ".join(sorted(life.statics)) if bare else ""
            life.extras.append(Extra(path, task, time, life.events, among, bare, ate))
