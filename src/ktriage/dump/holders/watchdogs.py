"""Watchdogs: one that is open or running has a reference to its driver; the software one has a timer's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.device import class_for_each_device

from ktriage.dump.holders.walk import Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

WDOG_DEV_OPEN = 1 << 0
"""_WDOG_DEV_OPEN in drivers/watchdog/watchdog_dev.c."""
WDOG_HW_RUNNING = 1 << 3
"""include/linux/watchdog.h."""
HRTIMER_STATE_ENQUEUED = 1


def watchdogs(walk: Walk) -> Iterator[Holder]:
    """Yield the reference to a watchdog's driver: ``watchdog_open()``, ``watchdog_cdev_register()``."""
    if not walk.has_type("struct watchdog_core_data", "watchdog", "which watchdogs are open or run"):
        return
    kind = walk.variable("watchdog_class")
    if kind is None:
        return
    for device in walk.each("the watchdogs", class_for_each_device(kind.address_of_())):
        with walk.guard(f"watchdog {device.value_():#x}"):
            data = drgn.container_of(device, "struct watchdog_core_data", "dev")
            dog = data.wdd
            is_open = bool(int(data.status) & WDOG_DEV_OPEN)
            runs = bool(dog) and bool(int(dog.status) & WDOG_HW_RUNNING)
            owner = walk.owner(dog.ops.owner) if dog and (is_open or runs) else None
            if owner:
                path = (
                    f"watchdog{int(dog.id)} ({text(dog.info.identity)}), {'open' if is_open else 'running'}"
                )
                yield Holder(owner, "watchdog", data.value_(), "struct watchdog_core_data", path)


def software_watchdog(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that softdog takes to itself while its timer runs (``softdog_ping()``)."""
    if not walk.loaded("softdog"):
        return
    timer = walk.variable("softdog_ticktock")
    if timer is None:
        walk.lack("softdog", "whether its timer runs: its debug information is needed (--modules)")
        return
    with walk.guard("softdog's timer"):
        if int(timer.state) & HRTIMER_STATE_ENQUEUED:
            yield Holder("softdog", "timer", timer.address_, "struct hrtimer", "softdog_ticktock, running")
