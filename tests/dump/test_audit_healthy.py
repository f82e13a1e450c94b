"""A guest in which modules are in use in every way that the audit enumerates, and nothing is wrong."""

from __future__ import annotations

import json

import pytest
from audit_cases import Case, audited

from ktriage.cli import main
from ktriage.dump.audit import audit
from ktriage.dump.core import open_vmcore

pytestmark = pytest.mark.vm

DRIVERS = (
    "loop dummy veth bridge 8021q macvtap tls tun fuse overlay xfs vfat nls_cp437 nls_ascii dm-mod dm-zero"
    " dm-crypt dm-delay brd algif_hash algif_skcipher vsock vsock_loopback kcm sctp tipc tcp_bbr tcp_dctcp"
    " sch_fq bfq null_blk zram nbd softdog evdev binfmt_misc autofs4 configfs scsi_debug sd_mod"
)
COMMANDS = [
    # Files, of devices and of file systems.
    "uses open /dev/fuse; uses open /dev/loop-control 2; uses open /dev/net/tun; uses open /dev/rtc0 0",
    "uses poll 400; uses poll 3",
    "uses in-flight /dev/loop-control; uses open /dev/watchdog; uses open /dev/input/event0 0",
    # Sockets of several families, what is added to them, and their transports.
    "uses socket 2 5 132; uses socket 2 1 132; uses socket 41 2 0; uses socket 30 5 0; uses socket 17 3 768",
    "uses ulp tls; uses ulp tls; uses congestion bbr; uses congestion dctcp; uses vsock",
    "uses alg hash sha256; uses alg skcipher 'cbc(aes)'",
    # Network devices.
    "uses tun t0; uses tun t1 persist",
    "ip link add d0 type dummy; ip link set d0 up; ip addr add 10.1.0.1/24 dev d0",
    "ip link add v0 type veth; ip link add br0 type bridge; ip link set v0 master br0",
    "ip link set v0 up; ip link set br0 up; ip link add link d0 name d0.5 type vlan id 5",
    "sysctl -w net.core.default_qdisc=fq; ip link set t0 up; ip link add link d0 name mt type macvtap",
    # Mounts: of a loop device, of FUSE, of an overlay.
    "mkdir -p /m/fuse /m/vfat /m/ov /m/lo /m/up; uses fuse /m/fuse; dd if=/dev/zero of=/img bs=1M count=1",
    "mkdosfs /img; losetup /dev/loop0 /img; mount -t vfat /dev/loop0 /m/vfat; echo x >/m/vfat/file",
    "uses open /m/vfat/file 0; uses directory /m/vfat; uses mapped /m/vfat/file",
    "mount -t tmpfs none /m/up; mkdir /m/up/u /m/up/w",
    "mount -t overlay o -o lowerdir=/m/lo,upperdir=/m/up/u,workdir=/m/up/w /m/ov",
    "echo x >/m/ov/f; uses open /m/ov/f 0",
    "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc",
    # Block devices, with tables, schedulers and hosts of their own.
    "uses dm zero zero 2048; uses dm empty",
    "uses dm crypt crypt 2048 'aes-cbc-plain 000102030405060708090a0b0c0d0e0f 0 /dev/ram0 0'",
    "uses dm linear linear 1024 '/dev/ram1 0'; uses dm delay delay 1024 '/dev/ram2 0 10'",
    "echo bfq >/sys/block/nullb0/queue/scheduler; uses open /dev/nullb0; uses open /dev/loop3 0",
    "uses open /dev/zram0; uses open /dev/sda 0",
    "mkdir /config; mount -t configfs none /config; mkdir /config/nullb/x; uses open /config/nullb/x/size",
    # Tracing: a perf event, a trigger; what is only enabled takes no reference.
    "uses tracepoint $(cat /sys/kernel/tracing/events/xfs/xfs_attr_list_sf/id)",
    "echo 1 >/sys/kernel/tracing/events/xfs/enable",
    "echo enable_event:nbd:nbd_header_sent >/sys/kernel/tracing/events/sched/sched_switch/trigger",
    "uses open /sys/kernel/debug/sched/debug 0",
]


@pytest.fixture(scope="module")
def healthy(debug_kernel, tmp_path_factory) -> Case:
    """Return the audit of the guest."""
    return audited(debug_kernel, tmp_path_factory.mktemp("healthy"), DRIVERS, COMMANDS)


def test_every_count_comes_out_even(healthy):
    assert {one.module: one.count for one in healthy.audit.modules} == healthy.counts
    uneven = {one.module: (one.count, one.holders) for one in healthy.audit.modules if one.verdict != "exact"}
    assert uneven == {}
    assert healthy.notes == []


