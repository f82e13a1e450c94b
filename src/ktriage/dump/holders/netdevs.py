"""Network devices, and the few of them that have references to modules.

A device has no reference to its driver's module: whoever unloads the module unregisters the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.net import for_each_netdev

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.socks import for_each_net
from ktriage.dump.holders.walk import Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

IFF_PERSIST = 0x0800
"""include/uapi/linux/if_tun.h."""
NETDEV_ALIGN = 32


def netdevs(walk: Walk) -> list[drgn.Object]:
    """Return the registered devices of all network namespaces, as ``struct net_device *``."""

    def make(_: Walk) -> list[drgn.Object]:
        found: list[drgn.Object] = []
        for net in for_each_net(walk):
            found += walk.each("the network devices", for_each_netdev(net))
        return found

    found: list[drgn.Object] = walk.keep("netdevs", make)
    return found


def private(device: drgn.Object, type_name: str) -> drgn.Object:
    """Return a device's private data (``netdev_priv()``): a member since Linux 6.10 or so, else behind it."""
    try:
        address = int(device.priv.address_of_())
    except AttributeError:
        size = drgn.sizeof(device.type_.type)
        address = device.value_() + (size + NETDEV_ALIGN - 1) // NETDEV_ALIGN * NETDEV_ALIGN
    return drgn.Object(device.prog_, f"{type_name} *", value=address)


def net_generic(net: drgn.Object, number: int) -> drgn.Object | None:
    """Return what a subsystem keeps of a network namespace, as ``void *`` (``net_generic()``)."""
    generic = net.gen
    if not 0 < number < int(generic.s.len):
        return None
    return generic.ptr[number]


def kind_of(device: drgn.Object) -> str:
    """Return the kind of a device as ``ip -d link`` names it; empty for one that has none."""
    return text(device.rtnl_link_ops.kind) if device.rtnl_link_ops else ""


def persistent_tunnels(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each tun or tap device that stays without a file (TUNSETPERSIST)."""
    if not walk.loaded("tun"):
        return
    if not walk.has_type("struct tun_struct", "tun", "which devices are persistent"):
        return
    for device in netdevs(walk):
        with walk.guard(f"net device {device.value_():#x}"):
            if kind_of(device) == "tun" and int(private(device, "struct tun_struct").flags) & IFF_PERSIST:
                path = f"{text(device.name)}, persistent"
                yield Holder("tun", "net device", device.value_(), "struct net_device", path)


def team_modes(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each team device to its mode (``team_mode_get()``)."""
    if not walk.loaded("team") or not walk.has_type("struct team", "team", "the modes of devices"):
        return
    for device in netdevs(walk):
        with walk.guard(f"net device {device.value_():#x}"):
            if kind_of(device) != "team":
                continue
            mode = private(device, "struct team").mode
            owner = walk.owner(mode.owner) if mode else None
            if owner:
                path = f"{text(device.name)} → mode {text(mode.kind)}"
                yield Holder(owner, "team mode", device.value_(), "struct net_device", path)


def phys(walk: Walk) -> Iterator[Holder]:
    """Yield the references of devices with a PHY to its bus and its driver (``phy_attach_direct()``)."""
    for device in netdevs(walk):
        with walk.guard(f"the PHY of net device {device.value_():#x}"):
            phy = device.phydev
            if not phy:
                continue
            bus = walk.owner(phy.mdio.bus.owner)
            parent = device.dev.parent
            own = walk.owner(parent.driver.owner) if parent and parent.driver else None
            driver = walk.owner(phy.mdio.dev.driver.owner) if phy.mdio.dev.driver else None
            for owner, what in ((bus if bus != own else None, "bus"), (driver, "driver")):
                if owner:
                    path = f"{text(device.name)} → phydev → {what}"
                    yield Holder(owner, "PHY", phy.value_(), "struct phy_device", path)


def tunnel_sessions(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each L2TP session that is an Ethernet device (``l2tp_eth_create()``)."""
    if not walk.loaded("l2tp_eth"):
        return
    for device in netdevs(walk):
        with walk.guard(f"net device {device.value_():#x}"):
            if walk.module_at(int(device.netdev_ops)) == "l2tp_eth":
                path = text(device.name)
                yield Holder("l2tp_eth", "net device", device.value_(), "struct net_device", path)


def taps(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each tap on netlink's and AF_VSOCK's packets to its module.

    ``netlink_add_tap()`` and ``vsock_add_tap()`` take it, for the devices that nlmon and vsockmon make.
    """
    number = walk.variable("netlink_tap_net_id")
    heads = []
    for net in for_each_net(walk) if number is not None else ():
        assert number is not None
        pointer = net_generic(net, int(number))
        if pointer:
            heads.append(("netlink_tap", drgn.cast("struct netlink_tap_net *", pointer).netlink_tap_all))
    vsock = walk.variable("vsock_tap_all")
    if walk.has_type("struct vsock_tap", "vsock", "taps") and vsock is not None:
        heads.append(("vsock_tap", vsock))
    for kind, head in heads:
        taps_found = list_for_each_entry(f"struct {kind}", head.address_of_(), "list")
        for tap in walk.each(f"the list of each {kind}", taps_found):
            owner = walk.owner(tap.module)
            if owner:
                path = f"tap of {text(tap.dev.name)}"
                yield Holder(owner, "tap", tap.value_(), f"struct {kind}", path)


def transformations(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each IPsec state to its type's module (``xfrm_get_type()``)."""
    for net in for_each_net(walk):
        if not hasattr(net, "xfrm"):  # without CONFIG_XFRM
            return
        with walk.guard("the IPsec states"):
            for state in list_for_each_entry("struct xfrm_state", net.xfrm.state_all.address_of_(), "km.all"):
                for member in ("type", "type_offload"):
                    kind = state.member_(member)
                    owner = walk.owner(kind.owner) if kind else None
                    if owner:
                        path = f"IPsec state {int(state.id.spi):#x} → {member}"
                        yield Holder(owner, "IPsec", state.value_(), "struct xfrm_state", path)
