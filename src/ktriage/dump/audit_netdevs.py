"""Network devices by their count against who was found to have them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import drgn
import numpy as np
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu_ptr

from ktriage.dump.audit_objects import Census, ObjectAudit
from ktriage.dump.audit_trackers import Trackers, untracked
from ktriage.dump.holders.layout import member_offset
from ktriage.dump.holders.netdevs import netdevs
from ktriage.dump.holders.netrefs import EVERYWHERE, KEEPERS, OF_DEVICES, device_state
from ktriage.dump.holders.socks import for_each_net
from ktriage.dump.holders.walk import KERNEL_HALF, Holder, Walk, kmalloc_caches, text

if TYPE_CHECKING:
    from collections.abc import Iterator


def audit_netdevs(walk: Walk) -> Census:
    """Return the devices whose count is not that of their holders, or that are past being registered.

    A device that is registered and has more references than were found may be in use by what is not
    looked for; one whose removal has begun and that is still held is what "unregister_netdevice: waiting
    for ... to become free" is about.
    """
    listed = {device.value_(): device for device in netdevs(walk)}
    # One that the kernel has for itself, and never registers (since Linux 5.3, commit 4de83b88c66a).
    blackhole = walk.variable("blackhole_netdev")
    own = blackhole.value_() if blackhole is not None else 0
    strays = {device.value_(): device for device in _strays(walk) if device.value_() not in {*listed, own}}
    devices = [*listed.values(), *strays.values()]
    holders: dict[int, list[Holder]] = defaultdict(list)
    for of_devices in OF_DEVICES:
        for address, holder in walk.each(of_devices.__name__, of_devices(walk, devices)):
            holders[address].append(holder)
    for everywhere in EVERYWHERE:
        for address, holder in walk.each(everywhere.__name__.replace("_", " "), everywhere(walk)):
            holders[address].append(holder)
    trackers = Trackers(walk, devices)
    found = []
    for device in devices:
        with walk.guard(f"net device {device.value_():#x}"):
            audit = _audit(walk, device, tuple(holders[device.value_()]), trackers)
            if audit is not None:
                found.append(audit)
    return Census("net_device", len(devices), tuple(found))


def references(device: drgn.Object) -> int:
    """Return a device's count: summed over the CPUs with CONFIG_PCPU_DEV_REFCNT, else a refcount_t."""
    if hasattr(device, "pcpu_refcnt"):
        program = device.prog_
        # The counters wrap around one by one; their sum is that of an int.
        total = sum(int(per_cpu_ptr(device.pcpu_refcnt, cpu)[0]) for cpu in for_each_possible_cpu(program))
        return (total + (1 << 31)) % (1 << 32) - (1 << 31)
    return int(device.dev_refcnt.refs.counter)


def _audit(
    walk: Walk, device: drgn.Object, holders: tuple[Holder, ...], trackers: Trackers
) -> ObjectAudit | None:
    state = device_state(device).removeprefix("NETREG_").lower()
    if state == "dummy":
        return None
    count = references(device)
    accounted = sum(holder.count for holder in holders)
    past = state in ("unregistering", "unregistered", "released")
    if count == accounted and not past and state != "uninitialized":
        return None
    notes = [state]
    if count > accounted:
        lacking = [name for name in KEEPERS if name in walk.lacks]
        verdict = "leaked" if past else "uncountable" if lacking else "unaccounted"
        if lacking:
            notes.append(f"without debug information of {', '.join(lacking)} not all can be found")
    elif count < accounted:
        verdict = "missing"
    else:
        verdict = "leaked" if state == "uninitialized" else "busy"
    if state == "uninitialized":
        notes.append("allocated and in no list: not registered yet, or never freed")
    return ObjectAudit(
        "net_device",
        device.value_(),
        text(device.name),
        count,
        verdict,
        "; ".join([*notes, *untracked(device)]),
        holders,
        tracked=trackers.unfound(device, holders),
    )


def _strays(walk: Walk) -> Iterator[drgn.Object]:
    """Yield devices that are allocated, listed or not: objects of kmalloc's that look like one.

    ``nd_net`` is a network namespace, and its first queue points back. Those larger than kmalloc's caches
    (8 KiB) are found only where they are listed.
    """
    kind = walk.program.type("struct net_device")
    at = member_offset(kind, "nd_net.net")
    queues = member_offset(kind, "_tx")
    back = member_offset(walk.program.type("struct netdev_queue"), "dev")
    nets = np.array([net.value_() for net in for_each_net(walk)], dtype=np.uint64)
    for cache in kmalloc_caches(walk, drgn.sizeof(kind)):
        for slab in walk.slabs.slabs(cache):
            for offset in slab.where(at, nets):
                address = slab.address + offset
                queue = int.from_bytes(slab.data[offset + queues : offset + queues + 8], "little")
                try:
                    if queue >= KERNEL_HALF and walk.program.read_u64(queue + back) == address:
                        yield walk.object("struct net_device", address)
                except drgn.FaultError:
                    continue
