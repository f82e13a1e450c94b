"""Modules that are linked against a module: the one kind of user that the kernel names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.walk import BROKEN, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator


def loading(walk: Walk) -> Iterator[Holder]:
    """Yield the reference that a module has while its init function runs (``module_unload_init()``)."""
    for module in walk.modules:
        if module.state == "coming":
            yield Holder(module.name, "loading", module.address, "struct module", "its init function runs")


def linked_modules(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each ``struct module_use``: ``add_module_usage()`` (kernel/module/main.c)."""
    for module in walk.modules:
        try:
            head = walk.object("struct module", module.address).source_list.address_of_()
        except BROKEN as error:
            walk.note(f"the users of {module.name}", error)
            continue
        for use in walk.each(
            f"the users of {module.name}", list_for_each_entry("struct module_use", head, "source_list")
        ):
            try:
                path = f"module {text(use.source.name)} → target_list"
            except BROKEN as error:
                walk.note(f"a user of {module.name}", error)
                continue
            yield Holder(module.name, "linked", use.value_(), "struct module_use", path)
