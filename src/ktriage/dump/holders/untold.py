"""Classes of references that are not looked for: where they may matter, that is said."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ktriage.dump.holders.walk import Holder, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = (
    ("9pnet_*", "mounts of 9p by their transport"),
    ("dm_round_robin dm_service_time dm_queue_length dm_historical_*", "path selectors of multipath"),
    ("dm_log* dm_cache_smq dm_snapshot", "logs, stores and policies of device-mapper's targets"),
    ("em_*", "extended matches of classifiers"),
    ("ebt_* ebtable*", "rules of ebtables"),
    ("ip_vs*", "services of IPVS"),
    ("nf_conntrack_* nf_nat_*", "rules and policies that assign helpers"),
    ("nfs* lockd sunrpc rpc* auth_rpcgss", "clients and servers of NFS and RPC"),
    ("snd_seq* snd_timer snd_hrtimer", "ports and timers of sound that are subscribed"),
    ("nvme*", "controllers and namespaces that are open"),
    ("vport_* openvswitch", "ports of Open vSwitch"),
    ("bluetooth bnep hidp rfcomm", "Bluetooth's sessions"),
    ("rc_core lirc cec media videodev", "remote controls and media devices"),
    ("cifs ksmbd ceph rbd libceph drbd", "connections of network file systems and disks"),
    ("ppp_deflate ppp_mppe bsd_comp", "compressors of PPP"),
    ("target_core_* iscsi_* tcm_*", "SCSI targets and sessions"),
    ("vfio* irqbypass mdev", "devices that are passed through"),
    ("drm* i915 amdgpu nouveau bochs virtio_gpu", "displays and their consoles"),
    ("i2c_* spi_* industrialio* gpio_* mtd* nand* ubi* nvmem_*", "buses and devices by their users"),
    ("uio* parport* ipmi_* st ses", "devices that are open in ways of their own"),
    ("z3fold zbud", "pools of compressed memory"),
)
"""Patterns of modules' names, and what may have references to such that is not enumerated."""


def untold(walk: Walk) -> Iterator[Holder]:
    """Say of modules of classes that are not enumerated that they are not; yields nothing."""
    for module in walk.modules:
        for patterns, what in CLASSES:
            if any(fnmatchcase(module.name, pattern) for pattern in patterns.split()):
                walk.lack(module.name, f"{what} are not enumerated")
    yield from ()
