"""Who has references to modules: one file for each concept, newest kernel first.

Each source is a function of a ``Walk`` that yields ``Holder``s: one for each reference that the kernel took
and has not put, found by what took it. What a source can't count it says in ``Walk.lacks``, what it can't
read in ``Walk.notes``; it raises nothing because of what is in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ktriage.dump.holders import (
    block,
    cards,
    ciphers,
    configuration,
    devices,
    dm,
    files,
    links,
    mounts,
    netdevs,
    nftables,
    programs,
    sockets,
    terminals,
    tracing,
    traffic,
    untold,
    watchdogs,
    xtables,
)
from ktriage.dump.holders.walk import Holder, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCES: tuple[Callable[[Walk], Iterator[Holder]], ...] = (
    links.loading,
    links.linked_modules,
    files.file_operations,
    files.character_devices,
    files.debugfs_files,
    mounts.mounted_types,
    mounts.mount_contexts,
    mounts.quota_formats,
    mounts.character_sets,
    mounts.binary_formats,
    sockets.socket_operations,
    sockets.socket_protocols,
    sockets.ulps,
    sockets.congestion_controls,
    sockets.time_waits,
    sockets.netlink,
    sockets.vsock,
    sockets.algorithms,
    block.block_devices,
    block.bound_loops,
    block.schedulers,
    block.scsi_hosts,
    block.raid,
    dm.mapped_devices,
    dm.targets,
    terminals.terminal_drivers,
    terminals.line_disciplines,
    ciphers.algorithms_in_use,
    configuration.items,
    configuration.attributes,
    tracing.perf_events,
    tracing.triggers,
    programs.programs,
    programs.trampolines,
    programs.links,
    programs.maps,
    netdevs.persistent_tunnels,
    netdevs.team_modes,
    netdevs.phys,
    netdevs.tunnel_sessions,
    netdevs.transformations,
    netdevs.taps,
    traffic.disciplines,
    traffic.classifiers,
    traffic.actions,
    xtables.tables,
    xtables.sets,
    xtables.instances,
    nftables.rules,
    watchdogs.watchdogs,
    watchdogs.software_watchdog,
    devices.clock_sources,
    devices.clock_events,
    devices.interrupts,
    devices.alarm_clock,
    devices.governors,
    devices.live_patches,
    devices.virtual_machines,
    devices.network_block_devices,
    cards.sound,
    cards.generic_scsi,
    cards.bluetooth_hosts,
    untold.untold,
)

__all__ = ["SOURCES", "Holder", "Walk"]
