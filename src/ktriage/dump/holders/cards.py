"""Sound cards, SCSI's generic devices and Bluetooth's hosts: what is open of them, and that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.openfiles import open_files
from ktriage.dump.holders.walk import KERNEL_HALF, Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator


def sound(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each open file of a sound card to the card's driver.

    ``snd_ctl_open()``, ``snd_pcm_open()`` and others take it where they call ``snd_card_file_add()``.
    """
    if not walk.has_type("struct snd_monitor_file", "snd", "open files of sound cards"):
        return
    cards = walk.variable("snd_cards", "sound/core/init.c")
    files = open_files(walk)
    for number, card in enumerate(cards if cards is not None else ()):
        if not card:
            continue
        with walk.guard(f"sound card {number}"):
            owner = walk.owner(card.module)
            for one in list_for_each_entry("struct snd_monitor_file", card.files_list.address_of_(), "list"):
                file = files.by_address.get(int(one.file))
                path = f"{files.holder(file) if file else 'file'} → sound card {number} ({text(card.id)})"
                if owner:
                    yield Holder(owner, "sound card", one.value_(), "struct snd_monitor_file", path)


def generic_scsi(walk: Walk) -> Iterator[Holder]:
    """Yield the references of each open file of sg: to sg itself and to the host's driver (``sg_open()``)."""
    if not walk.has_type("struct sg_fd", "sg", "open devices"):
        return
    files = open_files(walk)
    for file in files.by_address.values():
        if file.private < KERNEL_HALF or walk.module_at(file.operations) != "sg":
            continue
        with walk.guard(f"sg's file {file.address:#x}"):
            opened = walk.object("struct sg_fd", file.private)
            host = opened.parentdp.device.host
            path = f"{files.holder(file)} → SCSI host {int(host.host_no)}"
            yield Holder("sg", "SCSI device", opened.value_(), "struct sg_fd", path)
            owner = walk.owner(host.hostt.module)
            if owner:
                yield Holder(owner, "SCSI device", opened.value_(), "struct sg_fd", path)


def bluetooth_hosts(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each Bluetooth host to bluetooth itself (``hci_init_sysfs()``)."""
    if not walk.has_type("struct hci_dev", "bluetooth", "hosts"):
        return
    head = walk.variable("hci_dev_list")
    hosts = list_for_each_entry("struct hci_dev", head.address_of_(), "list") if head is not None else ()
    for host in walk.each("the Bluetooth hosts", hosts):
        path = f"hci{int(host.id)}"
        yield Holder("bluetooth", "Bluetooth host", host.value_(), "struct hci_dev", path)
