"""Calls on the workers of a cluster that share nothing with us: each is made until it has come to an end.

Every call goes to one worker of the driver's choosing, so that it is known who has it. A worker that is gone,
or was not heard of for some seconds (stopped, its network cut), or takes longer than it may, loses the call
to another one; whatever it may still answer goes nowhere. Blobs that a call needs are sent to its worker
before, once. A call that nobody waits for any more (the driver died, gave it up, was interrupted) has its
guests and builds ended where it runs.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.jobs.fleet import content, crew_there
from ktriage.jobs.fleet.content import Blob
from ktriage.jobs.fleet.crew_there import Answer
from ktriage.jobs.fleet.under_way import differs, unlike

QUIET_SECONDS = 15.0
"""A worker that was not heard of for so long is taken for lost until it is; they speak twice a second."""
ALONE_SECONDS = 60.0
"""How long a call waits where there is no worker at all."""
LOST_CALLS = 4
"""A call that so many workers were lost with is not made again."""
POLL_SECONDS = 0.5
LOOK_SECONDS = 15.0
"""What the scheduler may take to say who is there."""
ANSWER_SECONDS = 60.0
"""What anything may take that is no call: a piece that is sent, a question."""

T = TypeVar("T")
U = TypeVar("U")
Prepare = Callable[[Callable[..., Any]], tuple[tuple[Any, ...], Sequence[Blob]]]


class _LostError(Exception):
    """A call was lost with its worker; the text says how."""


@dataclass(slots=True)
class _Worker:
    """What is known of a worker: ``seen`` is the scheduler's word, ``heard`` when that changed last, by our
    clock; ``busy`` how many calls of ours it has, ``doing`` how many of anybody's, as it said last; ``takes``
    is false for one that ends its calls and will go; ``has`` are the blobs that it is known to have.
    """  # noqa: D205 (one sentence)

    vms: int
    seen: float
    heard: float
    busy: int = 0
    takes: bool = True
    doing: int = 0
    has: set[str] = field(default_factory=set)


class Crew:
    """The workers of a cluster that take guests. Its methods may be called from any number of threads.

    ``sent`` counts what was sent to each worker, by address and SHA-256. ``progress`` gets a line for what
    people should know: a worker that is lost, one that can't be used.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401 (distributed has no types)
        *,
        quiet: float = QUIET_SECONDS,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        self._client = client
        self._quiet = quiet
        self._progress = progress
        self._workers: dict[str, _Worker] = {}
        self._unlike: dict[str, str] = {}
        self._changed = threading.Condition()
        self._sending: dict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._topic = f"ktriage-{uuid.uuid4().hex}"
        self._looked = time.monotonic()
        self._failing: float | None = None
        self._begun: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._stopped = 0
        self._closed = threading.Event()
        self._look()
        client.subscribe_topic(self._topic, self._told)
        self._watch = threading.Thread(target=self._keep_looking, name="crew", daemon=True)
        self._watch.start()

    @property
    def room(self) -> int:
        """How many calls the workers can take at once."""
        with self._changed:
            return sum(worker.vms for worker in self._workers.values())

    @property
    def stops(self) -> int:
        """How often ``stop`` was called: what began before a call of it should not go on after it."""
        return self._stopped

    @property
    def unlike(self) -> dict[str, str]:
        """Workers that can't be used, by address, each with the reason."""
        with self._changed:
            return dict(self._unlike)

    def learn(self, blobs: Sequence[Blob]) -> None:
        """Ask the workers which of these blobs they have; calls go where the most is of what they need."""
        with self._changed:
            addresses = list(self._workers)
        for address in addresses:
            with suppress(_LostError):
                self._lacking(address, blobs)

    def call(
        self,
        fn: Callable[..., T],
        *args: Any,  # noqa: ANN401
        seconds: float,
        needs: Sequence[Blob] = (),
    ) -> T:
        """Call ``fn(*args)`` on a worker and return what it returns; ``fn`` is a module's function.

        ``needs`` are blobs that are sent to the worker before, where it lacks them; it finds them by
        ``content.using``, and where that raises MissingError they are sent and the call is made again. A call
        that has run for ``seconds`` is given to another worker. Raises what ``fn`` raises where that is one
        of ours (with the worker's address as ``data["worker"]``) or an OSError, else MachineryError; so, too,
        where workers are lost one after another, there is none left, or ``stop`` was called.
        """
        return self.call_then(fn, *args, seconds=seconds, needs=needs, then=lambda result, _: result)

    def call_then(
        self,
        fn: Callable[..., T],
        *args: Any,  # noqa: ANN401
        then: Callable[[T, Callable[[Blob], None]], U],
        seconds: float,
        needs: Sequence[Blob] = (),
        prepare: Prepare | None = None,
    ) -> U:
        """Call as ``call`` does, and return ``then(result, fetch)``, which is part of it.

        ``fetch(blob)`` brings a blob that the worker offered (``content.offer``) into this machine's store. A
        worker that is lost meanwhile loses the call. Where what is called depends on what its worker has,
        ``prepare(ask)`` returns arguments and needs in place of those given; ``ask(fn, *args)`` calls a
        coroutine there at once, which must not take long.
        """
        since = self._stopped
        lost: list[str] = []
        why = ""
        while len(lost) < LOST_CALLS:
            address = self._take(lost, needs, since)
            try:
                if prepare is not None:
                    args, needs = prepare(partial(self._ask, address))
                result = self._made(address, fn, args, seconds, needs, since)
                return then(result, partial(self._fetch, address))
            except _LostError as error:
                why = str(error)
                lost.append(address)
                self._progress(f"{address} {why}: what it was doing is given to another worker")
            finally:
                self._give(address)
        raise MachineryError(f"{len(lost)} workers were lost with it, the last one {why}")

    def summary(self) -> str:
        """Say in one line what was sent."""
        times = Counter(self.sent)
        again = sum(count - 1 for count in times.values())
        blobs, workers = {blob for _, blob in times}, {address for address, _ in times}
        size = sum(self._sizes[blob] * count for (_, blob), count in times.items())
        return (
            f"sent: {size >> 20} MiB ({len(blobs)} files and folders, workers: {len(workers)}), "
            f"{again or 'none'} of them more than once to the same"
        )

    def stop(self) -> None:
        """End all calls; whoever waits for one gets a MachineryError."""
        with self._changed:
            self._stopped += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End all calls, and stop looking after the workers. The client stays open."""
        self.stop()
        self._closed.set()
        self._watch.join(timeout=ANSWER_SECONDS)
        with suppress(Exception):  # the connection may be gone
            self._client.unsubscribe_topic(self._topic)

    # Who is there

    def _keep_looking(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            try:
                self._look()
                self._failing = None
            except Exception:  # noqa: BLE001 (whatever Dask says when its connection is gone)
                self._failing = self._failing or time.monotonic()

    def _look(self) -> None:
        async def ask() -> Any:  # noqa: ANN401
            return await self._client.scheduler.identity(n_workers=-1)

        info = self._client.sync(ask, callback_timeout=LOOK_SECONDS)["workers"]
        now = time.monotonic()
        with self._changed:
            if now - self._looked > self._quiet / 2:
                # It was us who did not listen: stopped, asleep, without the scheduler.
                for worker in self._workers.values():
                    worker.heard += now - self._looked
            self._looked = now
            self._unlike = {a: why for a, one in info.items() if (why := unlike(one.get("ktriage")))}
            for address, one in info.items():
                vms = int(one["resources"].get("vm", 0))
                takes = one.get("status") in (None, "running")
                if not vms or address in self._unlike or not (takes or address in self._workers):
                    continue
                if address not in self._workers and (why := differs(one.get("ktriage"))):
                    self._progress(f"{address}: {why}")
                worker = self._workers.setdefault(address, _Worker(vms, 0.0, now))
                worker.takes = takes
                worker.doing = len((one["metrics"].get("ktriage") or {}).get("doing", ()))
                if worker.seen != one["last_seen"]:
                    worker.seen, worker.heard = one["last_seen"], now
            for address in self._workers.keys() - info.keys():
                del self._workers[address]
            self._changed.notify_all()

    def _state(self, address: str) -> str:
        """Say what is wrong with a worker; empty where nothing is."""
        worker = self._workers.get(address)
        if worker is None:
            return "is gone"
        quiet = self._looked - worker.heard
        return f"was not heard of for {quiet:.0f} s" if quiet > self._quiet else ""

    def _take(self, lost: Sequence[str], needs: Iterable[Blob], since: int) -> str:
        """Return a worker with room, and take it; another than those that lost the call, if there is."""
        wanted = {blob.sha256 for blob in needs}
        alone = time.monotonic() + ALONE_SECONDS
        with self._changed:
            while True:
                self._check_stopped(since)
                well = [a for a, worker in self._workers.items() if worker.takes and not self._state(a)]
                others = [address for address in well if address not in lost]
                if not others and time.monotonic() > alone:
                    if not well:
                        raise MachineryError("the cluster has no worker left that takes guests")
                    others = well
                free = [a for a in others if self._workers[a].busy < self._workers[a].vms]
                if free:
                    best = min(free, key=lambda a: self._cost(a, wanted))
                    self._workers[best].busy += 1
                    return best
                self._changed.wait(POLL_SECONDS)

    def _cost(self, address: str, wanted: set[str]) -> tuple[bool, int, float]:
        """Rank workers: those last that are full with what others asked for, then by how much they lack."""
        worker = self._workers[address]
        return worker.doing >= worker.vms, len(wanted - worker.has), worker.busy / worker.vms

    def _give(self, address: str) -> None:
        with self._changed:
            if address in self._workers:
                self._workers[address].busy = max(0, self._workers[address].busy - 1)
            self._changed.notify_all()

    def _check_stopped(self, since: int) -> None:
        if since != self._stopped:
            raise MachineryError("the call was stopped")
        if self._failing and time.monotonic() - self._failing > ALONE_SECONDS:
            raise MachineryError("the scheduler does not answer any more")

    def _check(self, address: str, since: int | None = None) -> None:
        """Raise _LostError where a worker is lost, MachineryError where calls were stopped."""
        with self._changed:
            if since is not None:
                self._check_stopped(since)
            if why := self._state(address):
                raise _LostError(why)

    # Calls

    def _made(
        self,
        address: str,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        seconds: float,
        needs: Sequence[Blob],
        since: int,
    ) -> T:
        """Make a call on one worker, which gets what it lacks."""
        lacking = self._lacking(address, needs)
        for _ in range(3):
            for blob in lacking:
                self._check(address, since)
                self._send(address, blob)
            how, what = self._asked(address, fn, args, seconds, since)
            if how == "done":
                result: T = what
                return result
            if how == "failed":
                error = what if isinstance(what, (KtriageError, OSError)) else _foreign(what)
                if isinstance(error, KtriageError):
                    error.data["worker"] = address
                raise error
            lacking = what
            with self._changed:
                if address in self._workers:
                    self._workers[address].has -= {blob.sha256 for blob in lacking}
        raise MachineryError(f"{address} does not keep what it is sent: is its cache's disk too small?")

    def _asked(
        self, address: str, fn: Callable[..., Any], args: tuple[Any, ...], seconds: float, since: int
    ) -> Answer:
        key = f"{fn.__name__}-{uuid.uuid4().hex}"
        done = threading.Event()
        future = self._client.submit(
            crew_there.work, self._topic, key, fn, args,
            key=key, workers=[address], allow_other_workers=False, resources={"vm": 1}, pure=False, retries=0,
        )  # fmt: skip
        future.add_done_callback(lambda _: done.set())
        try:
            while not done.wait(POLL_SECONDS):
                self._check(address, since)
                begun = self._begun.get(key)
                if begun is not None and time.monotonic() - begun > seconds:
                    raise _LostError(f"took over {seconds:.0f} s")
            return self._answer(address, future, since)
        finally:
            self._begun.pop(key, None)
            with suppress(Exception):  # what is not wanted any more need not be cancelled in order
                self._client.sync(_released, future, callback_timeout=ANSWER_SECONDS)

    def _answer(
        self,
        address: str,
        future: Any,  # noqa: ANN401
        since: int,
    ) -> Answer:
        """Fetch what a call came to, which lies with its worker."""
        while future.status == "finished":
            try:
                found: Answer = future.result(timeout=POLL_SECONDS)
            except TimeoutError:
                self._check(address, since)
                continue
            return found
        if future.status == "cancelled":
            raise MachineryError("the call was lost with the scheduler")
        # Ours never raise: the worker could not read the call, or died so often that Dask gave up.
        error = future.exception(timeout=ANSWER_SECONDS)
        self._check(address, since)
        raise _foreign(error)

    def _told(self, event: tuple[float, Any]) -> None:
        """Note that a call has begun; runs in the client's thread."""
        self._begun[str(event[1])] = time.monotonic()

    # Blobs

    def _ask(self, address: str, fn: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        """Call a coroutine in a worker's own loop, whatever its threads are doing."""

        async def ask() -> Any:  # noqa: ANN401
            return await self._client.run(fn, *args, workers=[address])

        asked = asyncio.run_coroutine_threadsafe(ask(), self._client.loop.asyncio_loop)
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            while not wait([asked], POLL_SECONDS).done:
                self._check(address)
                if time.monotonic() > deadline:
                    raise _LostError(f"did not answer for {ANSWER_SECONDS:.0f} s")
            return asked.result()[address]
        except (KtriageError, _LostError):
            raise
        except (OSError, TimeoutError, KeyError, ValueError) as error:
            self._check(address)
            raise _LostError(f"does not answer ({type(error).__name__})") from error
        except Exception as error:  # Dask's own words for what went wrong there
            raise _foreign(error) from error
        finally:
            asked.cancel()

    def _lacking(self, address: str, needs: Sequence[Blob]) -> tuple[Blob, ...]:
        with self._changed:
            worker = self._workers.get(address)
            known = set(worker.has) if worker else set()
        asked = [blob for blob in needs if blob.sha256 not in known]
        if not asked:
            return ()
        lacking: tuple[Blob, ...] = self._ask(address, crew_there.missing, asked)
        self._note(address, set(asked) - set(lacking))
        return lacking

    def _note(self, address: str, blobs: Iterable[Blob]) -> None:
        with self._changed:
            if address in self._workers:
                self._workers[address].has |= {blob.sha256 for blob in blobs}

    def _send(self, address: str, blob: Blob) -> None:
        with self._sending[address, blob.sha256]:
            # Another thread may have sent it meanwhile.
            if not self._ask(address, crew_there.missing, [blob]):
                self._note(address, [blob])
                return
            transfer = uuid.uuid4().hex

            def give(offset: int, piece: bytes) -> None:
                self._check(address)
                self._ask(address, crew_there.put, blob, transfer, offset, piece)

            self._sizes[blob.sha256] = blob.size
            self.sent[address, blob.sha256] += 1
            content.send(blob, give)
            self._note(address, [blob])

    def _fetch(self, address: str, blob: Blob) -> None:
        """Bring a blob that a worker offered into this machine's store."""
        offset, transfer = 0, uuid.uuid4().hex
        while content.missing([blob]):
            self._check(address)
            piece: bytes = self._ask(address, crew_there.piece_of, blob, offset)
            content.put(blob, transfer, offset, piece)
            offset += content.PIECE
        with suppress(_LostError, KtriageError):
            self._ask(address, crew_there.withdraw, blob)


def _foreign(error: BaseException | None) -> MachineryError:
    return MachineryError(f"a worker failed: {type(error).__name__}: {error}")


# What runs in the client's loop.


async def _released(future: Any) -> None:  # noqa: ANN401
    await future.cancel()


def crew_of(client: Any, address: str, progress: Callable[[str], None] = lambda _: None) -> Crew:  # noqa: ANN401
    """Return the workers of a client's cluster; raises UserError where none takes guests."""
    crew = Crew(client, progress=progress)
    if crew.room:
        return crew
    crew.close()
    for worker, why in crew.unlike.items():
        raise UserError(f"{worker} can't be used: {why}", hint="install the same ktriage on all machines")
    hint = f"ktriage worker --scheduler {address} --vms 2"
    raise UserError(f"no worker of {address} takes guests", hint=hint)
