"""``ktriage worker``: lend this machine's guests to a cluster."""

from __future__ import annotations

import asyncio
import errno
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from ktriage.cli import tls
from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    import argparse

HELP = (
    "Join a Dask cluster and do what its scheduler hands out (trials, builds, imports, dumps), with as many"
    " guests at once as this machine can hold. SIGTERM and ctrl-C: takes nothing new, finishes what it can"
    " in --grace seconds, leaves the rest to other workers, and ends; a second one ends it at once."
)
EXAMPLE = "ktriage worker --scheduler tcp://ci.example.org:8786 --vms 4"
CONNECT_SECONDS = 30
FETCH_SECONDS = 10
"""How long results wait to be fetched when all calls have ended."""
GRACE = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", required=True, help="the scheduler, tcp:// or tls://"
    )
    parser.add_argument("--vms", metavar="N", type=int, default=1, help="guests at once (1)")
    parser.add_argument("--name", metavar="NAME", help="what this worker is called (its address)")
    parser.add_argument(
        "--port", metavar="N", type=int, default=0, help="where the scheduler reaches it (any that is free)"
    )
    parser.add_argument("--folder", metavar="DIR", help="where it keeps what is under way (a temporary one)")
    parser.add_argument(
        "--grace", metavar="S", type=float, default=GRACE,
        help=f"seconds that calls get to end after SIGTERM ({GRACE})",
    )  # fmt: skip
    tls.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage worker``."""
    if args.vms < 1:
        raise UserError("--vms: at least 1")
    if args.grace < 0:
        raise UserError("--grace: at least 0")
    from ktriage.jobs.fleet.tls import need_distributed, security

    distributed = need_distributed()
    tls.apply(args, "worker")
    if not asyncio.run(_work(distributed, args, security(args.scheduler, "worker"))):
        raise MachineryError(
            f"{args.scheduler} is gone or has given this worker up; what it did is done again elsewhere"
        )
    return 0


async def _work(distributed: Any, args: argparse.Namespace, secured: Any) -> bool:  # noqa: ANN401 (it has no types)
    """Work until it ends: true where it was asked to, false where the scheduler was lost."""
    worker = await _start(distributed, args, secured)
    stop = asyncio.Event()
    asked: list[float] = []

    def end() -> None:
        asked.append(time.monotonic())
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    sys.stderr.write(f"{worker.address}: {args.vms} guests for {args.scheduler} (ctrl-C ends it)\n")
    gone = asyncio.ensure_future(worker.finished())
    ending = asyncio.ensure_future(_end_calls(distributed, worker))
    await asyncio.wait({gone, asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if asked:
        await _let_finish(distributed, worker, gone, asked, args.grace)
        # Whoever waits for a call of this worker learns by this that it has to be made elsewhere.
        await worker.close(executor_wait=False, nanny=False)
    await ending
    return bool(asked)


async def _end_calls(distributed: Any, worker: Any) -> None:  # noqa: ANN401
    """End what is under way once the worker closes: nobody hears of it any more."""
    from ktriage.jobs.lab import stop_all

    while worker.status in distributed.worker.WORKER_ANY_RUNNING:
        await asyncio.sleep(0.2)
    stop_all()


async def _start(distributed: Any, args: argparse.Namespace, secured: Any) -> Any:  # noqa: ANN401
    from ktriage.jobs.fleet import under_way

    # Guests, builds and dumps have processes of their own: Dask's measure, this process's share of the
    # machine's memory by processors, would only stop workers that are well.
    worker = distributed.Worker(
        args.scheduler, nthreads=args.vms, resources={"vm": args.vms}, name=args.name, port=args.port,
        local_directory=args.folder, dashboard=False, death_timeout=CONNECT_SECONDS, memory_limit=0,
        security=secured,
        metrics={"ktriage": lambda _: under_way.report()},
        startup_information={"ktriage": lambda _: under_way.identity()},
    )  # fmt: skip
    try:
        await asyncio.wait_for(worker.start(), CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError, RuntimeError) as error:
        raise _not_started(args, error.__cause__ or error) from None
    return worker


def _not_started(args: argparse.Namespace, error: BaseException) -> UserError:
    """Return what a person can mend of what Dask says."""
    from ktriage.jobs.fleet.tls import why_not

    if "name taken" in str(error):
        return UserError(
            f"{args.scheduler} has a worker that is called {args.name}", hint="take another --name"
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return UserError(f"--port: something else listens at {args.port}")
    return UserError(
        f"no Dask scheduler at {args.scheduler}: {why_not(args.scheduler, error)}",
        hint="`dask scheduler` starts one",
    )


async def _let_finish(
    distributed: Any,  # noqa: ANN401
    worker: Any,  # noqa: ANN401
    gone: asyncio.Future[Any],
    asked: list[float],
    grace: float,
) -> None:
    """Take nothing new, and wait until all calls have ended and their results are fetched, or long enough."""
    from ktriage.jobs.fleet import content

    worker.status = distributed.core.Status.closing_gracefully
    running = len(worker.state.executing)
    if running:
        sys.stderr.write(f"{running} calls under way get {grace:g} s to end (ctrl-C: not that)\n")
    idle = None
    while len(asked) < 2 and not gone.done():
        now, late = time.monotonic(), time.monotonic() > asked[0] + grace
        if left := len(worker.state.executing):
            idle = None
            if late:
                sys.stderr.write(f"{left} calls are left to other workers\n")
                return
        else:
            idle = idle or now
            waiting = worker.data and now < idle + FETCH_SECONDS
            # A trial's folder is fetched after its call has ended.
            if not waiting and (late or not content.offering()):
                return
        await asyncio.sleep(0.1)
