"""BPF: programs, trampolines and links that have references to modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.bpf import bpf_link_for_each, bpf_map_for_each, bpf_prog_for_each

from ktriage.dump.holders.lists import hlist_for_each_entry
from ktriage.dump.holders.walk import Holder, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ENTRIES = 1 << 10
BPF_LINK_TYPE_RAW_TRACEPOINT = 1
"""include/uapi/linux/bpf.h."""


def programs(walk: Walk) -> Iterator[Holder]:
    """Yield the references of programs to modules whose types or functions they use (verifier.c)."""
    # Without CONFIG_BPF_SYSCALL there are no tables of programs, links and maps.
    found = bpf_prog_for_each(walk.program) if walk.variable("prog_idr") is not None else ()
    for program in walk.each("the BPF programs", found):
        with walk.guard(f"BPF program {program.value_():#x}"):
            aux = program.aux
            path = f"BPF program {int(aux.id)}"
            for number in range(min(int(aux.used_btf_cnt), MOST_ENTRIES)):
                owner = walk.owner(aux.used_btfs[number].module)
                if owner:
                    yield Holder(owner, "BPF", program.value_(), "struct bpf_prog", f"{path} → used_btfs")
            table = aux.kfunc_btf_tab
            for number in range(min(int(table.nr_descs), MOST_ENTRIES) if table else 0):
                owner = walk.owner(table.descs[number].module)
                if owner:
                    yield Holder(owner, "BPF", program.value_(), "struct bpf_prog", f"{path} → kfunc_btf_tab")


def trampolines(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each trampoline on a module's function (``bpf_trampoline_module_get()``).

    ``struct bpf_trampoline`` had ``mod`` from Linux 5.13 (commit 861de02e5f3f) until 6.11 or so.
    """
    table = walk.variable("trampoline_table", "trampoline.c")
    if table is None or not walk.program.type("struct bpf_trampoline").has_member("mod"):
        return
    for bucket in table:
        if not bucket.first:
            continue
        found = hlist_for_each_entry("struct bpf_trampoline", bucket.address_of_(), "hlist")
        for trampoline in walk.each("the BPF trampolines", found):
            with walk.guard(f"BPF trampoline {trampoline.value_():#x}"):
                owner = walk.owner(trampoline.mod) if trampoline.mod else None
                if owner:
                    path = f"BPF trampoline on {walk.name(int(trampoline.func.addr))}"
                    yield Holder(owner, "BPF", trampoline.value_(), "struct bpf_trampoline", path)


def links(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each raw tracepoint link (``bpf_get_raw_tracepoint()``)."""
    found = bpf_link_for_each(walk.program) if walk.variable("link_idr") is not None else ()
    for link in walk.each("the BPF links", found):
        with walk.guard(f"BPF link {link.value_():#x}"):
            if int(link.type) != BPF_LINK_TYPE_RAW_TRACEPOINT:
                continue
            raw = drgn.container_of(link, "struct bpf_raw_tp_link", "link")
            owner = walk.module_at(int(raw.btp))
            if owner:
                path = f"BPF link {int(link.id)} → {walk.name(int(raw.btp))}"
                yield Holder(owner, "BPF", link.value_(), "struct bpf_raw_tp_link", path)


def maps(walk: Walk) -> Iterator[Holder]:
    """Yield the references of maps to modules whose objects they may hold (``btf_parse_kptrs()``)."""
    found = bpf_map_for_each(walk.program) if walk.variable("map_idr") is not None else ()
    for one in walk.each("the BPF maps", found):
        with walk.guard(f"BPF map {one.value_():#x}"):
            for table, member in _records(one):
                for number in range(min(int(table.member_(member)), MOST_ENTRIES)):
                    field = table.off[number] if member == "nr_off" else table.fields[number]
                    owner = walk.owner(field.kptr.module)
                    if owner:
                        path = f"BPF map {int(one.id)} → field {number}"
                        yield Holder(owner, "BPF", one.value_(), "struct bpf_map", path)


def _records(one: drgn.Object) -> Iterator[tuple[drgn.Object, str]]:
    """Yield a map's table of fields and the member with their number.

    It is ``record`` since Linux 6.2 (commit aa3496accc41), ``kptr_off_tab`` before.
    """
    for name, count in (("record", "cnt"), ("kptr_off_tab", "nr_off")):
        try:
            table = one.member_(name)
        except LookupError:
            continue
        # An error that is kept as a pointer is in the last page.
        if 0 < int(table) < (1 << 64) - 4096:
            yield table, count
