"""Sockets: each has a reference for its operations, for its protocol, and for what was added to it.

``__sock_create()`` and ``do_accept()`` take the first, put by ``__sock_release()``; ``sk_prot_alloc()`` takes
the second, put by ``sk_prot_free()`` (net/socket.c, net/core/sock.c, Linux 6.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.socks import TCP_LISTEN, Sock, Socks, all_socks, for_each_net
from ktriage.dump.holders.walk import BROKEN, Holder, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.holders.layout import Layout

TCP = ("tcp_prot", "tcpv6_prot")
SELF_RELEASED = ("tipc", "qrtr")
"""Modules that put both references of a listening socket of their own, so that they can be unloaded."""


def socket_operations(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each ``struct socket`` has to the owner of its ``struct proto_ops``."""
    found = all_socks(walk)
    for socket in found.sockets.values():
        try:
            owner = _owner(walk, "struct proto_ops", socket.operations)
        except drgn.FaultError as error:
            walk.note(f"the operations of socket {socket.address:#x}", error)
            continue
        sock = found.socks.get(socket.sock)
        if owner and not (sock and _gave_up(found, sock, owner)):
            path = f"{found.socket_path(socket)} → ops {walk.name(socket.operations)}"
            yield Holder(owner, "socket", socket.address, "struct socket", path)


