"""Who has references to network devices: what ``netdev_hold()`` and ``dev_hold()`` were called for.

Each source yields the address of a ``struct net_device`` and a holder of it. Linux 6.1's callers in net/ and
drivers/net/ are covered as far as their references last; those that end with the call are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
import numpy as np

from ktriage.dump.holders.lists import (
    hlist_for_each_entry,
    list_for_each_entry,
    neigh_table_for_each_neighbor,
    rbtree_inorder_for_each_entry,
)
from ktriage.dump.holders.netdevs import kind_of, net_generic, netdevs, private
from ktriage.dump.holders.socks import all_socks, for_each_net
from ktriage.dump.holders.traffic import all_qdiscs, each_action
from ktriage.dump.holders.walk import KERNEL_HALF, Holder, Walk, kmalloc_caches, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Found = tuple[int, Holder]

SANE_COUNT = 1 << 24
KEEPERS = ("8021q", "macvlan", "macsec", "act_mirred", "netconsole", "tipc")
"""Modules whose debug information is needed to find all holders."""
MOST_BUCKETS = 1 << 20
MOST_QUEUES = 1 << 12
NEIGHBOUR_TABLES = ("arp_tbl", "nd_tbl")
RTN_RTINFO = 0x0004
"""Of the nodes of IPv6's tree those with this flag have routes (include/net/ip6_fib.h)."""
SELF_HELD = ("sit", "ip6tnl", "ip6gre", "ip6gretap", "ip6erspan", "vti6", "l2tpeth")
"""Kinds of tunnels that have a reference to themselves from their init to their uninit."""
BELOW = {
    # kind: type of the private data, whose it is, member that points at the device below
    "vlan": ("struct vlan_dev_priv", "8021q", "real_dev"),
    "macvlan": ("struct macvlan_dev", "macvlan", "lowerdev"),
    "macvtap": ("struct macvlan_dev", "macvlan", "lowerdev"),
    "macsec": ("struct macsec_dev", "macsec", "real_dev"),
}


def _found(device: int, kind: str, address: int, type_name: str, path: str) -> Found:
    return device, Holder("", kind, address, type_name, path)


def its_own(walk: Walk, devices: Iterable[drgn.Object]) -> Iterator[Found]:
    """Yield what a device has of itself: allocated, registered, addresses, queues, timers, adjacency."""
    for device in devices:
        address = device.value_()
        with walk.guard(f"net device {address:#x}"):
            for kind, place, type_name, path in _own(device):
                yield _found(address, kind, place, type_name, path)
        with walk.guard(f"the neighbours of net device {address:#x}"):
            for member in ("upper", "lower"):
                head = device.adj_list.member_(member).address_of_()
                for one in list_for_each_entry("struct netdev_adjacent", head, "list"):
                    path = f"{text(device.name)} → {member} {text(one.dev.name)}"
                    yield _found(int(one.dev), "adjacent", one.value_(), "struct netdev_adjacent", path)


def _own(device: drgn.Object) -> Iterator[tuple[str, int, str, str]]:
    address, name = device.value_(), text(device.name)
    # Since Linux 5.13 (commit add2d7363107) a new device has one, from alloc_netdev_mqs() on.
    yield "allocated", address, "struct net_device", name
    if device_state(device) == "NETREG_REGISTERED":
        yield "registered", address, "struct net_device", name
    for member, type_name in (("ip_ptr", "struct in_device"), ("ip6_ptr", "struct inet6_dev")):
        pointer = int(device.member_(member))
        if pointer:
            yield "addresses", pointer, type_name, f"{name} → {member}"
    for array, count in (("_tx", "num_tx_queues"), ("_rx", "num_rx_queues")):
        for number in range(min(int(device.member_(count)), MOST_QUEUES)):
            queue = device.member_(array)[number]
            if queue.kobj.state_in_sysfs:
                yield "queue", int(queue.address_of_()), "queue", f"{name} → {array}[{number}]"
    if device.watchdog_timer.entry.pprev:
        yield "watchdog timer", int(device.watchdog_timer.address_of_()), "struct timer_list", name
    if device.link_watch_list.next != device.link_watch_list.address_of_():
        yield "link watch", address, "struct net_device", f"{name}, its link's event is pending"
    if kind_of(device) in SELF_HELD:
        yield "itself", address, "struct net_device", f"{name} → its tunnel"


