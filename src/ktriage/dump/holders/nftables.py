"""nftables: expressions, objects, chains and flow tables have references to the modules of their types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.netdevs import net_generic
from ktriage.dump.holders.socks import for_each_net
from ktriage.dump.holders.walk import Holder, Walk, text
from ktriage.dump.holders.xtables import hide_loggers, logger

if TYPE_CHECKING:
    from collections.abc import Iterator

NFT_BASE_CHAIN = 1
"""NFT_CHAIN_BASE in include/uapi/linux/netfilter/nf_tables.h."""
MOST_EXPRESSIONS = 128
"""Expressions of one rule that are read: NFT_RULE_MAXEXPRS."""
NFT_LOGLEVEL_AUDIT = 8


def rules(walk: Walk) -> Iterator[Holder]:
    """Yield the references of all tables: ``nft_expr_type_get()``, ``nf_tables_chain_type_lookup()``, ..."""
    if not walk.has_type("struct nftables_pernet", "nf_tables", "tables and their rules"):
        hide_loggers(walk, "nf_tables")
        return
    number = walk.variable("nf_tables_net_id")
    for net in for_each_net(walk) if number is not None else ():
        assert number is not None
        with walk.guard("nftables"):
            pointer = net_generic(net, int(number))
            if pointer:
                head = drgn.cast("struct nftables_pernet *", pointer).tables.address_of_()
                for table in list_for_each_entry("struct nft_table", head, "list"):
                    yield from _table(walk, table)


def _table(walk: Walk, table: drgn.Object) -> Iterator[Holder]:
    name = f"nftables table {text(table.name)}"
    family = int(table.family)
    for chain in list_for_each_entry("struct nft_chain", table.chains.address_of_(), "list"):
        yield from _chain(walk, name, family, chain)
    for one in list_for_each_entry("struct nft_set", table.sets.address_of_(), "list"):
        yield from _set(walk, name, one)
    for one in list_for_each_entry("struct nft_object", table.objects.address_of_(), "list"):
        yield from _object(walk, name, one)
    for one in list_for_each_entry("struct nft_flowtable", table.flowtables.address_of_(), "list"):
        owner = walk.owner(one.data.type.owner)
        if owner:
            path = f"{name} → flowtable {text(one.name)}"
            yield Holder(owner, "nft flowtable", one.value_(), "struct nft_flowtable", path)


def _chain(walk: Walk, name: str, family: int, chain: drgn.Object) -> Iterator[Holder]:
    path = f"{name} → chain {text(chain.name)}"
    if int(chain.flags) & NFT_BASE_CHAIN:
        base = drgn.container_of(chain, "struct nft_base_chain", "chain")
        owner = walk.owner(base.type.owner)
        if owner:
            yield Holder(
                owner,
                "nft chain",
                chain.value_(),
                "struct nft_chain",
                f"{path} → type {text(base.type.name)}",
            )
    for rule in list_for_each_entry("struct nft_rule", chain.rules.address_of_(), "list"):
        place = int(rule.data.address_of_())
        end = place + int(rule.dlen)
        for _ in range(MOST_EXPRESSIONS):
            if place >= end:
                break
            expression = walk.object("struct nft_expr", place)
            yield from _expression(walk, f"{path} → rule {int(rule.handle)}", family, expression)
            size = int(expression.ops.size)
            if size <= 0:
                break
            place += size


def _expression(
    walk: Walk, path: str, family: int, expression: drgn.Object, count: int = 1
) -> Iterator[Holder]:
    kind = expression.ops.type
    name = text(kind.name)
    owner = walk.owner(kind.owner)
    address = expression.value_()
    if owner:
        yield Holder(owner, "nft expression", address, "struct nft_expr", f"{path} → {name}", count)
    if name == "log" and walk.has_type("struct nft_log", "nft_log", "loggers of rules"):
        info = drgn.cast("struct nft_log *", expression.data.address_of_()).loginfo
        if int(info.u.log.level) != NFT_LOGLEVEL_AUDIT:
            yield from logger(walk, family, int(info.type), f"{path} → log", address)
    if name == "dynset":
        yield from _dynamic(walk, f"{path} → dynset", expression)
    # nft_compat wraps matches and targets of x_tables, and keeps them in the operations.
    if name in ("match", "target") and expression.ops.data:
        part = drgn.cast(f"struct xt_{name} *", expression.ops.data)
        owner = walk.owner(part.me)
        if owner:
            yield Holder(owner, name, address, "struct nft_expr", f"{path} → {name} {text(part.name)}", count)


def _dynamic(walk: Walk, path: str, expression: drgn.Object) -> Iterator[Holder]:
    """Yield the references of expressions that a rule gives to elements, and of those elements."""
    private = drgn.cast("struct nft_dynset *", expression.data.address_of_())
    for number in range(int(private.num_exprs)):
        inner = private.expr_array[number]
        owner = walk.owner(inner.ops.type.owner)
        if not owner:
            continue
        what = f"{path} → {text(inner.ops.type.name)}"
        yield Holder(owner, "nft expression", inner.value_(), "struct nft_expr", what)
        elements = int(private.set.nelems.counter)
        if elements > 0 and not int(private.set.num_exprs):
            address = private.set.value_()
            yield Holder(owner, "nft expression", address, "struct nft_set", f"{what} of elements", elements)


def _set(walk: Walk, name: str, one: drgn.Object) -> Iterator[Holder]:
    """Yield the references of a set's expressions, its own and the copy that each element has."""
    path = f"{name} → set {text(one.name)}"
    for number in range(int(one.num_exprs)):
        expression = one.exprs[number]
        owner = walk.owner(expression.ops.type.owner)
        if owner:
            what = f"{path} → {text(expression.ops.type.name)}"
            yield Holder(owner, "nft expression", expression.value_(), "struct nft_expr", what)
            elements = int(one.nelems.counter)
            if elements > 0:
                yield Holder(
                    owner,
                    "nft expression",
                    one.value_(),
                    "struct nft_set",
                    f"{what} of its elements",
                    elements,
                )


def _object(walk: Walk, name: str, one: drgn.Object) -> Iterator[Holder]:
    kind = one.ops.type
    owner = walk.owner(kind.owner)
    path = f"{name} → object {text(one.key.name)}"
    if owner:
        yield Holder(owner, "nft object", one.value_(), "struct nft_object", path)
    if walk.module_at(int(one.ops)) == "nft_ct" and walk.name(int(one.ops)).startswith("nft_ct_helper"):
        helper = drgn.cast("struct nft_ct_helper_obj *", one.data.address_of_())
        for member in ("helper4", "helper6"):
            found = helper.member_(member)
            owner = walk.owner(found.me) if found else None
            if owner:
                yield Holder(
                    owner, "conntrack helper", one.value_(), "struct nft_object", f"{path} → {member}"
                )
