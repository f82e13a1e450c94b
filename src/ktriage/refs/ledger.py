"""The ledger: events in, and at the end an account of each counted object."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ktriage.refs.book import Book, Extra, Life, Open
from ktriage.refs.clocks import offsets, shifted
from ktriage.refs.columns import (
    MODULE_BASE,
    Columns,
    Gaps,
    Ints,
    breaks,
    deltas,
    joined,
    life_bounds,
    mended,
)
from ktriage.refs.names import Names
from ktriage.refs.pairing import Event, Pairing, learn
from ktriage.refs.series import Series
from ktriage.refs.stacks import is_linking
from ktriage.refs.types import NO_COUNT, NOBODY, Op, Task

# Plain numbers: an enum's members are slow to compare with arrays.
_GET, _PUT, _LOAD, _FREE, _LOST, _EXIT, _HELD = (
    int(Op.GET),
    int(Op.PUT),
    int(Op.LOAD),
    int(Op.FREE),
    int(Op.LOST),
    int(Op.EXIT),
    int(Op.HELD),
)
_BUFFER = 1 << 17
_LEARNT_FROM = 40_000
_ENOUGH_FOR_CLOCKS = 50
_MOST_JUMPS = 1 << 16
_SAME_REPORT_NS = 500_000_000
_DIGITS = re.compile(r"\d+")
_NO_FLOOR = -(1 << 40)
_LOADER = ("do_init_module",)
"""Who drops the reference that the loader holds while a module's init runs."""


@dataclass(slots=True)
class Balance:
    """What one object's printed counts say, as they are printed."""

    first: int | None = None
    last: int = NO_COUNT
    follows: int = NO_COUNT
    """The count that the next event's follows from; not known where another life begins."""
    least: int = 1 << 40
    events: int = 0
    gets: int = 0
    puts: int = 0
    broken: int = 0
    """How often the count did not follow from the event."""
    drift: int = 0
    """By how much the count moved without an event, in all."""
    jumps: list[tuple[int, int, int]] = field(default_factory=list)
    """Between which two events the count moved by itself, and by how much."""
    when: int = 0
    wrong: tuple[int, int, int, int, int] | None = None
    """Event number, time, task, path and printed count of the first put below what may be."""


@dataclass(slots=True)
class Use:
    """How often an object was taken and dropped on one path."""

    gets: int = 0
    puts: int = 0
    first: int = 0


@dataclass(slots=True)
class Snapshot:
    """What the kernel said of an object: who holds it, by path, and what it complained of."""

    held: dict[int, int] = field(default_factory=dict)
    first: int = 0
    last: int = 0
    wrong: tuple[int, int, int] | None = None
    """Time, path and count of its first complaint."""

    def holds(self, time: int, path: int, count: int) -> None:
        """Note one group of holders; a later report takes the place of the one before."""
        if not self.held:
            self.first = time
        if time - self.last > _SAME_REPORT_NS or (path in self.held and count != 1):
            self.held.clear()
        self.last = time
        self.held[path] = self.held.get(path, 0) + count