def device_state(device: drgn.Object) -> str:
    """Return the name of a device's state: ``NETREG_REGISTERED`` and so on."""
    value = device.reg_state
    return str(value.format_(type_name=False)) if value.type_.kind == drgn.TypeKind.ENUM else _number(value)


def _number(value: drgn.Object) -> str:
    """Return the name of a state that is kept in a byte, since Linux 6.9 (commit 4d42b37def70)."""
    names = ("UNINITIALIZED", "REGISTERED", "UNREGISTERING", "UNREGISTERED", "RELEASED", "DUMMY")
    number = int(value)
    return f"NETREG_{names[number]}" if number < len(names) else str(number)


def qdiscs(walk: Walk, devices: Iterable[drgn.Object]) -> Iterator[Found]:
    """Yield the reference of each queueing discipline to its device (``qdisc_alloc()``)."""
    for device in devices:
        with walk.guard(f"the queueing disciplines of net device {device.value_():#x}"):
            for qdisc in all_qdiscs(walk, device):
                path = f"{text(device.name)} → qdisc {text(qdisc.ops.id)}"
                yield _found(device.value_(), "qdisc", qdisc.value_(), "struct Qdisc", path)


def stacked(walk: Walk, devices: Iterable[drgn.Object]) -> Iterator[Found]:
    """Yield the references of VLANs, macvlans, and bridge ports to the devices below."""
    for device in devices:
        with walk.guard(f"what net device {device.value_():#x} is on"):
            name, kind = text(device.name), kind_of(device)
            type_name, module, member = BELOW.get(kind, ("", "", ""))
            if module and walk.has_type(type_name, module, "devices below"):
                below = int(private(device, type_name).member_(member))
                yield _found(below, kind, device.value_(), "struct net_device", f"{name} → {member}")
            port = _port(walk, device)
            if port:
                yield _found(
                    device.value_(),
                    "bridge port",
                    port,
                    "struct net_bridge_port",
                    f"{name} → rx_handler_data",
                )


def _port(walk: Walk, device: drgn.Object) -> int:
    """Return the ``struct net_bridge_port`` of a device in a bridge, or 0."""
    handler = int(device.rx_handler)
    if handler and walk.module_at(handler) == "bridge":
        return int(device.rx_handler_data)
    return 0


def routes(walk: Walk) -> Iterator[Found]:
    """Yield the references of routes: cached ones of both families by their slab caches (``dst_init()``)."""
    layout = walk.layout("struct dst_entry", "dev")
    for name in ("ipv4_dst_ops", "ip6_dst_ops_template", "xfrm4_dst_ops_template", "xfrm6_dst_ops_template"):
        operations = walk.variable(name)
        if operations is None or not operations.kmem_cachep:
            continue
        for address, (device,) in walk.slabs.objects(operations.kmem_cachep, layout):
            if device >= KERNEL_HALF:
                path = f"cached route ({name.removesuffix('_template')})"
                yield _found(device, "route", address, "struct dst_entry", path)


def next_hops(walk: Walk) -> Iterator[Found]:
    """Yield the references of the routing tables' next hops (``fib_check_nh()``, ``fib6_nh_init()``)."""
    yield from walk.each("IPv4's routes", _ipv4(walk))
    yield from walk.each("IPv6's routes", _ipv6(walk))
    for net in for_each_net(walk):
        objects = rbtree_inorder_for_each_entry(
            "struct nexthop", net.nexthop.rb_root.address_of_(), "rb_node"
        )
        for one in walk.each("next hop objects", objects):
            with walk.guard(f"next hop {one.value_():#x}"):
                if not one.is_group:
                    device = int(one.nh_info.fib_nhc.nhc_dev)
                    if device:
                        path = f"next hop object {int(one.id)}"
                        yield _found(device, "next hop", one.value_(), "struct nexthop", path)


