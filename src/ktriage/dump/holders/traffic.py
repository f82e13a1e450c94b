"""Traffic control: queueing disciplines, classifiers and actions, each with a reference to its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
import numpy as np
from drgn.helpers.linux.idr import idr_for_each

from ktriage.dump.holders.lists import hlist_for_each_entry, list_for_each_entry
from ktriage.dump.holders.netdevs import net_generic, netdevs
from ktriage.dump.holders.socks import for_each_net
from ktriage.dump.holders.walk import Holder, Walk, kmalloc_caches, text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_QUEUES = 1 << 12
TCQ_F_BUILTIN = 1
"""include/net/sch_generic.h."""


def disciplines(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each queueing discipline (``qdisc_create()``, ``qdisc_create_dflt()``)."""
    for device in netdevs(walk):
        with walk.guard(f"the queueing disciplines of net device {device.value_():#x}"):
            for qdisc in all_qdiscs(walk, device):
                owner = walk.owner(qdisc.ops.owner)
                if owner:
                    path = f"{text(device.name)} → qdisc {text(qdisc.ops.id)}"
                    yield Holder(owner, "qdisc", qdisc.value_(), "struct Qdisc", path)
    default = walk.variable("default_qdisc_ops")
    if default is not None:
        with walk.guard("the default queueing discipline"):
            owner = walk.owner(default.owner)
            if owner:
                what = "the default queueing discipline"
                yield Holder(owner, "qdisc", default.address_, "struct Qdisc_ops *", what)


def all_qdiscs(walk: Walk, device: drgn.Object) -> Iterator[drgn.Object]:
    """Yield the queueing disciplines of a device, each once; those that all devices share are left out."""
    seen: set[int] = set()
    for qdisc in _qdiscs(walk, device):
        if qdisc and qdisc.value_() not in seen and not int(qdisc.flags) & TCQ_F_BUILTIN:
            seen.add(qdisc.value_())
            yield qdisc


def _qdiscs(walk: Walk, device: drgn.Object) -> Iterator[drgn.Object]:
    yield device.qdisc
    # Without CONFIG_NET_SCHED there is none.
    for bucket in device.qdisc_hash if hasattr(device, "qdisc_hash") else ():
        found = hlist_for_each_entry("struct Qdisc", bucket.address_of_(), "hash")
        yield from walk.each("a device's qdiscs", found)
    for number in range(min(int(device.num_tx_queues), MOST_QUEUES)):
        yield device.member_("_tx")[number].qdisc_sleeping
    ingress = device.ingress_queue
    if ingress:
        yield ingress.qdisc_sleeping


def classifiers(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each classifier (``tcf_proto_create()``).

    Which chains there are each discipline knows for itself, so classifiers are looked for among the objects
    of kmalloc's caches: known by operations that are registered and a function that is of those.
    """
    head = walk.variable("tcf_proto_base")
    if head is None:
        return
    known: dict[int, tuple[int, str, str]] = {}
    for kind in walk.each(
        "the classifiers", list_for_each_entry("struct tcf_proto_ops", head.address_of_(), "head")
    ):
        owner = walk.owner(kind.owner)
        if owner:
            known[kind.value_()] = (int(kind.classify), owner, text(kind.kind))
    if not known:
        return
    layout = walk.layout("struct tcf_proto", "ops", "classify")
    wanted = np.array(list(known), dtype=np.uint64)
    for cache in kmalloc_caches(walk, layout.size, 4 * layout.size):
        for slab in walk.slabs.slabs(cache):
            for offset in slab.where(layout.offset(), wanted):
                operations, classify = layout.of(slab.data, offset)
                expected, owner, kind = known[operations]
                if classify == expected:
                    address = slab.address + offset
                    yield Holder(owner, "classifier", address, "struct tcf_proto", f"classifier {kind}")


def actions(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each action (``tcf_idr_create()``)."""
    for kind, index, action in each_action(walk):
        owner = walk.owner(action.ops.owner)
        if owner:
            path = f"action {kind} index {index}"
            yield Holder(owner, "action", action.value_(), "struct tc_action", path)


def each_action(walk: Walk) -> Iterator[tuple[str, int, drgn.Object]]:
    """Yield kind, index and ``struct tc_action *`` of each action in each network namespace.

    Where they are is in the operations since Linux 6.1 (commit acd0a7ab6334), in each module before.
    """
    head = walk.variable("act_base")
    if head is None:
        return
    kinds = list_for_each_entry("struct tc_action_ops", head.address_of_(), "head")
    for kind in walk.each("the actions", kinds):
        for net in for_each_net(walk):
            with walk.guard(f"the actions of {text(kind.kind)}"):
                pointer = net_generic(net, int(kind.net_id))
                if not pointer:
                    continue
                table = drgn.cast("struct tc_action_net *", pointer).idrinfo
                for index, entry in idr_for_each(table.action_idr.address_of_()):
                    yield text(kind.kind), index, drgn.cast("struct tc_action *", entry)
