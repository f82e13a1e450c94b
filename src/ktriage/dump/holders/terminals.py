"""Terminals: each ``struct tty_struct`` has a reference to its driver, each line discipline to its module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.walk import BROKEN, KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_TERMINALS = 1 << 16
TTY_FOPS = ("tty_fops", "console_fops", "hung_up_tty_fops")


def _terminals(walk: Walk) -> dict[int, str]:
    """Return all terminals by address: those in the drivers' tables, and those of open files.

    The pseudo terminals of devpts are in no table.
    """

    def make(_: Walk) -> dict[int, str]:
        found: dict[int, str] = {}
        head = walk.variable("tty_drivers")
        drivers = (
            list_for_each_entry("struct tty_driver", head.address_of_(), "tty_drivers")
            if head is not None
            else ()
        )
        for driver in walk.each("the terminal drivers", drivers):
            try:
                for number in range(min(int(driver.num), MOST_TERMINALS) if driver.ttys else 0):
                    tty = int(driver.ttys[number])
                    if tty:
                        found[tty] = f"{text(driver.name)}{number + int(driver.name_base)}"
            except BROKEN as error:
                walk.note(f"the terminals of driver {driver.value_():#x}", error)
        files = open_files(walk)
        wanted = {one.address_ for one in map(walk.variable, TTY_FOPS) if one is not None}
        for file in files.by_address.values():
            if file.operations in wanted and file.private >= KERNEL_HALF:
                try:
                    tty = int(walk.object("struct tty_file_private", file.private).tty)
                except drgn.FaultError as error:
                    walk.note(f"the terminal of file {file.address:#x}", error)
                    continue
                found.setdefault(tty, files.holder(file))
        for tty in list(found):
            link = int(walk.object("struct tty_struct", tty).link)
            if link:
                found.setdefault(link, f"{found[tty]} → link")
        return found

    found: dict[int, str] = walk.keep("terminals", make)
    return found


def terminal_drivers(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each terminal to its driver's module (``tty_init_dev()``)."""
    for address, path in _terminals(walk).items():
        try:
            owner = walk.owner(walk.object("struct tty_struct", address).driver.owner)
        except BROKEN as error:
            walk.note(f"terminal {address:#x}", error)
            continue
        if owner:
            yield Holder(owner, "terminal", address, "struct tty_struct", path)


def line_disciplines(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each terminal's line discipline (``tty_ldisc_get()``)."""
    for address, path in _terminals(walk).items():
        try:
            discipline = walk.object("struct tty_struct", address).ldisc
            owner = walk.owner(discipline.ops.owner) if discipline else None
        except BROKEN as error:
            walk.note(f"the line discipline of terminal {address:#x}", error)
            continue
        if owner:
            name = f"{path} → tty {address:#x} → ldisc {walk.name(int(discipline.ops))}"
            yield Holder(owner, "line discipline", discipline.value_(), "struct tty_ldisc", name)