def _ipv4(walk: Walk) -> Iterator[Found]:
    table, size = (
        walk.variable("fib_info_hash", "fib_semantics.c"),
        walk.variable("fib_info_hash_size", "fib_semantics.c"),
    )
    if table is None or size is None:
        return
    for number in range(min(int(size), MOST_BUCKETS)):
        for info in hlist_for_each_entry("struct fib_info", table[number].address_of_(), "fib_hash"):
            for hop in range(0 if info.nh else int(info.fib_nhs)):
                device = int(info.fib_nh[hop].nh_common.nhc_dev)
                if device:
                    path = f"IPv4 route → next hop {hop}"
                    yield _found(device, "next hop", info.value_(), "struct fib_info", path)


def _ipv6(walk: Walk) -> Iterator[Found]:
    cache = walk.variable("fib6_node_kmem")
    if cache is None:
        return
    layout = walk.layout("struct fib6_node", "leaf", "fn_flags")
    seen: set[int] = set()
    for _, (leaf, flags) in walk.slabs.objects(cache, layout):
        place = leaf if flags & RTN_RTINFO else 0
        while place >= KERNEL_HALF and place not in seen:
            seen.add(place)
            info = walk.object("struct fib6_info", place)
            yield from _ipv6_hops(info)
            place = int(info.fib6_next)
    for info in _ipv6_addresses(walk):
        if info.value_() not in seen:
            seen.add(info.value_())
            yield from _ipv6_hops(info)


def _ipv6_addresses(walk: Walk) -> Iterator[drgn.Object]:
    """Yield the routes of addresses: they are in the tree only once duplicates are ruled out."""
    for device in netdevs(walk):
        if not device.ip6_ptr:
            continue
        head = device.ip6_ptr.addr_list.address_of_()
        for address in list_for_each_entry("struct inet6_ifaddr", head, "if_list"):
            if address.rt:
                yield address.rt
        anycast = device.ip6_ptr.ac_list
        for _ in range(MOST_BUCKETS):
            if not anycast:
                break
            if anycast.aca_rt:
                yield anycast.aca_rt
            anycast = anycast.aca_next


def _ipv6_hops(info: drgn.Object) -> Iterator[Found]:
    if info.nh:
        return
    device = int(info.fib6_nh[0].nh_common.nhc_dev)
    if device:
        yield _found(device, "next hop", info.value_(), "struct fib6_info", "IPv6 route → next hop")
    # Further next hops of a route are routes of their own, in a list.


def neighbours(walk: Walk) -> Iterator[Found]:
    """Yield the references of neighbours, of their parameters and of proxies (net/core/neighbour.c)."""
    for name in NEIGHBOUR_TABLES:
        table = walk.variable(name)
        if table is None:
            continue
        with walk.guard(f"the table {name}"):
            for parameters in list_for_each_entry(
                "struct neigh_parms", table.parms_list.address_of_(), "list"
            ):
                if parameters.dev:
                    yield _found(
                        int(parameters.dev),
                        "neighbour parameters",
                        parameters.value_(),
                        "struct neigh_parms",
                        name,
                    )
            listed = set()
            for one in neigh_table_for_each_neighbor(table.nht):
                listed.add(one.value_())
                yield _found(int(one.dev), "neighbour", one.value_(), "struct neighbour", name)
            for address, device in _dead_neighbours(walk, table):
                if address not in listed:
                    path = f"{name}, dead and still used"
                    yield _found(device, "neighbour", address, "struct neighbour", path)
            for number in range(16):
                entry = table.phash_buckets[number]
                for _ in range(MOST_BUCKETS):
                    if not entry:
                        break
                    if entry.dev:
                        yield _found(
                            int(entry.dev), "proxy neighbour", entry.value_(), "struct pneigh_entry", name
                        )
                    entry = entry.next


