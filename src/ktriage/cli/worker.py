"""``ktriage worker``: lend this machine's guests to a cluster."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    import argparse

HELP = (
    "Join a Dask cluster and run trials and builds that its scheduler hands out, with as many guests at once"
    " as this machine can hold. TLS is set up as Dask has it: a tls:// address and its configuration."
)
EXAMPLE = "ktriage worker --scheduler tcp://ci.example.org:8786 --vms 4"
CONNECT_SECONDS = 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", required=True, help="the scheduler, tcp:// or tls://"
    )
    parser.add_argument("--vms", metavar="N", type=int, default=1, help="guests at once (1)")
    parser.add_argument("--name", metavar="NAME", help="what this worker is called (its address)")
    parser.add_argument("--folder", metavar="DIR", help="where it keeps what is under way (a temporary one)")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage worker``."""
    if args.vms < 1:
        raise UserError("--vms: at least 1")
    try:
        import distributed
    except ImportError:
        raise UserError(
            "the package distributed is not installed", hint="pip install 'ktriage[cluster]'"
        ) from None
    # What it says of itself is for its own developers; what matters of it is said below.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    return asyncio.run(_work(distributed, args))


async def _work(distributed: Any, args: argparse.Namespace) -> int:  # noqa: ANN401 (it has no types)
    worker = distributed.Worker(
        args.scheduler, nthreads=args.vms, resources={"vm": args.vms}, name=args.name,
        local_directory=args.folder, dashboard=False, death_timeout=CONNECT_SECONDS,
    )  # fmt: skip
    try:
        await asyncio.wait_for(worker.start(), CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"no Dask scheduler at {args.scheduler}: {error or 'it does not answer'}",
            hint="`dask scheduler` starts one",
        ) from None
    sys.stderr.write(f"{worker.address}: {args.vms} guests for {args.scheduler} (ctrl-C ends it)\n")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: asyncio.ensure_future(worker.close()))
    await worker.finished()
    if str(worker.status).endswith("failed"):
        raise MachineryError("the worker was lost")
    return 0
