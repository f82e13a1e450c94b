"""The healthy guest on other kernels: every count comes out even there, too."""

from __future__ import annotations

import pytest
from audit_cases import audited
from test_audit_healthy import COMMANDS, DRIVERS

from ktriage.kernel import packaged_kernel

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(1800)]

# libcrc32c asks for this at run time, and modprobe's softdeps are not followed.
FIRST = "crc32c_generic "
MORE = (
    " n_hdlc slip snd-dummy snd-pcm-oss can can-raw vcan bluetooth hci_vhci uinput uhid rds qrtr af_key sg"
    " vhost-net bonding vxlan geneve macsec ipvlan nlmon vsockmon wireguard sit ip6_tunnel ifb"
)
MORE_COMMANDS = [
    # Terminals: line disciplines of pseudo terminals.
    "uses ldisc 13; uses ldisc 1",
    "uses socket 29 3 1; uses socket 31 3 1; uses socket 21 5 0; uses socket 42 2 0; uses socket 15 3 2",
    "uses open /dev/uinput; uses open /dev/uhid; uses open /dev/vhci; uses open /dev/sg0",
    "uses open /dev/vhost-net",
    "uses open /dev/snd/controlC0; uses open /dev/snd/pcmC0D0p 1; uses open /dev/dsp 1",
    "ip link add bo type bond; ip link add vx type vxlan id 1 dev d0 dstport 4789; ip link add if0 type ifb",
    "ip link add d1 type dummy; ip link add ms link d1 type macsec",
    "ip link add wg0 type wireguard; ip link add vc0 type vcan",
    "ip link add nm type nlmon; ip link set nm up; ip link add vsm type vsockmon; ip link set vsm up",
]


def check(case) -> None:
    assert {one.module: one.count for one in case.audit.modules if one.state == "live"} == case.counts
    uneven = {one.module: (one.count, one.holders) for one in case.audit.modules if one.verdict != "exact"}
    assert uneven == {}
    assert case.uneven() == set()
    assert case.audit.code.dangling == ()
    assert case.notes == []


def test_linux_6_12(tmp_path):
    kernel = packaged_kernel("linux-image-6.12-cloud-amd64", headers=True, debuginfo=True)
    check(audited(kernel, tmp_path, DRIVERS, COMMANDS))


def test_terminals_sound_and_more_on_the_full_kernel(tmp_path):
    kernel = packaged_kernel("linux-image-amd64", headers=True, debuginfo=True)
    case = audited(kernel, tmp_path, FIRST + DRIVERS + MORE, COMMANDS + MORE_COMMANDS, memory_mib=640)
    check(case)
    assert case.kinds("n_hdlc") == {"line discipline": 1}
    assert case.kinds("snd_dummy") == {"sound card": 3}
    assert case.kinds("nlmon") == {"tap": 1}