@dataclass(slots=True)
class Ledger:
    """Takes events batch by batch; ``judge.accounts`` reads it when all are in.

    ``plotted`` names objects whose count over time is kept.
    """

    names: Names
    plotted: bool = False
    gaps: Gaps = field(default_factory=Gaps)
    books: dict[str, Book] = field(default_factory=dict)
    lives: dict[int, Life] = field(default_factory=dict)
    past: list[Life] = field(default_factory=list)
    """Lives that have ended with something left over."""
    balances: dict[int, Balance] = field(default_factory=dict)
    uses: dict[int, dict[int, Use]] = field(default_factory=dict)
    """By object and path."""
    series: dict[int, Series] = field(default_factory=dict)
    freed: dict[str, int] = field(default_factory=dict)
    """When a module was last freed."""
    loaded: dict[str, int] = field(default_factory=dict)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    """By object, what the kernel itself last said of its holders."""
    exits: dict[int, int] = field(default_factory=dict)
    kin: list[int] = field(default_factory=list)
    """Task to the number of its name, digits left out: kworker/0:1 and kworker/1:0 are kin."""
    began: int | None = None
    until: int = 0
    _waiting: list[Columns] = field(default_factory=list)
    _held_back: int = 0
    _lives: int = 0
    _lost_before: int = 0
    _unloading: dict[int, str] = field(default_factory=dict)
    _linking: dict[int, list[Life]] = field(default_factory=lambda: defaultdict(list))
    _linked: list[bool] = field(default_factory=list)
    _loaders: list[bool] = field(default_factory=list)
    _odd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """By path: linking took or dropped; with the loader's own where the object is a module."""
    _odd_in_modules: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    _contexts: list[int] = field(default_factory=list)
    _offsets: dict[int, int] | None = None
    _kin: dict[str, int] = field(default_factory=dict)

    def feed(self, batch: Columns) -> None:
        """Enter some events."""
        if not len(batch):
            return
        self._waiting.append(batch)
        self._held_back += len(batch)
        if self._held_back >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Enter what was held back."""
        waiting, self._waiting, self._held_back = self._waiting, [], 0
        if not waiting:
            return
        data = joined(waiting)
        self.gaps.note(data)
        real = data.ops != _LOST
        if real.any():
            self.began = int(data.times[real][0]) if self.began is None else self.began
            self.until = max(self.until, int(data.times[real].max()))
        for row in np.flatnonzero(data.ops == _EXIT).tolist():
            self.exits[int(data.counts[row])] = int(data.times[row])
        data.tasks = self._in_context(data)
        data = self._on_one_clock(data)
        owners = self._owners(data)
        order = np.argsort(data.objects, kind="stable")
        order = order[data.objects[order] >= 0]
        parts = [
            self._ordered(counted, part, rows) for counted, part, rows in _by_object(data.taken(order), order)
        ]
        self._learn(parts)
        for book in self.books.values():
            book.lossy = self.gaps.lost > self.gaps.before_start or self.gaps.unknown
        for counted, part, rows in parts:
            self._count(counted, part)
            self._enter(counted, part, owners, rows)

    def _on_one_clock(self, data: Columns) -> Columns:
        """Return the events in the order of the CPUs' clocks as they should be."""
        if self._offsets is None:
            known = (data.ops <= _PUT) & (data.objects >= 0) & (data.counts != NO_COUNT)
            if known.sum() < _ENOUGH_FOR_CLOCKS:
                return data
            most = int(np.bincount(data.objects[known]).argmax())
            self._offsets = offsets(data.taken(known & (data.objects == most)), self._floor(most))
        if not any(self._offsets.values()):
            return data
        data.times = shifted(data.times, data.cpus, self._offsets)
        return data.taken(np.argsort(data.times, kind="stable"))

    def _in_context(self, data: Columns) -> Ints:
        """Return the tasks, with those whose stack shows an interrupt replaced by it."""
        while len(self._contexts) < len(self.names.paths):
            context = self.names.paths[len(self._contexts)].context
            self._contexts.append(self.names.task(Task("", 0, context)) if context else -1)
        for task in self.names.tasks[len(self.kin) :]:
            self.kin.append(self._kin.setdefault(_DIGITS.sub("", str(task.comm)), len(self._kin)))
        inside = np.array(self._contexts, np.int64)[data.paths]
        return np.where(inside >= 0, inside, data.tasks)

    def _owners(self, data: Columns) -> dict[int, str]:
        """Return by row whose static uses linking made or dropped: the module in load or unload there.

        A module's static uses are taken before module_load names it, by the same task; its uses are dropped
        after module_free has named it.
        """
        while len(self._linked) < len(self.names.paths):
            self._loaders.append(self.is_loader(len(self._linked)))
            self._linked.append(is_linking(self.names.paths[len(self._linked)]))
        self._odd = np.array(self._linked, np.bool_)
        self._odd_in_modules = self._odd | np.array(self._loaders, np.bool_)
        linked = self._odd[data.paths]
        rows = np.flatnonzero((linked & (data.ops <= _PUT)) | (data.ops == _LOAD) | (data.ops == _FREE))
        owners: dict[int, str] = {}
        loading: dict[int, list[int]] = defaultdict(list)
        for row in rows.tolist():
            op, task = int(data.ops[row]), int(data.tasks[row])
            if op == _GET:
                loading[task].append(row)
            elif op == _PUT:
                owners[row] = self._unloading.get(task) or _loading(task)
            elif op == _LOAD:
                name = self.names.objects[int(data.objects[row])].name
                self.loaded[name] = int(data.times[row])
                self._unloading.pop(task, None)
                owners |= dict.fromkeys(loading.pop(task, ()), name)
                for life in self._linking.pop(task, ()):
                    life.statics.setdefault(name, []).extend(life.statics.pop(_loading(task), ()))
            elif data.objects[row] >= 0:
                name = self.names.objects[int(data.objects[row])].name
                self._unloading[task] = name
                self.freed[name] = int(data.times[row])
        for task, waiting in loading.items():
            owners |= dict.fromkeys(waiting, _loading(task))
        return owners

    def _ordered(self, counted: int, part: Columns, rows: Ints) -> tuple[int, Columns, Ints]:
        """Return the object's events in the order that its counts tell, but for loads and frees."""
        follows = self.balances.setdefault(counted, Balance()).follows
        order = np.arange(len(part))
        other = np.flatnonzero(part.ops > _PUT).tolist()
        changed = False
        for start, end in zip([0, *(at + 1 for at in other)], [*other, len(part)], strict=True):
            if end - start < 2:
                continue
            better = mended(
                part.taken(order[start:end]), follows if start == 0 else NO_COUNT, self._floor(counted)
            )
            if better is not None:
                changed = True
                order[start:end] = start + better
        return (counted, part.taken(order), rows[order]) if changed else (counted, part, rows)

    def _floor(self, counted: int) -> int:
        return 0 if self._module(counted) else _NO_FLOOR

    def _learn(self, parts: list[tuple[int, Columns, Ints]]) -> None:
        """Learn the pairing of paths that are new, from what is about to be entered."""
        by_kind: dict[str, list[tuple[int, Columns]]] = defaultdict(list)
        for counted, part, _ in parts:
            by_kind[self.names.objects[counted].kind].append((counted, part))
        for kind, members in by_kind.items():
            book = self.books.setdefault(kind, Book(Pairing(), self.kin))
            known = book.pairing.known
            if all(set(np.unique(part.paths).tolist()) <= known for _, part in members):
                continue
            events = list(self._plain(members))
            share = len(events) / max(1, sum(len(part) for _, part, _ in parts))
            book.pairing.merge(learn(events, int((self.gaps.lost - self._lost_before) * share)))
        self._lost_before = self.gaps.lost

    def _plain(self, members: list[tuple[int, Columns]]) -> Iterator[Event]:
        left = _LEARNT_FROM
        for counted, part in members:
            life = np.cumsum(life_bounds(part, module=self._module(counted)))
            plain = (part.ops <= _PUT) & ~self._special(counted, part)
            some = part.taken(plain).rows(0, left)
            for op, task, path, number in zip(
                some.ops.tolist(),
                some.tasks.tolist(),
                some.paths.tolist(),
                life[plain][:left].tolist(),
                strict=True,
            ):
                yield Event(op, counted << 24 | number, self._somebody(task), path)
            left -= len(some)
            if left <= 0:
                return

    def _special(self, counted: int, part: Columns) -> NDArray[np.bool_]:
        """Return which events are of linking or of the loader."""
        return np.asarray((self._odd_in_modules if self._module(counted) else self._odd)[part.paths])

    def _module(self, counted: int) -> bool:
        return self.names.objects[counted].kind == "module"

    def _somebody(self, task: int) -> int:
        return task if self.names.tasks[task].context == "task" else NOBODY

    def is_loader(self, path: int) -> bool:
        """Return whether the loader's own reference is dropped here."""
        return self.names.paths[path].function in _LOADER

    def _loader(self, counted: int, path: int) -> bool:
        return self.is_loader(path) and self._module(counted)

    def _count(self, counted: int, part: Columns) -> None:
        """Follow the printed count."""
        balance = self.balances[counted]
        module = self._module(counted)
        balance.gets += int((part.ops == _GET).sum())
        balance.puts += int((part.ops == _PUT).sum())
        self._use(counted, part)
        plain = part.taken(part.ops <= _PUT)
        printed = plain.counts != NO_COUNT
        if printed.any():
            ends = np.flatnonzero(life_bounds(part, module=self._module(counted)))
            fresh = np.searchsorted(np.flatnonzero(part.ops <= _PUT), ends, side="right")
            self._printed(balance, plain, fresh, self._floor(counted))
            below = (plain.ops == _PUT) & printed & ((plain.counts == 0) if module else (plain.counts < 0))
            if below.any() and balance.wrong is None:
                at = int(np.argmax(below))
                balance.wrong = (
                    balance.events + at + 1,
                    int(plain.times[at]),
                    int(plain.tasks[at]),
                    int(plain.paths[at]),
                    int(plain.counts[at]),
                )
            if self.plotted:
                self.series.setdefault(counted, Series()).extend(
                    plain.times[printed], plain.counts[printed] - (MODULE_BASE if module else 0)
                )
        balance.events += len(part)
        if module and (part.ops == _FREE).any():
            balance.wrong = None  # a module whose count is wrong is never freed

    @staticmethod
    def _printed(balance: Balance, plain: Columns, fresh: Ints, floor: int) -> None:
        """Follow the counts; rows ``fresh`` begin another life, so that nothing before them counts."""
        printed = plain.counts != NO_COUNT
        counts = plain.counts[printed]
        if balance.first is None:
            balance.first = int(counts[0]) - (1 if plain.ops[printed][0] == _GET else -1)
        wrong = breaks(plain.counts, plain.ops, balance.follows, floor=floor)
        wrong[fresh[fresh < len(wrong)]] = False
        previous = np.concatenate(([balance.follows], plain.counts[:-1]))
        balance.broken += int(wrong.sum())
        moved = plain.counts - previous - deltas(plain.ops)
        balance.drift += int(moved[wrong].sum())
        before = np.concatenate(([balance.when], plain.times[:-1]))
        if len(balance.jumps) < _MOST_JUMPS:
            balance.jumps += zip(
                before[wrong].tolist(), plain.times[wrong].tolist(), moved[wrong].tolist(), strict=True
            )
        balance.when = int(plain.times[-1])
        balance.last = int(counts[-1])
        balance.follows = NO_COUNT if len(fresh) and fresh[-1] == len(wrong) else int(plain.counts[-1])
        balance.least = min(balance.least, int(counts.min()))

    def _use(self, counted: int, part: Columns) -> None:
        known = self.uses.setdefault(counted, {})
        for op in (_GET, _PUT):
            own = part.ops == op
            if not own.any():
                continue
            paths, first, count = np.unique(part.paths[own], return_index=True, return_counts=True)
            times = part.times[own]
            for path, at, n in zip(paths.tolist(), first.tolist(), count.tolist(), strict=True):
                use = known.get(path)
                if use is None:
                    use = known[path] = Use(first=int(times[at]))
                if op == _GET:
                    use.gets += n
                else:
                    use.puts += n

    def _enter(self, counted: int, part: Columns, owners: dict[int, str], rows: Ints) -> None:
        """Match gets and puts: plain ones in stretches, the others one by one between them."""
        book = self.books[self.names.objects[counted].kind]
        ends = life_bounds(part, module=self._module(counted))
        special = self._special(counted, part) | (part.ops > _PUT)
        stops = np.flatnonzero(special | ends).tolist()
        start = 0
        for stop in [*stops, len(part)]:
            if start < stop:
                life = self._life(counted, part, start)
                some = slice(start, stop)
                book.enter(life, part.times[some], part.tasks[some], part.ops[some], part.paths[some])
            if stop < len(part):
                self._one(self._life(counted, part, stop), book, part, stop, owners.get(int(rows[stop])))
                if ends[stop]:
                    self._end(self.lives[counted], int(part.times[stop]))
            start = stop + 1

    def _life(self, counted: int, part: Columns, at: int) -> Life:
        life = self.lives.get(counted)
        if life is None:
            life = self._born(counted, int(part.times[at]), int(part.ops[at]), int(part.counts[at]))
        return life

    def _one(self, life: Life, book: Book, part: Columns, at: int, owner: str | None) -> None:
        """Enter one event that is not plain, or ends its object's life."""
        time, task, path = int(part.times[at]), int(part.tasks[at]), int(part.paths[at])
        op = int(part.ops[at])
        if op > _PUT:
            life.events += 1
            if op >= _HELD:
                self._snapshot(life.counted, op, time, path, int(part.counts[at]))
        elif owner is not None:
            life.events += 1
            self._static(life, owner, Open(path, task, time), op)
        elif op == _PUT and self._loader(life.counted, path):
            life.events += 1
            life.prior = max(0, life.prior - 1) if life.prior is not None else None
        else:
            row = slice(at, at + 1)
            book.enter(life, part.times[row], part.tasks[row], part.ops[row], part.paths[row])

    def _born(self, counted: int, time: int, op: int, count: int) -> Life:
        self._lives += 1
        life = Life(self._lives, counted, time)
        module = self._module(counted)
        if op == _LOAD:
            life.prior, life.born = 1, True
        elif count != NO_COUNT and op <= _PUT:
            before = count - (1 if op == _GET else -1) - (MODULE_BASE if module else 0)
            life.prior = max(0, before)
            life.born = before <= 0
        self.lives[counted] = life
        return life

    def _snapshot(self, counted: int, op: int, time: int, path: int, count: int) -> None:
        snapshot = self.snapshots.setdefault(counted, Snapshot())
        if op == _HELD:
            snapshot.holds(time, path, count)
            return
        if count != NO_COUNT:
            self.balances[counted].last = count
        if snapshot.wrong is None:
            snapshot.wrong = time, path, count

    def _static(self, life: Life, owner: str, use: Open, op: int) -> None:
        if op == _GET:
            life.statics.setdefault(owner, []).append(use)
            if owner.startswith("task "):
                self._linking[use.task].append(life)
            return
        uses = life.statics.get(owner)
        if uses:
            uses.pop()
            if not uses:
                del life.statics[owner]
        elif life.prior:
            life.prior -= 1
        else:
            life.extras.append(Extra(use.path, use.task, use.time, life.events, bare=life.dynamic == 0))

    def _end(self, life: Life, time: int) -> None:
        life.ended = time
        del self.lives[life.counted]
        if life.held or life.extras or any(pool.opens for pool in life.pools.values()) or life.statics:
            self.past.append(life)


def _loading(task: int) -> str:
    return f"task {task}"


def _by_object(data: Columns, order: Ints) -> Iterator[tuple[int, Columns, Ints]]:
    """Yield each object's rows, with where they stood in the trace."""
    if not len(data):
        return
    bounds = np.flatnonzero(np.diff(data.objects)) + 1
    for start, end in zip([0, *bounds.tolist()], [*bounds.tolist(), len(data)], strict=True):
        yield int(data.objects[start]), data.rows(start, end), order[start:end]
