"""A bisection whose runs are trials in VMs, on this machine or on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ktriage.bisect.drive import bisect, resume
from ktriage.bisect.nodes import span
from ktriage.bisect.types import Answer, Log, Observer, Options
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.jobs.lab import Lab
from ktriage.jobs.labs import open_lab
from ktriage.jobs.tree_lab import TreeLab, check_ends
from ktriage.trial import load_spec

KIND = "vms"
TRIALS = "trials"


def bisect_in_vms(
    spec: Path,
    *,
    repo: Path,
    good: str,
    bad: str,
    directory: Path,
    log: Path | None = None,
    options: Options,
    cluster_address: str | None = None,
    observer: Observer | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Answer, Lab]:
    """Find the commit that brought what ``spec`` hunts; return the answer and the laboratory it was found in.

    ``directory`` gets the trials, each in a folder of its own, and, unless ``log`` names another place, the
    log as bisection.jsonl. With ``cluster_address`` builds and trials are done by the workers of that Dask
    cluster, as many at a time as they have room for. Whoever calls closes the laboratory. Raises UserError
    for what a person can mend, before anything runs.
    """
    repository = Repository(repo)
    first, last = repository.resolve(good), repository.resolve(bad)
    span(repository, options.find, first, last)
    lab, jobs = _open(spec, directory / TRIALS, repo, cluster_address, options.jobs, progress)
    call = {"kind": KIND, "spec": str(spec.resolve()), "directory": str(directory.resolve())}
    log = log or directory / "bisection.jsonl"
    with _closed_on_error(lab), _threads(lab, jobs) as pool:
        if isinstance(lab, TreeLab):
            check_ends(lab, first, last)
        options = replace(options, call=call, jobs=jobs)
        return bisect(repo, good, bad, lab, pool, options, log, observer, lab.stop), lab


def resume_in_vms(
    path: Path,
    log: Log,
    *,
    jobs: int | None = None,
    cluster_address: str | None = None,
    observer: Observer | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Answer, Lab]:
    """Go on with a bisection in VMs from its log at ``path``, which ``log`` was read from.

    It need not go on where it began: on this machine, or on any cluster. Whoever calls closes the laboratory.
    """
    call = _call(log)
    lab, at_once = _open(
        Path(call["spec"]), Path(call["directory"]) / TRIALS, Path(log.start.repo), cluster_address,
        jobs or log.start.jobs, progress,
    )  # fmt: skip
    with _closed_on_error(lab), _threads(lab, at_once) as pool:
        return resume(path, lab, pool, observer, lab.stop, at_once), lab


def reopen(log: Log, *, debuginfo: bool = False, progress: Callable[[str], None] = lambda _: None) -> Lab:
    """Return the laboratory that a bisection was made in; raises UserError where it was not one of VMs."""
    call = _call(log)
    return open_lab(
        load_spec(Path(call["spec"])),
        Path(call["directory"]) / TRIALS,
        repo=Path(log.start.repo),
        debuginfo=debuginfo,
        progress=progress,
    )


def _call(log: Log) -> dict[str, Any]:
    call = log.start.call
    if call.get("kind") != KIND:
        raise UserError("this bisection did not run in VMs")
    return call


def _open(
    spec: Path, directory: Path, repo: Path, address: str | None, jobs: int, progress: Callable[[str], None]
) -> tuple[Lab, int]:
    """Return a laboratory here, or on a cluster, and how many trials it runs at a time."""
    if address is None:
        return open_lab(load_spec(spec), directory, repo=repo, progress=progress), jobs
    from ktriage.jobs.fleet.lab import open_fleet_lab

    lab = open_fleet_lab(load_spec(spec), directory, address, repo=repo, progress=progress)
    return lab, lab.room


@contextmanager
def _closed_on_error(lab: Lab) -> Iterator[None]:
    try:
        yield
    except BaseException:
        lab.close()
        raise


@contextmanager
def _threads(lab: Lab, jobs: int) -> Iterator[Executor]:
    """Threads for trials, each VM of this machine in its thread; whatever ends the block ends the trials."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="trial")
    try:
        yield pool
    finally:
        lab.stop()
        pool.shutdown(wait=True, cancel_futures=True)
