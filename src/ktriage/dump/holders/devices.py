"""Drivers that the kernel's core uses: clocks, interrupts, the alarm timer, governors, live patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import drgn
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.irq import for_each_irq_desc
from drgn.helpers.linux.percpu import per_cpu

from ktriage.dump.holders.disks import disks
from ktriage.dump.holders.lists import list_for_each_entry
from ktriage.dump.holders.walk import Holder, Walk, text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ACTIONS = 1 << 10


def clock_sources(walk: Walk) -> Iterator[Holder]:
    """Yield the reference to the driver of the clock source (``change_clocksource()``)."""
    clock = walk.variable("curr_clocksource")
    if clock is not None and clock:
        owner = walk.owner(clock.owner)
        if owner:
            yield Holder(owner, "clock source", int(clock), "struct clocksource", text(clock.name))


def clock_events(walk: Walk) -> Iterator[Holder]:
    """Yield the references to the drivers of the ticks (``tick_check_new_device()``)."""
    devices = walk.variable("tick_cpu_device")
    if devices is None:
        return
    for cpu in for_each_online_cpu(walk.program):
        with walk.guard(f"the tick of CPU {cpu}"):
            event = per_cpu(devices, cpu).evtdev
            owner = walk.owner(event.owner) if event else None
            if owner:
                path = f"tick of CPU {cpu}: {text(event.name)}"
                yield Holder(owner, "clock event", event.value_(), "struct clock_event_device", path)


def interrupts(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each handler to the module of the interrupt's controller (``__setup_irq()``)."""
    for number, descriptor in walk.each("the interrupts", for_each_irq_desc(walk.program)):
        with walk.guard(f"interrupt {number}"):
            owner = walk.owner(descriptor.owner) if descriptor.owner else None
            action = descriptor.action
            for _ in range(MOST_ACTIONS if owner else 0):
                if not action:
                    break
                assert owner
                path = f"interrupt {number} → handler {walk.name(int(action.handler))}"
                yield Holder(owner, "interrupt", action.value_(), "struct irqaction", path)
                action = action.next


def alarm_clock(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of the alarm timers to their clock (``alarmtimer_rtc_add_device()``)."""
    device = walk.variable("rtcdev", "alarmtimer.c")
    if device is not None and device:
        owner = walk.owner(device.owner)
        if owner:
            yield Holder(owner, "alarm timer", int(device), "struct rtc_device", "alarmtimer → rtcdev")


def governors(walk: Walk) -> Iterator[Holder]:
    """Yield the references of frequency policies to their governors (``cpufreq_init_governor()``)."""
    head = walk.variable("cpufreq_policy_list")
    if head is None:
        return
    policies = list_for_each_entry("struct cpufreq_policy", head.address_of_(), "policy_list")
    for policy in walk.each("the frequency policies", policies):
        with walk.guard(f"frequency policy {policy.value_():#x}"):
            owner = walk.owner(policy.governor.owner) if policy.governor else None
            if owner:
                path = f"CPU {int(policy.cpu)} → governor {text(policy.governor.name)}"
                yield Holder(owner, "governor", policy.value_(), "struct cpufreq_policy", path)


def live_patches(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each enabled live patch to its module (``klp_enable_patch()``)."""
    head = walk.variable("klp_patches")
    if head is None:
        return
    for patch in walk.each(
        "the live patches", list_for_each_entry("struct klp_patch", head.address_of_(), "list")
    ):
        with walk.guard(f"live patch {patch.value_():#x}"):
            owner = walk.owner(patch.mod)
            if owner and not bool(patch.forced):
                yield Holder(owner, "live patch", patch.value_(), "struct klp_patch", "klp_patches")


def virtual_machines(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each virtual machine to KVM's module (``kvm_create_vm()``)."""
    if not walk.loaded("kvm"):
        return
    head = walk.variable("vm_list")
    if not walk.has_type("struct kvm_vcpu", "kvm", "virtual machines") or head is None:
        return
    device = walk.variable("kvm_chardev_ops")
    owner = walk.owner(device.owner) if device is not None else None
    for machine in walk.each(
        "the virtual machines", list_for_each_entry("struct kvm", head.address_of_(), "vm_list")
    ):
        if owner:
            yield Holder(owner, "virtual machine", machine.value_(), "struct kvm", "vm_list")


def network_block_devices(walk: Walk) -> Iterator[Holder]:
    """Yield the reference of each NBD that is set up (``nbd_alloc_and_init_config()``)."""
    if not walk.loaded("nbd") or not walk.has_type("struct nbd_device", "nbd", "which devices are set up"):
        return
    for disk in disks(walk):
        with walk.guard(f"disk {disk.value_():#x}"):
            if walk.owner(disk.fops.owner) == "nbd" and disk.private_data:
                device = drgn.cast("struct nbd_device *", disk.private_data)
                if device.config:
                    yield Holder(
                        "nbd", "NBD", device.value_(), "struct nbd_device", f"{text(disk.disk_name)}, set up"
                    )
