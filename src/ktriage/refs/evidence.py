"""What the ledger's leftovers mean: who holds, who leaked, who put what was not theirs.

A reference that is open at the end is a holder until something speaks against it:

- the module whose code took it is gone (certain), or the task that took it has ended;
- others of the same path were put again, many of them, and none took nearly as long;
- the pool it lies in used to come back below it again and again, and no longer does;
- the pool was drained, nothing was taken for longer than one is held on average, and it stayed.

A put for which nothing was open is wrong unless a reference from before the trace explains it, or a put that
another task made for the one that took. Where events were lost, what a loss at the right time explains is no
accusation, unless the printed count says that so many references are really there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from ktriage.refs.book import BUCKETS, Book, Extra, Life, Open, Pool
from ktriage.refs.columns import MODULE_BASE, Floats, Span
from ktriage.refs.ledger import Balance, Ledger
from ktriage.refs.stacks import is_linking
from ktriage.refs.types import NO_COUNT, Certainty, Path
from ktriage.refs.unusual import DRAINED, ENOUGH, LONGER, MUCH_LONGER, is_drained, outlived, rare_of, risen

_MIDDLE = 0.75
FEW_LEFT = 50
RARELY_LEFT = 10
"""One in so many of a path's references may be open at the end to be held against it."""
STILL_HELD = "still held at the end of the trace; nearly all others of this path were put"
_TIMES_MEAN = 5
_EXPLAINED = 0.001
_ANYTHING = 0.5
_LISTED = 5
_MOST_TRIED = 100
_MOST_WEIGHED = 5_000
_SYSTEMATIC = 5
_SURE = 0.8
_HALF = 0.5
_DIGITS = re.compile(r"\d+")
MOST_REPORTED = 10_000
"""So many references of one path in a kernel's report are believed."""


@dataclass(slots=True)
class Suspect:
    """A leftover that is held against someone: ``among`` are paths, with tasks, that may be meant."""

    path: int
    task: int
    time: int
    certainty: Certainty
    note: str
    among: tuple[tuple[int, int], ...] = ()
    gap: float = 0.0
    """How likely a loss of events would explain it."""


@dataclass(slots=True)
class Case:
    """One object's leftovers, over all its lives in the trace."""

    counted: int
    lives: list[Life]
    balance: Balance
    book: Book
    gets: list[Suspect] = field(default_factory=list)
    puts: list[Suspect] = field(default_factory=list)
    judged: set[int] = field(default_factory=set)
    """Ids of the open references that something was found about."""


