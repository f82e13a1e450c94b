"""What is said of each counted object: its suspects ranked, its holders, the first wrong event."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ktriage.refs.book import Extra, Life, Open
from ktriage.refs.columns import MODULE_BASE
from ktriage.refs.evidence import Case, Evidence, Suspect, module_of, opens_of
from ktriage.refs.ledger import Ledger
from ktriage.refs.types import NO_COUNT, Account, Certainty, Holder, Unmatched, Wrong

_RANK: dict[Certainty, int] = {"certain": 0, "likely": 1, "possible": 2}


def accounts(ledger: Ledger) -> list[Account]:
    """Return the account of each counted object, the worst first."""
    ledger.flush()
    lives: dict[int, list[Life]] = defaultdict(list)
    for life in (*ledger.past, *ledger.lives.values()):
        lives[life.counted].append(life)
    judge = Judge(ledger)
    cases = [
        Case(counted, lives[counted], balance, ledger.books[ledger.names.objects[counted].kind])
        for counted, balance in ledger.balances.items()
        if balance.gets or balance.puts or counted in ledger.snapshots
    ]
    for case in cases:
        judge.evidence.gather(case)
    judge.evidence.mistaken(cases)
    return sorted((judge.account(case) for case in cases), key=_badness)


def _badness(account: Account) -> tuple[int, int, float, str]:
    worst = [_RANK[entry.certainty] for entry in (*account.unmatched_gets, *account.unmatched_puts)]
    wrong = account.underflow.time if account.underflow else float("inf")
    return min(worst, default=3), int(account.underflow is None), wrong, account.object


class Judge:
    """Judges cases on what the whole trace showed."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.names = ledger.names
        self.evidence = Evidence(ledger)

    def account(self, case: Case) -> Account:
        """Return what is to be said of one object, whose evidence has been gathered."""
        counted = self.names.objects[case.counted]
        base = MODULE_BASE if counted.kind == "module" else 0
        balance = case.balance
        statics = sum(
            len(uses) for life in case.lives for uses in life.statics.values() if life.ended is None
        )
        opens = sum(1 for life in case.lives if life.ended is None for _ in opens_of(life))
        last = None if balance.last == NO_COUNT else balance.last - base
        return Account(
            counted.name,
            counted.kind,
            balance.events,
            self.ledger.gaps.lost,
            None if balance.first is None else balance.first - base,
            last,
            None if balance.first is None else balance.least - base,
            statics,
            opens if last is None else max(0, last - statics),
            self._ranked(case.gets),
            self._ranked(case.puts),
            self._holders(case),
            self._wrong(case),
            not any(life.ended is None for life in case.lives) and case.counted not in self.ledger.lives,
            balance.gets,
            balance.puts,
            tuple(self._notes(case)),
        )

    def _ranked(self, suspects: Iterable[Suspect]) -> tuple[Unmatched, ...]:
        groups: dict[tuple[int, str, Certainty], list[Suspect]] = defaultdict(list)
        for suspect in suspects:
            groups[suspect.path, self._holder(suspect.path, suspect.task), suspect.certainty].append(suspect)
        found = []
        for (path, holder, certainty), group in groups.items():
            first = min(group, key=lambda suspect: suspect.time)
            where = self.names.paths[path]
            others = {other for suspect in group for other, _ in suspect.among} - {path}
            found.append(
                Unmatched(
                    where.function,
                    where.names,
                    holder,
                    len(group),
                    certainty,
                    first.time / 1e9,
                    max(suspect.time for suspect in group) / 1e9,
                    self._task(first.task),
                    first.note,
                    tuple(sorted(";".join(self.names.paths[other].names) for other in others)),
                )
            )
        return tuple(
            sorted(found, key=lambda entry: (_RANK[entry.certainty], -entry.count, entry.first_seen))
        )

    def _holder(self, path: int, task: int) -> str:
        where = self.names.paths[path]
        outer = next((place.module for place in where.places[where.site :] if place.module), None)
        return module_of(where) or self._task(task) or outer or "(unknown)"

    def _task(self, task: int) -> str | None:
        return str(self.names.tasks[task]) if task else None

    def _holders(self, case: Case) -> tuple[Holder, ...]:
        groups: dict[tuple[str, int, bool, str | None], list[Open]] = defaultdict(list)
        found = []
        for life in case.lives:
            if life.ended is not None:
                continue
            for use in opens_of(life):
                key = self._holder(use.path, use.task), use.path, False, self._task(use.task)
                groups[key].append(use)
            for owner, uses in life.statics.items():
                for use in uses:
                    groups[owner, use.path, True, self._task(use.task)].append(use)
            if life.prior:
                found.append(Holder("(before the trace)", "(unknown)", (), life.prior))
        snapshot = self.ledger.snapshots.get(case.counted)
        for path, count in snapshot.held.items() if snapshot else ():
            where = self.names.paths[path]
            since = snapshot.first / 1e9 if snapshot else None
            found.append(Holder(self._holder(path, 0), where.function, where.names, count, False, since))
        for (holder, path, static, task), uses in groups.items():
            where = self.names.paths[path]
            since = min(use.time for use in uses) / 1e9
            found.append(Holder(holder, where.function, where.names, len(uses), static, since, task))
        return tuple(sorted(found, key=lambda entry: (-entry.count, entry.since or 0)))

    def _wrong(self, case: Case) -> Wrong | None:
        bare = min(
            (extra for life in case.lives for extra in life.extras if extra.bare), key=_time, default=None
        )
        printed = case.balance.wrong
        base = MODULE_BASE if self.names.objects[case.counted].kind == "module" else 0
        if bare is not None and not self.evidence.lossy and (printed is None or bare.time <= printed[1]):
            event, time, task, path, count = bare.event, bare.time, bare.task, bare.path, None
        elif printed is not None:
            event, time, task, path, count = printed
            count -= base
        else:
            return self._complaint(case)
        function = self.names.paths[path].function
        holder = self._holder(path, task)
        return Wrong("underflow", event, time / 1e9, function, holder, self._task(task), count)

    def _complaint(self, case: Case) -> Wrong | None:
        snapshot = self.ledger.snapshots.get(case.counted)
        if snapshot is None or snapshot.wrong is None:
            return None
        time, path, count = snapshot.wrong
        function = self.names.paths[path].function
        shown = None if count == NO_COUNT else count
        return Wrong("reported", 1, time / 1e9, function, self._holder(path, 0), None, shown)

    def _notes(self, case: Case) -> Iterable[str]:
        gaps = self.ledger.gaps
        if gaps.before_start:
            yield f"{gaps.before_start} events before the trace's first were overwritten"
        if self.evidence.lossy:
            number = f"{gaps.lost} events" if gaps.lost else "events"
            yield f"{number} were lost: what was taken or put in them is not known"
        if case.balance.drift and not self.evidence.lossy:
            yield f"the count moved by {case.balance.drift:+d} without an event that was traced"
        life = self.ledger.lives.get(case.counted)
        if life is not None and life.prior is None and case.balance.last == NO_COUNT:
            yield "no counts were printed: references from before the trace are not known of"


def is_accused(account: Account) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return by call path how many gets and puts are held against it."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for entry in account.unmatched_gets:
        gets, puts = found.get(entry.path, (0, 0))
        found[entry.path] = gets + entry.count, puts
    for entry in account.unmatched_puts:
        gets, puts = found.get(entry.path, (0, 0))
        found[entry.path] = gets, puts + entry.count
    return found


def _time(extra: Extra) -> int:
    return extra.time
