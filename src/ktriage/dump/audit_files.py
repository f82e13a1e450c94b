"""Open files that nobody has open: ``struct file`` by its count against what leads to it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import drgn
import numpy as np

from ktriage.dump.audit_objects import Census, ObjectAudit
from ktriage.dump.holders.openfiles import OpenFile, OpenFiles, open_files
from ktriage.dump.holders.walk import KERNEL_HALF, Holder, Walk

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = 4096
MOST_PAGES = 1 << 12
MOST_STACK = 1 << 16
"""Bytes of one kernel stack that are searched; THREAD_SIZE is 16 KiB on x86-64."""


def audit_files(walk: Walk) -> Census:
    """Return the files whose count is not that of their users.

    A call in progress (read(2) of a task with threads, poll(2)) has a reference of its own: where a file
    that is used has too many, and its address is on a kernel stack, it is that.
    """
    files = open_files(walk)
    uneven = [file for file in files.by_address.values() if 0 < file.count != len(file.users)]
    stacks = _on_stacks(walk, files, [file.address for file in uneven])
    found = []
    for file in uneven:
        tasks = stacks.get(file.address, [])
        missing = file.count - len(file.users)
        if file.users and 0 < missing <= len(tasks):
            continue
        found.append(_audit(walk, files, file, tasks))
    return Census("file", len(files.by_address), tuple(found))


def _audit(walk: Walk, files: OpenFiles, file: OpenFile, tasks: list[str]) -> ObjectAudit:
    verdict = "unaccounted"
    if not file.users:
        verdict = "leaked"
    elif file.count < len(file.users):
        verdict = "missing"
    note = f"operations {walk.name(file.operations)}"
    if tasks:
        note += f"; its address is on the stack of {', '.join(tasks[:3])}"
    holders = tuple(Holder("", "file user", file.address, "struct file", user) for user in file.users)
    name = files.path(file) or "no name"
    return ObjectAudit("file", file.address, name, file.count, verdict, note, holders)


def _on_stacks(walk: Walk, files: OpenFiles, wanted: Iterable[int]) -> dict[int, list[str]]:
    """Return, for each address, the tasks that have it on their kernel stack."""
    values = np.array(sorted(wanted), dtype=np.uint64)
    found: dict[int, list[str]] = defaultdict(list)
    if not len(values):
        return found
    size = _stack_size(walk)
    for task, name in files.threads:
        with walk.guard(f"the stack of {name}"):
            words = _stack(walk, task, size)
            for value in np.unique(words[np.isin(words, values)]).tolist():
                found[value].append(name)
            for value in _polled(walk, words, values):
                found[value].append(name)
    return found


def _stack(walk: Walk, task: int, size: int) -> np.ndarray:
    """Return the words of a task's kernel stack: of one that sleeps, those in use."""
    stack, running = walk.layout("struct task_struct", "stack", "on_cpu").read(task)
    start = stack
    try:
        top = walk.layout("struct task_struct", "thread.sp").read(task)[0]
        start = top if not running and stack <= top < stack + size else stack
    except LookupError:
        # Of other architectures than x86 all of it is searched.
        pass
    data = walk.program.read(start, (stack + size - start) // 8 * 8)
    return np.frombuffer(data, dtype=np.uint64)


def _polled(walk: Walk, words: np.ndarray, values: np.ndarray) -> list[int]:
    """Return the files that are in the pages of a poll(2) or select(2) of many descriptors.

    ``struct poll_wqueues`` on the stack leads to the first ``struct poll_table_page``, that to the next.
    """
    found: set[int] = set()
    pages = words[((words & np.uint64(PAGE - 1)) == 0) & (words >= np.uint64(KERNEL_HALF))]
    for first in np.unique(pages).tolist():
        page = first
        for _ in range(MOST_PAGES):
            try:
                data = np.frombuffer(walk.program.read(page, PAGE), dtype=np.uint64)
            except drgn.FaultError:
                break
            # The second word points at the entry that is free next, within the page or at its end.
            if not page < int(data[1]) <= page + PAGE:
                break
            found.update(data[np.isin(data, values)].tolist())
            page = int(data[0])
            if page < KERNEL_HALF:
                break
    return sorted(found)


def _stack_size(walk: Walk) -> int:
    try:
        size = int(drgn.sizeof(walk.program["init_stack"].type_))
    except LookupError:
        size = 1 << 14
    return min(size, MOST_STACK)