class Evidence:
    """What the whole trace shows, against which leftovers are held."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.names = ledger.names
        self.lossy = ledger.gaps.lost > 0 or ledger.gaps.unknown
        self._linked = [is_linking(path) for path in ledger.names.paths]
        self._held: dict[tuple[int, int], list[int]] = {}
        self._comms: dict[tuple[int, int], set[str]] = {}
        self._weighed = 0
        self._spans: dict[tuple[int, int], list[Span]] = {}
        self.left: Counter[int] = Counter()
        """By bound path, how many of its references are open at the end."""
        for life in ledger.lives.values():
            self.left.update(use.path for stack in life.held.values() for use in stack)
        self.drained = self._is_all_drained()

    def gather(self, case: Case) -> None:
        """Find the suspects of one case."""
        for life in case.lives:
            self._life(case, life)
        case.gets += self._still_held(case)
        self._blame(case, case.gets, gets=True)
        self._blame(case, case.puts, gets=False)
        if self.lossy:
            self._demanded(case)
        self._reported(case)

    def mistaken(self, cases: Iterable[Case]) -> None:
        """Note where a put went to another object than its get: same task, paths that pair, soon enough."""
        gets: dict[int, list[tuple[Case, Suspect]]] = defaultdict(list)
        cases = list(cases)
        for case in cases:
            for suspect in case.gets:
                gets[suspect.task].append((case, suspect))
        for case in cases:
            for put in case.puts:
                for other, get in gets.get(put.task, [])[:_MOST_TRIED]:
                    if other is not case and other.book is case.book and self._meant(case.book, get, put):
                        put.note += f"; it may have been meant for {self.names.objects[other.counted].name}"
                        get.note += f"; its put may have gone to {self.names.objects[case.counted].name}"
                        break

    def _meant(self, book: Book, get: Suspect, put: Suspect) -> bool:
        parts, longest = book.pairing.parts, self._longest(book, get.path)[1]
        pairs = parts.get(get.path) == parts.get(put.path, -1)
        return bool(put.task) and pairs and 0 <= put.time - get.time <= LONGER * longest

    def _reported(self, case: Case) -> None:
        """Take over what a ref_tracker said is held by whom."""
        snapshot = self.ledger.snapshots.get(case.counted)
        if snapshot is None or not snapshot.held:
            return
        leaked = self.names.objects[case.counted].name == "(unnamed)"
        text = "the kernel reported it as leaked" if leaked else "the kernel reported who still holds it"
        for path, count in snapshot.held.items():
            suspect = Suspect(path, 0, snapshot.first, "certain" if leaked else "likely", text)
            case.gets += [suspect] * min(count, MOST_REPORTED)

    def _life(self, case: Case, life: Life) -> None:
        until = life.ended or self.ledger.until
        bound = [use for stack in life.held.values() for use in stack]
        left = Counter(use.path for use in bound)
        extras: dict[int, list[Extra]] = defaultdict(list)
        for extra in sorted(life.extras, key=lambda extra: extra.time):
            extras[case.book.pairing.parts.get(extra.path, -1)].append(extra)
        for use in sorted(bound, key=lambda use: use.time):
            if self._handed_on(case.book, use, extras.get(case.book.pairing.parts.get(use.path, -2), [])):
                case.judged.add(id(use))
            else:
                self._bound(case, use, until, 2 * left[use.path])
        for pool in life.pools.values():
            self._pool(case, pool, until)
        self._extras(case, life, [extra for some in extras.values() for extra in some])

    def _handed_on(self, book: Book, use: Open, extras: list[Extra]) -> bool:
        """Return whether a put that found nothing was for this one, soon enough; take it out of ``extras``.

        Another task may have made it, or the same one where two of its references were taken for each other.
        ``extras`` are those of paths that this one's may pair with, in order.
        """
        at = bisect_right(extras, use.time, key=lambda extra: extra.time)
        if at < len(extras) and extras[at].time - use.time <= 2 * self._longest(book, use.path)[1]:
            del extras[at]
            return True
        return False

    def _longest(self, book: Book, path: int, spare: int = 0) -> tuple[int, int]:
        """Return how many references taken on a bound path were put, and the longest time one was held.

        ``spare`` of them, one in a hundred at most, may have been held longer: where a task holds a lost one
        beside others, another's put is now and then taken for its.
        """
        key = id(book), path
        if key not in self._held:
            total = [0] * BUCKETS
            for (get, _), buckets in book.held_for.items():
                if get == path:
                    total = [a + b for a, b in zip(total, buckets, strict=True)]
            self._held[key] = total
        buckets = self._held[key]
        count = sum(buckets)
        spare = min(spare, count // 100)
        longest = 0
        for at in range(BUCKETS - 1, -1, -1):
            spare -= buckets[at]
            if spare < 0:
                longest = 1 << at
                break
        return count, longest

    def _common(self, book: Book, path: int) -> int:
        """Return the time that 19 of 20 references taken on a bound path were held at most."""
        buckets = self._held[id(book), path]
        rest = sum(buckets) * 0.95
        for at, count in enumerate(buckets):
            rest -= count
            if rest <= 0:
                return 1 << at
        return 0

    def _bound(self, case: Case, use: Open, until: int, spare: int) -> None:
        suspect = self._gone(use)
        count, longest = self._longest(case.book, use.path, spare)
        age = until - use.time
        tail = max(LONGER, _HALF * longest / max(1, self._common(case.book, use.path)))
        few = self.left[use.path] * FEW_LEFT <= count or age > MUCH_LONGER * longest
        if (
            suspect is None
            and few
            and outlived(count, longest, age, tail)
            and self._comm_is_usual(case.book, use)
        ):
            text = f"{count} others of this path were put, none after more than {_seconds(longest)}"
            suspect = Suspect(use.path, use.task, use.time, "likely" if count >= ENOUGH else "possible", text)
        if suspect is not None:
            suspect.gap = self._in_gap(case, use.time, self._shares(case.book, use.path, None))
            case.gets.append(suspect)
            case.judged.add(id(use))

    def _in_gap(self, case: Case, time: int, shares: Callable[[Floats], Floats], sign: int = 1) -> float:
        """Return how likely the other half of a pair is among the lost: the later (``sign`` 1) or earlier."""
        if not self.lossy:
            return 0.0
        self._weighed += 1
        if self._weighed > _MOST_WEIGHED:
            return _ANYTHING
        spans = self._fitting(case, sign)
        if sign > 0:
            return self.ledger.gaps.chance(spans, lambda times: shares(times - time))
        return self.ledger.gaps.chance(spans, lambda times: 1 - shares(time - times))

    def _fitting(self, case: Case, sign: int) -> list[Span]:
        key = case.counted, sign
        if key not in self._spans:
            self._spans[key] = self.ledger.gaps.fitting(case.balance.jumps, sign)
        return self._spans[key]

    def _shares(self, book: Book, get: int | None, put: int | None) -> Callable[[Floats], Floats]:
        """Return the share of references on a bound path that were held for some time at most."""
        total = np.zeros(BUCKETS)
        for pair, buckets in book.held_for.items():
            if get in (pair[0], None) and put in (pair[1], None):
                total += buckets
        sums = np.concatenate(([0.0], np.cumsum(total) / max(1.0, total.sum())))
        edges = np.concatenate(([0.0], 2.0 ** np.arange(BUCKETS)))
        return lambda ages: np.interp(np.maximum(ages, 0.0), edges, sums)

    def _comm_is_usual(self, book: Book, use: Open) -> bool:
        """Return whether tasks of this name have put such references: another program may hold for ever."""
        key = id(book), use.path
        if key not in self._comms:
            self._comms[key] = {
                _DIGITS.sub("", self.names.tasks[task].comm) for task in book.done.get(use.path, ())
            }
        return _DIGITS.sub("", self.names.tasks[use.task].comm) in self._comms[key]

    def _gone(self, use: Open) -> Suspect | None:
        """Return a suspect where the holder of a reference no longer is."""
        module = module_of(self.names.paths[use.path])
        freed = self.ledger.freed.get(module, -1) if module else -1
        if module and freed > use.time:
            sure: Certainty = "likely" if self.lossy else "certain"
            return Suspect(use.path, use.task, use.time, sure, f"{module} was unloaded and still had it")
        exited = self.ledger.exits.get(self.names.tasks[use.task].pid, -1)
        if exited > use.time:
            return Suspect(use.path, use.task, use.time, "likely", "the task that took it has ended")
        return None

    def _pool(self, case: Case, pool: Pool, until: int) -> None:
        if not pool.opens:
            return
        rare = rare_of(pool)
        drained = len(pool.opens) > sum(pool.kin[kin] for kin in rare) and is_drained(pool, until)
        for level, use in enumerate(pool.opens):
            suspect = self._gone(use)
            count, longest = pool.levels.times.get(level, (0, 0))
            among = ((use.path, use.task), *use.among)
            mean = int(pool.area / pool.gets)
            usual = use.time + max(longest, _TIMES_MEAN * mean)
            others = (time for kin in rare for time in pool.times_of[kin])
            if suspect is None and not any(use.time <= time <= usual for time in others):
                if risen(pool, level, until):
                    text = f"until then the count came back {count} times, after {_seconds(longest)} at most"
                    suspect = Suspect(use.path, use.task, use.time, "likely", text)
                elif drained:
                    text = "all others were put, and no new ones came"
                    suspect = Suspect(use.path, use.task, use.time, "possible", text)
            if suspect is None:
                continue
            suspect.among = among
            suspect.gap = _ANYTHING if self.lossy else 0.0  # each loss moves the level for good
            case.judged.add(id(use))
            case.gets.append(suspect)

    def _still_held(self, case: Case) -> Iterable[Suspect]:
        """Yield what is open at the end on paths that otherwise put nearly all that they took.

        Nothing else speaks against these. Where the trace ended under load, those are left out that are held
        no longer than others were: they are in use.
        """
        for life in case.lives:
            if life.ended is not None:
                continue
            for use in (use for stack in life.held.values() for use in stack):
                count, longest = self._longest(case.book, use.path)
                age, left = self.ledger.until - use.time, self.left[use.path]
                in_use = not self.drained and age <= LONGER * longest
                seldom = count >= RARELY_LEFT * left or (count >= left and age > LONGER * longest)
                usual = self._comm_is_usual(case.book, use)
                if seldom and usual and not in_use and id(use) not in case.judged:
                    gap = self._in_gap(case, use.time, self._shares(case.book, use.path, None))
                    yield Suspect(use.path, use.task, use.time, "possible", STILL_HELD, gap=gap)
            for pool in life.pools.values():
                rare = sum(pool.kin[kin] for kin in rare_of(pool))
                if pool.gets < RARELY_LEFT * len(pool.opens) or not self.drained or len(pool.opens) <= rare:
                    continue
                for use in pool.opens[rare:]:
                    if id(use) not in case.judged:
                        among = ((use.path, use.task), *use.among)
                        gap = _ANYTHING if self.lossy else 0.0
                        yield Suspect(use.path, use.task, use.time, "possible", STILL_HELD, among, gap)

    def _is_all_drained(self) -> bool:
        """Return whether far fewer references are open at the trace's end than usually were."""
        span = max(1, self.ledger.until - (self.ledger.began or 0))
        usual = 0.0
        for book in self.ledger.books.values():
            for buckets in book.held_for.values():
                usual += sum(_MIDDLE * n * (1 << at) for at, n in enumerate(buckets)) / span
        left = 0
        for life in self.ledger.lives.values():
            usual += sum(pool.area for pool in life.pools.values()) / span
            left += sum(len(pool.opens) for pool in life.pools.values())
            left += sum(map(len, life.held.values()))
        return left <= DRAINED * usual

    def _blame(self, case: Case, suspects: list[Suspect], *, gets: bool) -> None:
        """Put the likeliest of the paths that may be meant first.

        A path that is wrong is often wrong every time: one whose uses are as many as are missing is likelier
        than one of many uses that is wrong now and then.
        """
        missing = len(suspects)
        seen = Counter(suspect.path for suspect in suspects)
        for suspect in suspects:
            paths = {path for path, _ in suspect.among}
            if len(paths) < 2:
                continue
            weights: dict[int, float] = {}
            sizes: dict[int, int] = {}
            for path in paths:
                use = self.ledger.uses.get(case.counted, {}).get(path)
                n = (use.gets if gets else use.puts) if use else 1
                weights[path], sizes[path] = 1 + (_SYSTEMATIC * len(paths) if n == missing > 1 else 0), n
            best = max(paths, key=lambda path: (weights[path], seen[path], sizes[path]))
            suspect.path = best
            suspect.task = next(task for path, task in suspect.among if path == best)
            if weights[best] < _SURE * sum(weights.values()):
                suspect.certainty = "possible"

    def _extras(self, case: Case, life: Life, extras: list[Extra]) -> None:
        if not extras:
            return
        sure = not self.lossy and life.prior is not None and self._only_one(case)
        for extra in extras:
            text = (
                "nothing was held"
                if extra.bare
                else "its task held nothing"
                if not extra.among
                else "too many puts"
            )
            if self._linked[extra.path]:
                text = "unloading dropped a use that was already gone"
            elif extra.ate:
                text += f"; it ate the static use of {extra.ate}"
            certainty: Certainty = (
                "certain" if sure and extra.bare else "likely" if life.prior is not None else "possible"
            )
            suspect = Suspect(extra.path, extra.task, extra.time, certainty, text)
            suspect.among = ((extra.path, extra.task), *extra.among)
            if extra.path in case.book.pairing.groups:
                suspect.gap = _ANYTHING if self.lossy else 0.0
            else:
                suspect.gap = self._in_gap(case, extra.time, self._shares(case.book, None, extra.path), -1)
            case.puts.append(suspect)

    def _only_one(self, case: Case) -> bool:
        """Return whether one function alone puts this object, linking and loading left aside."""
        putting = {
            (self.names.paths[path].function, module_of(self.names.paths[path]))
            for path, use in self.ledger.uses.get(case.counted, {}).items()
            if use.puts and not self._linked[path] and not self.ledger.is_loader(path)
        }
        return len(putting) == 1

    def _demanded(self, case: Case) -> None:
        """Keep of the suspects that a loss explains only as many as the printed count asks for."""
        life = self.ledger.lives.get(case.counted)
        held = 0
        if life is not None and case.balance.last != NO_COUNT:
            base = MODULE_BASE if self.names.objects[case.counted].kind == "module" else 0
            held = case.balance.last - base - sum(map(len, life.statics.values())) - (life.prior or 0)
        case.gets = _kept(case.gets, held)
        case.puts = _kept(case.puts, -held)
        for suspect in (*case.gets, *case.puts):
            suspect.certainty = "possible"


def _kept(suspects: list[Suspect], wanted: int) -> list[Suspect]:
    """Return the suspects that no loss explains, and of the others the least explained.

    ``wanted`` is how many the printed count asks for; which ones they are is a guess, so a few are listed.
    """
    free = [suspect for suspect in suspects if suspect.gap < _EXPLAINED]
    rest = sorted(
        (suspect for suspect in suspects if suspect.gap >= _EXPLAINED), key=lambda suspect: suspect.gap
    )
    for suspect in rest:
        suspect.certainty = "possible"
        suspect.note = (
            "the count says so many are wrong; but events were lost when the other half may have come"
        )
    return free + (rest[: max(wanted, _LISTED) - len(free)] if wanted > len(free) else [])


def opens_of(life: Life) -> Iterable[Open]:
    """Yield what is open of one life, static uses left aside."""
    for stack in life.held.values():
        yield from stack
    for pool in life.pools.values():
        yield from pool.opens


def module_of(path: Path) -> str | None:
    """Return the module whose code took or dropped the reference."""
    return path.places[path.site].module if path.site < len(path.places) else None


def _seconds(nanoseconds: int) -> str:
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds} ns"