def _dead_neighbours(walk: Walk, table: drgn.Object) -> Iterator[tuple[int, int]]:
    """Yield address and device of a table's neighbours that have references, in the table or not.

    A dead one is taken out of the table and keeps its device until its last user is gone. They are in
    kmalloc's caches, known by the table that they point to.
    """
    layout = walk.layout("struct neighbour", "tbl", "dev", "refcnt.refs.counter")
    wanted = np.array([table.address_], dtype=np.uint64)
    for cache in kmalloc_caches(walk, layout.size, 4 * layout.size):
        for slab in walk.slabs.slabs(cache):
            for offset in slab.where(layout.offset(), wanted):
                if offset + layout.size <= len(slab.data):
                    _, device, count = layout.of(slab.data, offset)
                    if device >= KERNEL_HALF and 0 < count < SANE_COUNT:
                        yield slab.address + offset, device


def packet_sockets(walk: Walk) -> Iterator[Found]:
    """Yield the reference of each packet socket to the device that it is bound to (``packet_do_bind()``)."""
    found = all_socks(walk)
    for sock in found.of_protocol("packet_proto"):
        with walk.guard(f"packet socket {sock.address:#x}"):
            device = int(walk.object("struct packet_sock", sock.address).prot_hook.dev)
            if device:
                yield _found(device, "packet socket", sock.address, "struct packet_sock", found.path(sock))


def mirrors(walk: Walk) -> Iterator[Found]:
    """Yield the reference of each action that sends packets to another device (``tcf_mirred_init()``)."""
    if not walk.has_type("struct tcf_mirred", "act_mirred", "devices of its actions"):
        return
    for kind, index, action in each_action(walk):
        if kind == "mirred":
            device = int(drgn.cast("struct tcf_mirred *", action).tcfm_dev)
            if device:
                path = f"action {kind} index {index}"
                yield _found(device, "action", action.value_(), "struct tcf_mirred", path)


def consoles(walk: Walk) -> Iterator[Found]:
    """Yield the reference of each netconsole to its device (``netpoll_setup()``)."""
    if not walk.loaded("netconsole"):
        return
    head = walk.variable("target_list", "netconsole.c")
    if not walk.has_type("struct netconsole_target", "netconsole", "its devices") or head is None:
        return
    for target in list_for_each_entry("struct netconsole_target", head.address_of_(), "list"):
        if target.np.dev and target.enabled:
            yield _found(
                int(target.np.dev), "netconsole", target.value_(), "struct netconsole_target", "netconsole"
            )


def taps(walk: Walk) -> Iterator[Found]:
    """Yield the reference of TIPC to the loopback device (``tipc_attach_loopback()``)."""
    if not walk.has_type("struct tipc_net", "tipc", "its reference to the loopback device"):
        return
    number = walk.variable("tipc_net_id")
    if number is None:
        return
    for net in for_each_net(walk):
        pointer = net_generic(net, int(number))
        if pointer:
            area = drgn.cast("struct tipc_net *", pointer)
            if area.loopback_pt.dev:
                yield _found(
                    int(area.loopback_pt.dev), "TIPC", area.value_(), "struct tipc_net", "loopback_pt"
                )


OF_DEVICES: tuple[Callable[[Walk, Iterable[drgn.Object]], Iterator[Found]], ...] = (its_own, qdiscs, stacked)
EVERYWHERE: tuple[Callable[[Walk], Iterator[Found]], ...] = (
    routes,
    next_hops,
    neighbours,
    packet_sockets,
    mirrors,
    consoles,
    taps,
)
