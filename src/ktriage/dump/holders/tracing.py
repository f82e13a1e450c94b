"""Events of tracing that are in use: perf's, and triggers that switch events; and perf's own counters.

An event that is only enabled in tracefs has no reference: it goes when its module goes
(``trace_module_remove_events()``), and so do kprobes on a module's functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.walk import KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE_EVENT_FL_DYNAMIC = "TRACE_EVENT_FL_DYNAMIC"
MOST_INHERITED = 1 << 16
SWITCHES = ("enable_event", "disable_event", "enable_hist", "disable_hist")
"""Commands of triggers that act on another event (kernel/trace/trace.h)."""


def perf_events(walk: Walk) -> Iterator[Holder]:
    """Yield the references of perf's events, those that tasks inherited included.

    Each has one to its PMU (``perf_try_init_event()``) and, on a tracepoint, one to the module of that
    (``perf_trace_init()``).
    """
    operations = walk.variable("perf_fops")
    if operations is None:
        return
    files = open_files(walk)
    for file in files.by_address.values():
        if file.operations != operations.address_ or file.private < KERNEL_HALF:
            continue
        with walk.guard(f"the perf event of file {file.address:#x}"):
            event = walk.object("struct perf_event", file.private)
            yield from _perf(walk, event, files.holder(file))
            children = list_for_each_entry("struct perf_event", event.child_list.address_of_(), "child_list")
            for number, child in enumerate(walk.each("inherited perf events", children)):
                if number < MOST_INHERITED:
                    yield from _perf(walk, child, f"{files.holder(file)} → inherited")


def _perf(walk: Walk, event: drgn.Object, path: str) -> Iterator[Holder]:
    owner = walk.owner(event.pmu.module) if event.pmu else None
    if owner:
        yield Holder(owner, "perf event", event.value_(), "struct perf_event", f"{path} → pmu")
    call = event.tp_event
    owner = _owner_of_call(walk, call) if call else None
    if owner:
        yield Holder(
            owner, "tracepoint", event.value_(), "struct perf_event", f"{path} → {walk.name(int(call))}"
        )


def _owner_of_call(walk: Walk, call: drgn.Object) -> str | None:
    """Return the module of a ``struct trace_event_call *``: since Linux 5.15 (commit 1d18538e6a09) the
    member is shared with the count of dynamic events.
    """  # noqa: D205 (a commit does not fit a line)
    try:
        if int(call.flags) & int(walk.program[TRACE_EVENT_FL_DYNAMIC]):
            return None
        return walk.owner(call.module)
    except (KeyError, AttributeError):
        return walk.owner(call.mod)


def triggers(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each trigger that switches another event (``event_enable_trigger_parse()``)."""
    head = walk.variable("ftrace_trace_arrays")
    if head is None:
        return
    layout = walk.layout("struct trace_event_file", "triggers.next", "list.next")
    at = drgn.offsetof(walk.program.type("struct trace_event_file"), "triggers")
    for array in walk.each(
        "the trace arrays", list_for_each_entry("struct trace_array", head.address_of_(), "list")
    ):
        events = list_for_each_entry("struct trace_event_file", array.events.address_of_(), "list")
        for file in walk.each("the events of a trace array", events):
            with walk.guard(f"event {file.value_():#x}"):
                if layout.read(file.value_())[0] != file.value_() + at:
                    yield from _switches(walk, file)


def _switches(walk: Walk, file: drgn.Object) -> Iterator[Holder]:
    for trigger in list_for_each_entry("struct event_trigger_data", file.triggers.address_of_(), "list"):
        if text(trigger.cmd_ops.name) not in SWITCHES:
            continue
        data = drgn.cast("struct enable_trigger_data *", trigger.private_data)
        owner = _owner_of_call(walk, data.file.event_call)
        if owner:
            path = f"trigger of {walk.name(int(file.event_call))} → {walk.name(int(data.file.event_call))}"
            yield Holder(owner, "trigger", trigger.value_(), "struct event_trigger_data", path)
