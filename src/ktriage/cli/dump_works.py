"""The reports ``works`` and ``teardown`` of ``ktriage dump show``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ktriage.dump.core import Vmcore
    from ktriage.dump.teardown_types import Teardown
    from ktriage.dump.works import Callback, Works


def show_works(core: Vmcore, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print works and timers, those with which something is wrong first."""
    from ktriage.dump.works import find_works

    works = find_works(core)
    if args.json:
        for item in (*(s.to_json() for s in works.stalled), *(c.to_json() for c in works.callbacks)):
            sys.stdout.write(json.dumps(item) + "\n")
        return
    show(*_wrong(works))
    show("", _table(works))


def _wrong(works: Works) -> Iterator[Text]:
    from ktriage.case.text import clean

    for stalled in works.stalled:
        where = f"CPU {stalled.pool.cpu}" if stalled.pool.cpu >= 0 else f"pool {stalled.pool.id}"
        yield Text(f"workers of {where} make no progress: {clean(stalled.says)}", "bold red")
    for callback in works.wrong:
        name = f"{callback.kind} {clean(str(callback.function))} at {callback.address:#x}, {callback.state}"
        yield Text(name, "red")
        for wrong in callback.wrong:
            yield Text(f"  {clean(wrong)}")
    if not works.stalled and not works.wrong:
        yield Text("nothing wrong with any: none in freed memory or in a module that is gone or going")


def _table(works: Works) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("kind", "state", "function", "module", "in", "cpu", "workqueue", "who", "memory"):
        right = name in ("in", "cpu")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "memory")
    order = ("running", "scheduled", "pending", "inactive", "armed")
    for callback in sorted(works.callbacks, key=lambda c: (order.index(c.state), c.seconds or 0.0)):
        table.add_row(*_row(callback), style="red" if callback.wrong else "")
    return table


def _row(callback: Callback) -> tuple[str, ...]:
    from ktriage.case.text import clean, duration

    seconds = callback.seconds
    when = "" if seconds is None else duration(seconds) if seconds >= 0 else f"late {duration(-seconds)}"
    slab = callback.object
    memory = "" if slab is None else f"{'freed ' if slab.free else ''}{clean(slab.cache)}"
    who = str(callback.task) if callback.task else callback.worker or ""
    return (
        callback.kind,
        callback.state,
        clean(callback.function.name),
        clean(callback.function.module or ""),
        when,
        "" if callback.cpu is None else str(callback.cpu),
        clean(callback.workqueue or ""),
        clean(who),
        memory,
    )


def show_teardown(core: Vmcore, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print the callbacks that outlive a removal: which, of what, who queues them, what helps."""
    from ktriage.dump.diagnosis import panicked
    from ktriage.dump.teardown import find_teardowns

    teardowns = find_teardowns(core, crashed=panicked(core))
    if args.json:
        for teardown in teardowns:
            sys.stdout.write(json.dumps(teardown.to_json()) + "\n")
        return
    if not teardowns:
        show("no work and no timer is left of anything that is being removed or is freed")
    for index, teardown in enumerate(teardowns):
        show(*([""] if index else []), *render_teardown(teardown))


def render_teardown(teardown: Teardown) -> Iterator[Text]:
    """Yield the diagnosis of one callback, line by line."""
    from ktriage.case.text import clean

    yield Text(clean(teardown.says), "bold red" if teardown.certain else "bold yellow")
    for line in teardown.evidence:
        yield Text(f"  {clean(line)}", "dim")
    for cancel in teardown.cancels:
        when = {True: "has returned", False: "not reached yet", None: "whether it ran can't be told"}
        yield Text(
            f"  cancelled by {cancel.callee}() in {clean(cancel.function)}()+{cancel.offset:#x}: "
        ).append(when[cancel.ran], "bold" if cancel.ran else "")
    for way in teardown.paths:
        yield Text(f"  queued by    {clean(str(way))}, at {clean(way.functions[-1])}()+{way.offset:#x}")
        for function, callee in way.stopped_by:
            yield Text(f"               which {callee}() in {clean(function)}() stops")
    for remedy in teardown.remedies:
        yield Text(f"  remedy: {clean(remedy)}", "green")
