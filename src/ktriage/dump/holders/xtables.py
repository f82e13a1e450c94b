"""iptables and the like: a rule's matches and targets have references, and so have tables with rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.layout import member_offset
from ktriage.dump.holders.lists import hlist_for_each_entry, list_for_each_entry
from ktriage.dump.holders.netdevs import net_generic
from ktriage.dump.holders.socks import for_each_net
from ktriage.dump.holders.walk import Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRIES = {
    2: ("struct ipt_entry", "ip_tables"),
    10: ("struct ip6t_entry", "ip6_tables"),
    3: ("struct arpt_entry", "arp_tables"),
}
"""What a rule is, by protocol family (NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_ARP), and who knows the type."""
MOST_TABLE = 1 << 26
MOST_RULES = 1 << 18
LOGGING = {"LOG": 0, "TRACE": 0, "NFLOG": 1}
"""Targets that take a reference to a logger, too (``nf_logger_find_get()``), and ``enum nf_log_type``."""


def tables(walk: Walk) -> Iterator[Holder]:
    """Yield the references of the tables of x_tables.

    ``xt_find_match()`` and ``xt_find_target()`` take one for each use; a table that has more entries than
    it began with has one to its own module (``__do_replace()``).
    """
    if not walk.has_type("struct xt_table", "x_tables", "tables and their rules"):
        hide_loggers(walk, "x_tables")
        return
    for net in for_each_net(walk):
        for family, head in _families(walk, net):
            for table in walk.each("the tables", list_for_each_entry("struct xt_table", head, "list")):
                with walk.guard(f"table at {table.value_():#x}"):
                    yield from _table(walk, family, table)


def _families(walk: Walk, net: drgn.Object) -> Iterator[tuple[int, drgn.Object]]:
    """Yield family and list of tables: in an area of their own since Linux 5.13 (commit 1d610d4d31a8)."""
    number = walk.variable("xt_pernet_id")
    if number is not None:
        pointer = net_generic(net, int(number))
        lists = drgn.cast("struct xt_pernet *", pointer).tables if pointer else []
    else:
        lists = net.xt.tables
    for family in ENTRIES:
        if lists:
            yield family, lists[family].address_of_()


def _table(walk: Walk, family: int, table: drgn.Object) -> Iterator[Holder]:
    name = f"{ENTRIES[family][1]} table {text(table.name)}"
    info = table.private
    owner = walk.owner(table.me)
    if owner and int(info.number) > int(info.initial_entries):
        yield Holder(owner, "table", table.value_(), "struct xt_table", f"{name}, with rules")
    size = int(info.size)
    if not 0 < size <= MOST_TABLE:
        raise ValueError("no sensible size")
    type_name, module = ENTRIES[family]
    if not walk.has_type(type_name, module, "rules"):
        return
    base = int(info.entries.address_of_())
    yield from _rules(walk, family, name, base, walk.program.read(base, size))


def _rules(walk: Walk, family: int, name: str, base: int, data: bytes) -> Iterator[Holder]:
    entry = walk.layout(ENTRIES[family][0], "target_offset", "next_offset")
    match = walk.layout("struct xt_entry_match", "u.kernel.match_size", "u.kernel.match")
    target = walk.layout("struct xt_entry_target", "u.kernel.target")
    first = member_offset(walk.program.type(ENTRIES[family][0]), "elems")
    place = 0
    for number in range(MOST_RULES):
        if place + entry.size > len(data):
            return
        to_target, to_next = entry.of(data, place)
        if to_next < entry.size or to_target < first or place + to_target + target.size > len(data):
            return
        at = place + first
        # Of ARP's rules there are only targets.
        while at + match.size <= place + to_target:
            size, pointer = match.of(data, at)
            yield from _part(walk, f"{name} → rule {number} → match", "struct xt_match", pointer, base + at)
            if size < match.size:
                break
            at += size
        at = place + to_target
        pointer = target.of(data, at)[0]
        yield from _part(walk, f"{name} → rule {number} → target", "struct xt_target", pointer, base + at)
        yield from _logger(walk, family, f"{name} → rule {number}", pointer, base + at)
        place += to_next


def _part(walk: Walk, path: str, type_name: str, pointer: int, address: int) -> Iterator[Holder]:
    if not pointer:
        return
    part = walk.object(type_name, pointer)
    owner = walk.owner(part.me)
    if owner:
        kind = "match" if type_name.endswith("match") else "target"
        yield Holder(owner, kind, address, f"struct xt_entry_{kind}", f"{path} {text(part.name)}")


def _logger(walk: Walk, family: int, path: str, pointer: int, address: int) -> Iterator[Holder]:
    name = text(walk.object("struct xt_target", pointer).name) if pointer else ""
    if name in LOGGING:
        yield from logger(walk, family, LOGGING[name], f"{path} → target {name}", address)


def logger(walk: Walk, family: int, kind: int, path: str, address: int) -> Iterator[Holder]:
    """Yield the reference to a family's logger; NFPROTO_INET (1) has one to each of IPv4's and IPv6's."""
    loggers = walk.variable("loggers", "nf_log.c")
    if loggers is None:
        return
    for one in (2, 10) if family == 1 else (family,):
        found = loggers[one][kind]
        owner = walk.owner(found.me) if found else None
        if owner:
            yield Holder(
                owner, "logger", address, "struct nf_logger *", f"{path} → logger {text(found.name)}"
            )


def hide_loggers(walk: Walk, module: str) -> None:
    """Say that rules which can't be read may have loggers."""
    if walk.loaded(module):
        for name in ("nf_log_syslog", "nfnetlink_log"):
            walk.lack(name, f"rules that log: {module}'s debug information is needed (--modules)")


def sets(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each IP set to its type (``find_set_type_get()``)."""
    if not walk.loaded("ip_set") or not walk.has_type("struct ip_set_net", "ip_set", "sets"):
        return
    number = walk.variable("ip_set_net_id")
    for net in for_each_net(walk) if number is not None else ():
        with walk.guard("the IP sets"):
            assert number is not None
            pointer = net_generic(net, int(number))
            if not pointer:
                continue
            area = drgn.cast("struct ip_set_net *", pointer)
            for place in range(int(area.ip_set_max)):
                one = area.ip_set_list[place]
                owner = walk.owner(one.type.me) if one else None
                if owner:
                    yield Holder(owner, "IP set", one.value_(), "struct ip_set", f"set {text(one.name)}")


def instances(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each bound queue and log group of nfnetlink to its own module."""
    for module, number_name, area_type, one_type in (
        ("nfnetlink_queue", "nfnl_queue_net_id", "struct nfnl_queue_net", "struct nfqnl_instance"),
        ("nfnetlink_log", "nfnl_log_net_id", "struct nfnl_log_net", "struct nfulnl_instance"),
    ):
        if not walk.loaded(module) or not walk.has_type(area_type, module, "bound groups"):
            continue
        number = walk.variable(number_name)
        for net in for_each_net(walk) if number is not None else ():
            with walk.guard(f"the instances of {module}"):
                assert number is not None
                pointer = net_generic(net, int(number))
                table = drgn.cast(f"{area_type} *", pointer).instance_table if pointer else []
                for bucket in table:
                    for one in hlist_for_each_entry(one_type, bucket.address_of_(), "hlist"):
                        path = f"{module} group {_group(one)}"
                        yield Holder(module, "nfnetlink instance", one.value_(), one_type, path)


def _group(instance: drgn.Object) -> int:
    try:
        return int(instance.queue_num)
    except AttributeError:
        return int(instance.group_num)
