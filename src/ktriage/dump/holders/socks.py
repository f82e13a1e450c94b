"""Every ``struct sock`` and ``struct socket``, with or without a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import drgn
import numpy as np

from ktriage.dump.holders.layout import member_offset
from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.walk import BROKEN, KERNEL_HALF, Walk, kmalloc_caches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ktriage.dump.holders.slabs import Slab

SOCK_DEAD = 1 << 0
"""``enum sock_flags`` in include/net/sock.h."""
TCP_CLOSE, TCP_LISTEN = 7, 10
FAMILIES = {
    1: "unix", 2: "inet", 10: "inet6", 15: "key", 16: "netlink", 17: "packet", 21: "rds", 23: "irda",
    24: "pppox", 29: "can", 30: "tipc", 31: "bluetooth", 33: "rxrpc", 35: "phonet", 36: "ieee802154",
    37: "caif", 38: "alg", 39: "nfc", 40: "vsock", 41: "kcm", 42: "qipcrtr", 43: "smc", 44: "xdp",
}  # fmt: skip
"""Names of address families (include/linux/socket.h), for people."""


@dataclass(frozen=True, slots=True)
class Sock:
    """One ``struct sock``: its protocol, and its ``struct socket`` (0 where it has none)."""

    address: int
    protocol: int
    """``sk_prot``: what it is now; a ULP may have put its own there."""
    creator: int
    """``sk_prot_creator``: what it was allocated as."""
    socket: int
    family: int
    state: int
    flags: int

    @property
    def destroyed(self) -> bool:
        """Whether ``inet_csk_destroy_sock()`` has been through: only memory is left of it."""
        return self.state == TCP_CLOSE and bool(self.flags & SOCK_DEAD)


@dataclass(frozen=True, slots=True)
class Socket:
    """One ``struct socket``: its operations, its sock (0 while it is made), its file (0: the kernel's)."""

    address: int
    operations: int
    sock: int
    file: int


@dataclass(slots=True)
class Socks:
    """All sockets, found when first asked for."""

    walk: Walk
    socks: dict[int, Sock] = field(default_factory=dict)
    sockets: dict[int, Socket] = field(default_factory=dict)

    def path(self, sock: Sock) -> str:
        """Return the way to a sock: ``task 7 (nc) → fd 3 → file 0x... → inet sock 0x...``."""
        family = FAMILIES.get(sock.family, f"family {sock.family}")
        name = f"{family} sock {sock.address:#x}"
        socket = self.sockets.get(sock.socket)
        if socket is not None and socket.sock == sock.address:
            return f"{self.socket_path(socket)} → {name}"
        if sock.flags & SOCK_DEAD:
            return f"{name} (orphaned, state {sock.state})"
        return f"{name} (without a socket, state {sock.state})"

    def socket_path(self, socket: Socket) -> str:
        """Return the way to a socket, from its file on where it has one."""
        name = f"socket {socket.address:#x}"
        if not socket.file:
            return f"the kernel's own {name}"
        files = open_files(self.walk)
        file = files.by_address.get(socket.file)
        if file is None:
            return f"file {socket.file:#x} (not found) → {name}"
        user = file.users[0] if file.users else "nobody"
        return f"{user} → file {file.address:#x} → {name}"

    def of_protocol(self, *variables: str) -> Iterator[Sock]:
        """Yield the socks that were made as one of the protocols in ``variables`` (``tcp_prot``, ...)."""
        found = (self.walk.variable(name) for name in variables)
        protocols = {one.address_ for one in found if one is not None}
        for sock in self.socks.values():
            if sock.creator in protocols:
                yield sock


def all_socks(walk: Walk) -> Socks:
    """Return all sockets; read once."""
    found: Socks = walk.keep("socks", _read)
    return found


def for_each_net(walk: Walk) -> list[drgn.Object]:
    """Return the network namespaces, as ``struct net *``."""

    def make(_: Walk) -> list[drgn.Object]:
        head = walk.variable("net_namespace_list")
        if head is None:
            return []
        nets = list_for_each_entry("struct net", head.address_of_(), "list")
        return list(walk.each("the network namespaces", nets))

    found: list[drgn.Object] = walk.keep("nets", make)
    return found


_SOCK = (
    "__sk_common.skc_prot", "sk_prot_creator", "sk_socket", "__sk_common.skc_family", "__sk_common.skc_state",
    "__sk_common.skc_flags",
)  # fmt: skip


def _read(walk: Walk) -> Socks:
    found = Socks(walk)
    try:
        _read_sockets(walk, found)
        for source in (_in_own_caches(walk), _in_general_caches(walk), _behind_sockets(walk, found)):
            for sock in walk.each("the sockets", source):
                found.socks.setdefault(sock.address, sock)
    except LookupError as error:
        walk.note("the sockets", error)
    return found


def _read_sockets(walk: Walk, found: Socks) -> None:
    cache = walk.variable("sock_inode_cachep")
    if cache is None:
        return
    layout = walk.layout("struct socket_alloc", "socket.ops", "socket.sk", "socket.file")
    at = member_offset(walk.program.type("struct socket_alloc"), "socket")
    for address, (operations, sock, file) in walk.slabs.objects(cache, layout):
        if operations >= KERNEL_HALF:
            found.sockets[address + at] = Socket(address + at, operations, sock, file)


def _in_own_caches(walk: Walk) -> Iterator[Sock]:
    """Yield the socks of protocols that have a slab cache of their own."""
    layout = walk.layout("struct sock", *_SOCK)
    for protocol in _protocols(walk):
        if protocol.slab:
            for address, values in walk.slabs.objects(protocol.slab, layout):
                # The cache may be shared with others that fit, and freed objects keep what they were.
                if values[1] == protocol.value_():
                    yield Sock(address, *values)


def _protocols(walk: Walk) -> list[drgn.Object]:
    def make(_: Walk) -> list[drgn.Object]:
        head = walk.variable("proto_list")
        if head is None:
            return []
        return list(
            walk.each("the protocols", list_for_each_entry("struct proto", head.address_of_(), "node"))
        )

    found: list[drgn.Object] = walk.keep("protocols", make)
    return found


def _in_general_caches(walk: Walk) -> Iterator[Sock]:
    """Yield the socks of protocols that have no cache: they are in kmalloc's.

    Known by ``sk_prot`` and ``sk_prot_creator``, both the address of a protocol; some protocols (tun's) are
    in no list, so an address within a module counts, too, if the protocol there names that module.
    """
    layout = walk.layout("struct sock", *_SOCK)
    known = {int(protocol) for protocol in _protocols(walk)}
    for cache in kmalloc_caches(walk, layout.size):
        for slab in walk.slabs.slabs(cache):
            for offset in _candidates(slab, layout.offset(1)):
                values = layout.of(slab.data, offset)
                if values[1] in known or _is_protocol(walk, values[1]):
                    yield Sock(slab.address + offset, *values)


def _candidates(slab: Slab, creator_at: int) -> Iterator[int]:
    """Yield the offsets of allocated objects that have an address of the kernel's image or a module there."""
    words = np.frombuffer(slab.data, dtype=np.uint64)
    places = np.array(slab.allocated, dtype=np.int64)
    if not len(places):
        return
    values = words[(places + creator_at) // 8]
    # The last 2 GiB of the address space: kernel image and modules on x86; elsewhere it rules little out.
    for number in np.flatnonzero(values >= np.uint64(KERNEL_HALF)).tolist():
        yield int(places[number])


def _is_protocol(walk: Walk, address: int) -> bool:
    module = walk.module_at(address)
    if module is None:
        return False
    try:
        return walk.owner(walk.layout("struct proto", "owner").read(address)[0]) == module
    except drgn.FaultError:
        return False


def _behind_sockets(walk: Walk, found: Socks) -> Iterator[Sock]:
    layout = walk.layout("struct sock", *_SOCK)
    for socket in found.sockets.values():
        if socket.sock and socket.sock not in found.socks:
            try:
                yield Sock(socket.sock, *layout.read(socket.sock))
            except BROKEN as error:
                walk.note(f"sock at {socket.sock:#x}", error)