def socket_protocols(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that each ``struct sock`` has to the owner of the ``struct proto`` that made it."""
    found = all_socks(walk)
    for sock in found.socks.values():
        try:
            owner = _owner(walk, "struct proto", sock.creator)
        except drgn.FaultError as error:
            walk.note(f"the protocol of sock {sock.address:#x}", error)
            continue
        if owner and not _gave_up(found, sock, owner):
            path = f"{found.path(sock)} → sk_prot_creator {walk.name(sock.creator)}"
            yield Holder(owner, "sock", sock.address, "struct sock", path)


def _owner(walk: Walk, type_name: str, address: int) -> str | None:
    def read(_: Walk) -> str | None:
        return walk.owner(walk.layout(type_name, "owner").read(address)[0])

    owner: str | None = walk.keep(f"{type_name} {address:#x}", read)
    return owner


def _gave_up(found: Socks, sock: Sock, owner: str) -> bool:
    """Return whether this is a socket that its module made for itself and put both references of.

    tipc_topsrv_create_listener() (net/tipc/topsrv.c) does so, and qrtr_ns_init() (net/qrtr/ns.c).
    """
    socket = found.sockets.get(sock.socket)
    if owner not in SELF_RELEASED or socket is None or socket.file:
        return False
    return owner == "qrtr" or sock.state == TCP_LISTEN


def ulps(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that a TCP sock has to its upper layer protocol.

    ``tcp_set_ulp()`` takes it, ``tcp_cleanup_ulp()`` puts it and clears the pointer. A sock that a
    listener with a ULP made by cloning has the pointer and no reference: before Linux 6.2 (commit
    2c02d41d71f9) that is how counts went wrong, so each is counted as one that will be put.
    """
    found = all_socks(walk)
    if not walk.program.type("struct inet_connection_sock").has_member("icsk_ulp_ops"):
        return
    layout = walk.layout("struct inet_connection_sock", "icsk_ulp_ops")
    for sock in found.of_protocol(*TCP):
        yield from _through(walk, found, sock, layout, "ULP", "struct tcp_ulp_ops", "icsk_ulp_ops")


def congestion_controls(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that a TCP sock, and a network namespace's default, has to congestion control.

    ``tcp_cleanup_congestion_control()`` puts it and leaves the pointer: of a sock that was destroyed and
    still has memory it says nothing.
    """
    found = all_socks(walk)
    layout = walk.layout("struct inet_connection_sock", "icsk_ca_ops")
    for sock in found.of_protocol(*TCP):
        if not sock.destroyed:
            yield from _through(
                walk,
                found,
                sock,
                layout,
                "congestion control",
                "struct tcp_congestion_ops",
                "icsk_ca_ops",
            )
    for net in for_each_net(walk):
        try:
            operations = int(net.ipv4.tcp_congestion_control)
            owner = walk.owner(walk.layout("struct tcp_congestion_ops", "owner").read(operations)[0])
        except BROKEN:
            continue
        if owner:
            path = f"net {net.value_():#x} → ipv4.tcp_congestion_control {walk.name(operations)}"
            yield Holder(owner, "congestion control", net.value_(), "struct net", path)


def _through(
    walk: Walk, found: Socks, sock: Sock, layout: Layout, kind: str, type_name: str, member: str
) -> Iterator[Holder]:
    """Yield the reference by a pointer to operations in a connection sock, where there is one."""
    try:
        operations = layout.read(sock.address)[0]
        owner = _owner(walk, type_name, operations) if operations else None
    except drgn.FaultError as error:
        walk.note(f"{member} of sock {sock.address:#x}", error)
        return
    if owner:
        path = f"{found.path(sock)} → {member} {walk.name(operations)}"
        yield Holder(owner, kind, sock.address, "struct sock", path)


def time_waits(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each time-wait sock to its protocol's module (DCCP's; TCP is built in).

    ``inet_twsk_alloc()`` took it until Linux 6.14 or so; the kernel's own protocols have no owner.
    """
    if not walk.program.type("struct inet_timewait_sock").has_member("tw_kill"):
        return
    layout = walk.layout("struct inet_timewait_sock", "__tw_common.skc_prot")
    found = all_socks(walk)
    seen = {sock.creator for sock in found.socks.values()}
    for address in seen:
        try:
            prot = walk.object("struct proto", address)
            cache = prot.twsk_prot.twsk_slab if walk.owner(prot.owner) and prot.twsk_prot else None
            for place, (protocol,) in walk.slabs.objects(cache, layout) if cache else ():
                owner = _owner(walk, "struct proto", protocol)
                if owner:
                    path = f"time-wait sock {place:#x} → tw_prot {walk.name(protocol)}"
                    yield Holder(owner, "sock", place, "struct inet_timewait_sock", path)
        except BROKEN as error:
            walk.note(f"the time-wait socks of {walk.name(address)}", error)


def netlink(walk: Walk) -> Iterator[Holder]:
    """Yield the references of netlink sockets: to the owner of their protocol, and of a dump that runs.

    ``netlink_create()`` and ``__netlink_dump_start()`` take them (net/netlink/af_netlink.c).
    """
    found = all_socks(walk)
    for sock in found.of_protocol("netlink_proto"):
        try:
            nlk = walk.object("struct netlink_sock", sock.address)
            owners = [("module", int(nlk.module))]
            if nlk.cb_running:
                owners.append(("cb.module", int(nlk.cb.module)))
        except BROKEN as error:
            walk.note(f"netlink sock {sock.address:#x}", error)
            continue
        for member, module in owners:
            owner = walk.owner(module)
            if owner:
                path = f"{found.path(sock)} → {member}"
                yield Holder(owner, "netlink", sock.address, "struct netlink_sock", path)


def vsock(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that an AF_VSOCK sock has to its transport (``vsock_assign_transport()``)."""
    yield from _extended(
        walk, "vsock", "struct vsock_sock", "transport", "module", "vsock_proto", "vsock transport"
    )


def algorithms(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that a bound AF_ALG sock has to its type's module (``alg_bind()``).

    A sock that was accepted has the type, too, without a reference: its parent has it.
    """
    if not walk.loaded("af_alg") or not walk.has_type(
        "struct alg_sock", "af_alg", "what AF_ALG sockets are bound to"
    ):
        return
    found = all_socks(walk)
    for sock in found.of_protocol("alg_proto"):
        try:
            ask = walk.object("struct alg_sock", sock.address)
            owner = walk.owner(ask.type.owner) if ask.type and not ask.parent else None
        except BROKEN as error:
            walk.note(f"AF_ALG sock {sock.address:#x}", error)
            continue
        if owner:
            path = f"{found.path(sock)} → type {walk.name(int(ask.type))}"
            yield Holder(owner, "AF_ALG", sock.address, "struct alg_sock", path)


def _extended(
    walk: Walk, module: str, type_name: str, member: str, owner_member: str, protocol: str, kind: str
) -> Iterator[Holder]:
    """Yield the references through ``member->owner_member`` of the socks that a module extends."""
    if not walk.loaded(module) or not walk.has_type(type_name, module, f"each {kind}"):
        return
    found = all_socks(walk)
    for sock in found.of_protocol(protocol):
        try:
            through = walk.object(type_name, sock.address).member_(member)
            owner = walk.owner(through.member_(owner_member)) if through else None
        except BROKEN as error:
            walk.note(f"{type_name} {sock.address:#x}", error)
            continue
        if owner:
            path = f"{found.path(sock)} → {member} {walk.name(int(through))}"
            yield Holder(owner, kind, sock.address, type_name, path)
