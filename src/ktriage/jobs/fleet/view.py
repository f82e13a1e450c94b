"""What a cluster's workers do just now, and what waits for them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ktriage.errors import MachineryError
from ktriage.jobs.fleet.cluster import connected
from ktriage.jobs.fleet.under_way import differs, identity

STALLED_SECONDS = 15.0
"""A worker that was not heard of for so long is said to have stalled; heartbeats come every few seconds."""


def fleet(address: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a cluster's workers by name, and its queue. Raises UserError as ``connected`` does.

    Of a worker: ``name``, ``address``, ``status`` (Dask's, or ``stalled``), ``vms`` (guests at once),
    ``running`` (calls), ``doing`` (``kind``, ``what`` and ``seconds`` of each; a worker that ``dask worker``
    started names calls by their functions), ``memory`` (bytes in use), ``free`` (bytes where its cache is,
    or null), ``quiet`` (seconds since it was heard of), ``version`` (what ``identity`` returns, or null) and
    ``unlike`` (how that differs from this side's, or null). Of the queue: how many calls are ``running``,
    ``waiting`` and ``failed``, ``waits`` (functions by name, how often each), ``scheduler`` and ``unlike``.
    """
    with connected(address) as client:
        return summary(client)


def summary(client: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # noqa: ANN401 (distributed has no types)
    """Return what ``fleet`` does, by a client that is there; raises MachineryError where it is no more."""
    try:
        seen = client.run_on_scheduler(_look)
    except (OSError, RuntimeError) as error:
        raise MachineryError("the scheduler is gone") from error
    workers = [_worker(one) for one in seen["workers"]]
    running = sum(worker["running"] for worker in workers)
    queue = {
        "running": running,
        "waiting": sum(seen["open"].values()) - running,
        "failed": seen["failed"],
        "waits": dict(Counter(seen["open"]) - Counter(seen["executing"])),
        "scheduler": seen["identity"],
        "unlike": differs(seen["identity"]),
    }
    return sorted(workers, key=lambda worker: str(worker["name"])), queue


def _worker(seen: dict[str, Any]) -> dict[str, Any]:
    said = seen["ktriage"] or {}
    calls = [{"kind": "call", "what": name, "seconds": seconds} for name, seconds in seen["executing"]]
    doing = list(said.get("doing") or calls)
    for one in doing:
        one["seconds"] = round(one["seconds"] + seen["quiet"], 1)
    stalled = seen["quiet"] > STALLED_SECONDS
    return {
        "name": seen["name"], "address": seen["address"],
        "status": "stalled" if stalled else seen["status"],
        "vms": seen["vms"], "running": max(len(calls), len(doing)), "doing": doing,
        "memory": seen["memory"], "free": said.get("free"), "quiet": seen["quiet"],
        "version": seen["identity"], "unlike": differs(seen["identity"]),
    }  # fmt: skip


def _look(dask_scheduler: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what the scheduler knows; runs in its process, by its clock."""
    from dask.utils import key_split
    from distributed.metrics import time

    now = time()
    open_, failed = Counter[str](), 0
    for task in dask_scheduler.tasks.values():
        if task.state in ("waiting", "no-worker", "queued", "processing"):
            open_[key_split(task.key)] += 1
        failed += task.state == "erred"
    workers = [
        {
            "name": str(worker.name), "address": worker.address, "status": worker.status.name,
            "vms": int(worker.resources.get("vm", 0)), "memory": int(worker.metrics.get("memory", 0)),
            "quiet": max(0.0, now - worker.last_seen), "ktriage": worker.metrics.get("ktriage"),
            "identity": worker.extra.get("ktriage"),
            "executing": [(key_split(task.key), seconds) for task, seconds in worker.executing.items()],
        }
        for worker in dask_scheduler.workers.values()
    ]  # fmt: skip
    executing = Counter(name for worker in workers for name, _ in worker["executing"])
    return {
        "workers": workers, "open": dict(open_), "failed": failed, "executing": dict(executing),
        "identity": identity(),
    }  # fmt: skip
