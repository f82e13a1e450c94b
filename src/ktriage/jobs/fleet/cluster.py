"""A Dask cluster: connecting to it, and an executor for calls of any kind.

Workers say with the resource ``vm`` how many guests they can hold (``dask worker --resources vm=2``). What
goes through the executor sees files at the same paths on all machines; ``crew`` does without.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.jobs.fleet.tls import need_distributed, security, why_not

CONNECT_SECONDS = 15
T = TypeVar("T")


class ClusterExecutor(Executor):
    """Hands calls to a cluster, each to a worker that has room for a guest.

    A call whose worker dies is made again by another (Dask does that); one that kills worker after worker,
    or is lost with the scheduler, ends as a MachineryError.
    """

    def __init__(self, client: Any) -> None:  # noqa: ANN401 (distributed has no types)
        # Pure calls with the same arguments would be made once; ours are repeated on purpose.
        self._client = client
        self._inner: Executor = client.get_executor(pure=False, resources={"vm": 1})

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:  # noqa: ANN401
        """Hand in a call."""
        inner = self._inner.submit(fn, *args, **kwargs)
        outer: Future[T] = Future()
        outer.set_running_or_notify_cancel()
        inner.add_done_callback(lambda done: _hand_on(done, outer))
        return outer

    def everywhere(self, fn: Callable[..., None], /, *args: Any) -> None:  # noqa: ANN401
        """Call something once in each worker process, at once, whatever they are doing."""
        self._client.run(fn, *args, on_error="ignore")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the calls that have not ended."""
        del wait, cancel_futures
        self._inner.shutdown(wait=False)


def _hand_on(inner: Future[T], outer: Future[T]) -> None:
    if inner.cancelled():
        outer.set_exception(MachineryError("the run was lost with its worker or the scheduler"))
        return
    error = inner.exception()
    if error is None:
        outer.set_result(inner.result())
    elif isinstance(error, (KtriageError, OSError)):
        outer.set_exception(error)
    else:
        outer.set_exception(MachineryError(f"a worker failed: {type(error).__name__}: {error}"))


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Lend a client of the scheduler at ``address``.

    TLS is as ``ktriage.jobs.fleet.tls`` says. Raises UserError where there is no scheduler, or none that this
    process may speak to, or no ``distributed`` here.
    """
    Client = need_distributed().Client  # noqa: N806 (a class)
    secured = security(address, "client")
    failed = None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, security=secured)
    except (OSError, ValueError) as error:
        failed = why_not(address, error)
    if failed is not None:
        # A client that could not be made closes itself when it is collected, and hangs if that happens
        # while another one is being made.
        gc.collect()
        raise UserError(f"no Dask scheduler at {address}: {failed}")
    try:
        yield client
    finally:
        client.close(timeout=5)


@contextmanager
def cluster(address: str) -> Iterator[tuple[ClusterExecutor, int]]:
    """Connect to the scheduler at ``address``; give an executor and how many guests its workers can hold.

    Raises UserError as ``connected``, and where there is no worker that takes guests.
    """
    with connected(address) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        vms = int(sum(worker["resources"].get("vm", 0) for worker in workers))
        if not vms:
            hint = f"ktriage worker --scheduler {address} --vms 2"
            raise UserError(f"no worker of {address} takes guests", hint=hint)
        executor = ClusterExecutor(client)
        try:
            yield executor, vms
        finally:
            executor.shutdown(wait=False)
