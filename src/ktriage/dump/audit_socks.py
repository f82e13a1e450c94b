"""Sockets without a file: which of them are on their way, and which nothing leads to any more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import drgn

from ktriage.dump.audit_objects import Census, ObjectAudit
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.socks import SOCK_DEAD, TCP_CLOSE, TCP_LISTEN, Sock, Socks, all_socks
from ktriage.dump.holders.walk import KERNEL_HALF, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

TCP = ("tcp_prot", "tcpv6_prot")
EMBEDDED = ("tun_proto", "tap_proto")
"""Protocols whose sock is part of a file's own structure."""
SANE_COUNT = 1 << 24
MOST_QUEUED = 1 << 16
MOST_TOLD = 256


def audit_socks(walk: Walk) -> Census:
    """Return the socks that have no socket and that nothing was found to lead to.

    Without a socket are: those that wait to be accepted, those that TCP still closes (orphans, with a timer),
    and some of the kernel's own. What was closed and destroyed and is still referenced is leaked, and so is
    a socket of a file that is gone.
    """
    found = all_socks(walk)
    waiting = _waiting(walk, found)
    embedded = {one.address_ for one in map(walk.variable, EMBEDDED) if one is not None}
    tcp = {one.address_ for one in map(walk.variable, TCP) if one is not None}
    kinds: Counter[str] = Counter()
    audits: list[ObjectAudit] = []
    for sock in found.socks.values():
        with walk.guard(f"sock {sock.address:#x}"):
            kind, note = _kind(walk, found, sock, waiting, embedded, tcp)
            kinds[kind] += 1
            if kind == "leaked" and len(audits) < MOST_TOLD:
                audits.append(_audit(walk, found, sock, note))
    notes = tuple(f"{count} {kind}" for kind, count in sorted(kinds.items()) if kind != "leaked")
    return Census("sock", len(found.socks), tuple(audits), notes)


def _kind(
    walk: Walk, found: Socks, sock: Sock, waiting: set[int], embedded: set[int], tcp: set[int]
) -> tuple[str, str]:
    """Return what a sock is, in a word or two, and why."""
    if sock.creator in embedded:
        return "of a file's own", ""
    socket = found.sockets.get(sock.socket)
    if socket is not None and socket.sock == sock.address:
        if not socket.file:
            return "the kernel's own", ""
        if socket.file in open_files(walk).by_address:
            return "open", ""
        return "leaked", "its socket's file is gone"
    if sock.address in waiting:
        return "waiting to be accepted", ""
    if _references(walk, sock) <= 0:
        return "freed after a grace period", ""
    if not sock.flags & SOCK_DEAD:
        return "without a socket", ""
    if sock.creator in tcp and sock.state != TCP_CLOSE:
        return "being closed", ""
    if _in_flight(walk, sock):
        return "with packets on their way", ""
    return "leaked", "closed, with no packets on their way, and still referenced"


def _references(walk: Walk, sock: Sock) -> int:
    layout = walk.layout("struct sock", "__sk_common.skc_refcnt.refs.counter")
    count = layout.read(sock.address)[0]
    return count if 0 <= count < SANE_COUNT else 0


def _in_flight(walk: Walk, sock: Sock) -> bool:
    """Return whether packets that were sent have the sock: each counts in ``sk_wmem_alloc``, above 1."""
    layout = walk.layout("struct sock", "sk_wmem_alloc.refs.counter")
    return 1 < layout.read(sock.address)[0] < 1 << 30


def _audit(walk: Walk, found: Socks, sock: Sock, note: str) -> ObjectAudit:
    protocol = walk.object("struct proto", sock.creator)
    name = f"{bytes(protocol.name.string_()).decode(errors='replace')}, {found.path(sock)}"
    return ObjectAudit("sock", sock.address, name, _references(walk, sock), "leaked", note)


def _waiting(walk: Walk, found: Socks) -> set[int]:
    """Return the socks in listening sockets' queues: TCP's accept queues, and packets of Unix sockets."""
    waiting: set[int] = set()
    for sock in found.of_protocol(*TCP):
        if sock.state == TCP_LISTEN:
            waiting.update(walk.each(f"the queue of sock {sock.address:#x}", _accepted(walk, sock)))
    for sock in found.of_protocol("unix_stream_proto", "unix_dgram_proto", "unix_proto"):
        waiting.update(walk.each(f"the queue of sock {sock.address:#x}", _embryos(walk, sock)))
    return waiting


def _accepted(walk: Walk, sock: Sock) -> Iterator[int]:
    request = walk.object("struct inet_connection_sock", sock.address).icsk_accept_queue.rskq_accept_head
    for _ in range(MOST_QUEUED):
        if not request:
            return
        yield int(request.sk)
        request = request.dl_next


def _embryos(walk: Walk, sock: Sock) -> Iterator[int]:
    if sock.state != TCP_LISTEN:
        return
    of_packet = walk.layout("struct sk_buff", "next", "sk")
    head = sock.address + drgn.offsetof(walk.program.type("struct sock"), "sk_receive_queue")
    place = walk.layout("struct sock", "sk_receive_queue.next").read(sock.address)[0]
    for _ in range(MOST_QUEUED):
        if place == head or place < KERNEL_HALF:
            return
        place, one = of_packet.read(place)
        yield one
