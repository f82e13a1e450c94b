"""A bisection whose runs are trials in VMs on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ktriage.bisect.drive import bisect, resume
from ktriage.bisect.nodes import span
from ktriage.bisect.types import Answer, Log, Observer, Options
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.jobs.cluster import RemoteLab, cluster
from ktriage.jobs.lab import Lab, open_lab, stop_all
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
    log as bisection.jsonl. With ``cluster_address`` the trials run on that Dask cluster, as many at a time as
    its workers have room for. Raises UserError for what a person can mend, before anything runs.
    """
    repository = Repository(repo)
    first, last = repository.resolve(good), repository.resolve(bad)
    span(repository, options.find, first, last)
    lab = open_lab(load_spec(spec), directory / TRIALS, repo=repo, progress=progress)
    if isinstance(lab, TreeLab):
        check_ends(lab, first, last)
    call = {"kind": KIND, "spec": str(spec.resolve()), "directory": str(directory.resolve())}
    log = log or directory / "bisection.jsonl"
    with _somewhere(cluster_address, options.jobs) as (pool, jobs):
        runner = (
            lab
            if cluster_address is None
            else RemoteLab(call["spec"], str(lab.directory), str(repository.path))
        )
        options = replace(options, call=call, jobs=jobs)
        return bisect(repo, good, bad, runner, pool, options, log, observer, stop_all), lab


def resume_in_vms(
    path: Path,
    log: Log,
    *,
    jobs: int | None = None,
    cluster_address: str | None = None,
    observer: Observer | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Answer, Lab]:
    """Go on with a bisection in VMs from its log at ``path``, which ``log`` was read from."""
    lab = reopen(log, progress=progress)
    with _somewhere(cluster_address, jobs or log.start.jobs) as (pool, at_once):
        runner = (
            lab
            if cluster_address is None
            else RemoteLab(str(log.start.call["spec"]), str(lab.directory), log.start.repo)
        )
        return resume(path, runner, pool, observer, stop_all, at_once), lab


def reopen(log: Log, *, debuginfo: bool = False, progress: Callable[[str], None] = lambda _: None) -> Lab:
    """Return the laboratory that a bisection was made in; raises UserError where it was not one of VMs."""
    call = log.start.call
    if call.get("kind") != KIND:
        raise UserError("this bisection did not run in VMs")
    return open_lab(
        load_spec(Path(call["spec"])),
        Path(call["directory"]) / TRIALS,
        repo=Path(log.start.repo),
        debuginfo=debuginfo,
        progress=progress,
    )


@contextmanager
def _somewhere(address: str | None, jobs: int) -> Iterator[tuple[Executor, int]]:
    """Give what runs the trials, and how many at a time: threads here, or a cluster's workers."""
    if address is None:
        with _threads(jobs) as pool:
            yield pool, jobs
    else:
        with cluster(address) as (pool, vms):
            yield pool, vms


@contextmanager
def _threads(jobs: int) -> Iterator[Executor]:
    """Threads for VMs, each VM in its thread; whatever ends the block ends the VMs."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="trial")
    try:
        yield pool
    finally:
        stop_all()
        pool.shutdown(wait=True, cancel_futures=True)