def test_nothing_else_is_uneven_and_nothing_dangles(healthy):
    assert healthy.uneven() == set()
    assert healthy.audit.code.dangling == ()
    totals = {census.kind: census.total for census in healthy.audit.objects}
    assert all(totals[kind] > 5 for kind in ("file", "net_device", "sock", "mount", "dentry", "kobject"))


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        ("fuse", {"file": 2, "mount": 1}),
        ("loop", {"file": 2, "block device": 2, "loop device": 1}),
        ("tls", {"ULP": 2}),
        ("tcp_bbr", {"congestion control": 1}),
        ("kcm", {"socket": 1, "sock": 1}),
        ("tun", {"file": 2, "sock": 2, "net device": 1}),
        ("vfat", {"mount": 1}),
        ("nls_cp437", {"character set": 1}),
        ("overlay", {"mount": 1}),
        ("dm_mod", {"linked": 3, "mapped device": 5, "dm target": 1}),
        ("dm_crypt", {"dm target": 1}),
        ("brd", {"block device": 3}),
        ("bfq", {"I/O scheduler": 1}),
        ("sch_fq", {"qdisc": 2}),
        ("xfs", {"tracepoint": 1}),
        ("nbd", {"trigger": 1}),
        ("softdog", {"watchdog": 1, "timer": 1}),
        ("vsock_loopback", {"vsock transport": 2}),
        ("algif_hash", {"AF_ALG": 1}),
        ("binfmt_misc", {"mount": 1}),
        ("evdev", {"file": 1}),
        ("scsi_debug", {"SCSI device": 1}),
        ("sd_mod", {"block device": 1}),
        ("bridge", {}),
    ],
)  # fmt: skip
def test_who_holds_what(healthy, module, kinds):
    assert healthy.kinds(module) == kinds


def test_a_holder_says_how_to_get_to_it(healthy):
    (held,) = [one for one in healthy.module("loop").holders if "in flight" in one.path]
    assert (held.kind, held.type) == ("file", "struct file")
    assert "/dev/loop-control" in held.path
    assert held.path.endswith("f_op loop_ctl_fops")
    files = [one for one in healthy.module("fuse").holders if one.kind == "file"]
    assert all(one.path.startswith("task ") and "→ fd 3 →" in one.path for one in files)
    (mount,) = [one for one in healthy.module("vfat").holders if one.kind == "mount"]
    assert mount.path == "vfat on loop0 at /m/vfat"


def test_who_keeps_a_mount_busy(healthy):
    mounts = next(census for census in healthy.audit.objects if census.kind == "mount")
    (busy,) = [one for one in mounts.found if one.name.startswith("vfat")]
    assert sorted(one.kind for one in busy.holders) == ["attached", "cwd", "file", "file"]
    assert any("mapping at" in one.path for one in busy.holders)


def test_what_points_into_a_module(healthy):
    assert healthy.audit.code.uses["xfs"]["tracepoint"] > 100
    assert healthy.audit.code.uses["softdog"]["hrtimer"] == 1
    assert healthy.audit.code.uses["tls"]["tcp_ulp_list entry"] == 1


def test_without_the_modules_debug_information_what_is_hidden_is_said(healthy, monkeypatch):
    monkeypatch.setattr("ktriage.dump.audit_symbols.NEEDED", frozenset())
    core = open_vmcore(healthy.vmcore, healthy.kernel.vmlinux)
    found = audit(core)
    verdicts = {one.verdict for one in found.modules}
    assert verdicts <= {"exact", "uncountable"}
    hidden = {one.module for one in found.modules if one.verdict == "uncountable"}
    assert {"dm_mod", "dm_zero", "softdog", "algif_hash", "nls_cp437", "tun"} <= hidden
    assert {"tls", "fuse", "kcm", "sctp", "tcp_bbr", "vfat", "xfs", "overlay", "loop"}.isdisjoint(hidden)
    assert core.notes == []


def test_debug_information_beside_the_kernels_is_found(healthy):
    core = open_vmcore(healthy.vmcore, healthy.kernel.vmlinux)
    assert {one.verdict for one in audit(core).modules} == {"exact"}
    assert core.notes == []


def test_the_command(healthy, capsys):
    base = ["dump", "show", str(healthy.vmcore), "--vmlinux", str(healthy.kernel.vmlinux)]
    for place in healthy.modules:
        base += ["--modules", str(place)]
    assert main([*base, "--json", "audit"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["kind"] for one in printed} == {"module-audit", "object-census", "object-audit"}
    tls = next(one for one in printed if one.get("module") == "tls")
    assert (tls["count"], tls["accounted"], tls["unaccounted"], tls["verdict"]) == (2, 2, 0, "exact")
    assert {holder["kind"] for holder in tls["holders"]} == {"ULP"}
    assert main([*base, "audit"]) == 0
    said = capsys.readouterr()
    assert f"{len(healthy.counts)} modules: {len(healthy.counts)} exact" in said.out
    assert "unaccounted for" not in said.out
    assert said.err == ""
    assert main([*base, "--all", "audit"]) == 0
    assert "icsk_ulp_ops tcp_tls_ulp_ops" in capsys.readouterr().out
