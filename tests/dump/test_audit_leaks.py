"""Guests in which references were lost on purpose: exactly those are told."""

from __future__ import annotations

import pytest
from audit_cases import Case, audited, module_folder

from ktriage.cli import main
from ktriage.dump.audit import audit
from ktriage.dump.core import open_vmcore

pytestmark = pytest.mark.vm

COMMANDS = [
    "insmod /leaker.ko; mkdir /v; dd if=/dev/zero of=/img bs=1M count=1; mkdosfs /img",
    "losetup /dev/loop0 /img; mount -t vfat /dev/loop0 /v; echo x >/v/f; mkdir /v/d",
    "ip link add d0 type dummy; ip link set d0 up",
    "echo file /v/f >/proc/leaker",
    "exec 7</proc/meminfo; echo fd 7 >/proc/leaker; exec 7<&-",
    "echo netdev d0 >/proc/leaker; echo alloc strayed >/proc/leaker; echo unregister removed >/proc/leaker",
    "echo sock >/proc/leaker; echo kobject lingers >/proc/leaker; echo path /v/d >/proc/leaker",
    "echo module >/proc/leaker; echo module >/proc/leaker",
    "umount -l /v; sleep 1",
]
DRIVERS = "dummy loop vfat nls_cp437 nls_ascii"


@pytest.fixture(scope="module")
def leaked(debug_kernel, tmp_path_factory) -> Case:
    """Return the audit of a guest that lost one of each."""
    folder = tmp_path_factory.mktemp("leaks")
    return audited(debug_kernel, folder, DRIVERS, COMMANDS, module="leaker", memory_mib=256)


def test_exactly_the_planted_faults(leaked):
    assert leaked.uneven() == {
        ("file", "/f", "leaked", 1),
        ("file", "/proc/meminfo", "leaked", 1),
        ("net_device", "d0", "unaccounted", 1),
        ("net_device", "removed", "leaked", 1),
        ("net_device", "strayed", "leaked", 0),
        ("sock", next(iter(name for kind, name, *_ in leaked.uneven() if kind == "sock")), "leaked", 1),
        ("mount", "vfat on loop0", "unaccounted", 1),
        ("dentry", "d of vfat on loop0, not mounted", "unaccounted", 1),
        ("kobject", "lingers", "leaked", 1),
    }
    assert leaked.notes == []
    assert leaked.audit.code.dangling == ()


def test_the_module_that_held_itself(leaked):
    leaker = leaked.module("leaker")
    assert (leaker.count, leaker.accounted, leaker.unaccounted, leaker.verdict) == (2, 0, 2, "unaccounted")
    others = {one.module: one.verdict for one in leaked.audit.modules if one.module != "leaker"}
    assert set(others.values()) == {"exact"}


def test_what_is_told_of_what_was_lost(leaked):
    told = {(one.kind, one.name): one for census in leaked.audit.objects for one in census.found}
    assert "proc_iter_file_ops" in told["file", "/proc/meminfo"].note
    # seq_file has the file in it: where nobody is left, that is what to look at.
    assert any("seq_file" in place for place in told["file", "/proc/meminfo"].mentions)
    assert "unregistered" in told["net_device", "removed"].note
    kinds = [holder.kind for holder in told["net_device", "d0"].holders]
    assert {"allocated", "registered", "addresses", "queue", "qdisc", "neighbour parameters"} <= set(kinds)
    (file,) = told["mount", "vfat on loop0"].holders
    assert "nobody" in file.path
    assert "umount -l" in told["mount", "vfat on loop0"].note


def test_a_ledger_says_who_took_what_is_left(leaked, tmp_path, capsys):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(
        '{"object": "leaker", "kind": "module", "dynamic_uses": 2, "unmatched_gets": [{"function":'
        ' "leak_module", "path": ["leak_module", "leaker_write"], "holder": "leaker", "count": 2,'
        ' "certainty": "certain"}]}\n'
    )
    base = ["dump", "show", str(leaked.vmcore), "--vmlinux", str(leaked.kernel.vmlinux)]
    for place in leaked.modules:
        base += ["--modules", str(place)]
    assert main([*base, "--ledger", str(ledger), "audit"]) == 0
    said = capsys.readouterr().out
    assert "2 references never put, certain: leak_module ← leaker_write (leaker)" in said
    ledger.write_text("nonsense\n")
    assert main([*base, "--ledger", str(ledger), "audit"]) == 2
    assert f"{ledger}:1: no ledger" in capsys.readouterr().err


def test_a_timer_that_a_module_left_dangles(debug_kernel, tmp_path):
    commands = ["insmod /leaker.ko; echo timer >/proc/leaker; rmmod leaker"]
    case = audited(debug_kernel, tmp_path, DRIVERS, commands, module="leaker", memory_mib=256)
    (dangling,) = case.audit.code.dangling
    assert (dangling.state, dangling.module, dangling.pointer.kind) == ("gone", "leaker", "timer")
    assert case.uneven() == set()


def test_a_module_that_is_being_removed(debug_kernel, tmp_path):
    commands = ["insmod /leaker.ko exit_seconds=1000; rmmod leaker & sleep 1"]
    case = audited(debug_kernel, tmp_path, DRIVERS, commands, module="leaker", memory_mib=256)
    leaker = case.module("leaker")
    # Its count is as lsmod shows it, and that of no reference.
    assert (case.counts["leaker"], leaker.count, leaker.verdict, leaker.state) == (-1, 0, "exact", "going")
    assert {(one.state, one.pointer.kind) for one in case.audit.code.dangling} == {("going", "proc entry")}


def test_a_module_whose_init_runs(debug_kernel, tmp_path):
    commands = ["insmod /leaker.ko init_seconds=1000 & sleep 1"]
    case = audited(debug_kernel, tmp_path, DRIVERS, commands, module="leaker", memory_mib=256)
    leaker = case.module("leaker")
    assert (leaker.count, leaker.verdict, leaker.state) == (1, "exact", "coming")
    assert case.kinds("leaker") == {"loading": 1}
    assert case.audit.code.dangling == ()


@pytest.mark.parametrize("step", [4099, 65537])
def test_flipped_bytes_and_half_a_dump_raise_nothing(leaked, tmp_path, step):
    data = bytearray(leaked.vmcore.read_bytes())
    for place in range(0x2000, len(data), step):
        data[place] ^= 0x5A
    broken = tmp_path / "broken"
    broken.write_bytes(data if step > 5000 else data[: len(data) // 2])
    core = open_vmcore(broken, leaked.kernel.vmlinux, module_folder(leaked.kernel))
    audit(core)
