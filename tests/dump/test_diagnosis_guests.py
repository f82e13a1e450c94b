"""Panics that were asked for, spinning CPUs, stalled workers, interrupts: what the summary leads with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from guests import Dumped, dump_after

from ktriage.cli import main
from ktriage.dump import open_vmcore
from ktriage.dump.diagnosis import asked_for
from ktriage.dump.irqs import find_irqs
from ktriage.dump.works import find_works
from ktriage.machine import End, Guest, GuestSpec, prepare

SYSCTL = "/proc/sys/kernel"


def diagnosis_of(dumped: Dumped, capsys) -> dict:
    """Return the first object that the command prints."""
    assert main([*dumped.arguments, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["kind"] == "diagnosis"
    return first


@pytest.fixture(scope="module")
def two_cpus(kernel) -> Guest:
    return prepare(GuestSpec(kernel.image, kernel.modules, cpus=2))


@pytest.mark.vm
def test_an_nmi_on_a_cpu_that_spins(guest, debug_kernel, tmp_path, capsys):
    dumped = dump_after(
        guest, debug_kernel, tmp_path / "it", "misbehave", ["echo spin >/proc/misbehave"], timeout=10
    )
    assert dumped.end is End.TIMED_OUT
    found = diagnosis_of(dumped, capsys)
    assert "NMI" in found["asked"]
    assert found["findings"][0]["kind"] == "bt"
    assert ", in misbehave_spin() [misbehave], misbehave.c:" in found["findings"][0]["says"]


@pytest.mark.vm
@pytest.mark.matrix
def test_the_soft_lockup_detector(guest, debug_kernel, tmp_path, capsys):
    commands = [
        f"echo 1 >{SYSCTL}/watchdog_thresh; echo 1 >{SYSCTL}/softlockup_panic",
        "echo spin >/proc/standstill",
    ]
    dumped = dump_after(guest, debug_kernel, tmp_path / "it", "standstill", commands, timeout=20)
    assert dumped.end is End.PANICKED
    found = diagnosis_of(dumped, capsys)
    assert found["asked"] == "the soft-lockup detector asked for it"
    assert found["findings"][0]["says"].startswith("CPU 0 ran spinner (")
    assert "in spins() [standstill]" in found["findings"][0]["says"]


@pytest.mark.vm
def test_the_hung_task_detector(guest, debug_kernel, tmp_path, capsys):
    commands = [
        f"echo 1 >{SYSCTL}/hung_task_timeout_secs; echo 1 >{SYSCTL}/hung_task_panic",
        "echo dead >/proc/standstill; sleep 6",
    ]
    dumped = dump_after(guest, debug_kernel, tmp_path / "it", "standstill", commands, timeout=20)
    assert dumped.end is End.PANICKED
    found = diagnosis_of(dumped, capsys)
    assert found["asked"] == "the hung-task detector asked for it"
    assert found["findings"][0]["says"].startswith("dead-holder (")
    assert "is dead: nobody will release it" in found["findings"][0]["says"]


@pytest.mark.vm
def test_a_warning_with_panic_on_warn(guest, debug_kernel, tmp_path, capsys):
    commands = [f"echo 1 >{SYSCTL}/panic_on_warn", "echo warn >/proc/misbehave"]
    dumped = dump_after(guest, debug_kernel, tmp_path / "it", "misbehave", commands)
    found = diagnosis_of(dumped, capsys)
    assert found["asked"] == "a warning came, and panic_on_warn is set"
    assert [finding["says"] for finding in found["findings"]] == ["WARNING in misbehave_warn"]


@pytest.mark.vm
@pytest.mark.matrix
def test_workers_that_make_no_progress(two_cpus, debug_kernel, tmp_path):
    commands = ["echo stall >/proc/standstill", "sleep 5"]
    dumped = dump_after(two_cpus, debug_kernel, tmp_path / "it", "standstill", commands)
    works = find_works(open_vmcore(dumped.vmcore, dumped.kernel.vmlinux, dumped.module))
    (stalled,) = works.stalled
    assert stalled.pool.cpu == 1
    assert stalled.pool.seconds >= 3
    assert "runs spinning_work [standstill]" in stalled.says
    pending = {c.function.name for c in works.callbacks if c.state == "pending" and c.cpu == 1}
    assert "stuck_work" in pending


@pytest.mark.vm
def test_interrupts_and_their_rates(two_cpus, debug_kernel, tmp_path, capsys):
    # Both guests are restored from one saved state: they are of the same boot.
    before = dump_after(two_cpus, debug_kernel, tmp_path / "a", "standstill", ["true"])
    after = dump_after(
        two_cpus, debug_kernel, tmp_path / "b", "standstill", ["echo storm >/proc/standstill; sleep 1"]
    )
    cores = [open_vmcore(d.vmcore, d.kernel.vmlinux, d.module) for d in (after, before)]
    irqs = find_irqs(*cores)
    assert irqs.seconds > 0.5
    by_name = {action.name: line for line in irqs.lines for action in line.actions}
    storm = by_name["standstill"]
    assert storm.total == 100_000
    assert "the kernel has disabled it" in storm.wrong[0]
    assert irqs.wrong == (storm,)
    assert str(storm.actions[0].handler) == "not_mine [standstill]"
    disk = by_name["virtio0-req.0"]
    assert disk.actions[0].handler.module == "virtio_ring"
    assert len(disk.counts) == 2
    timer = next(line for line in irqs.lines if line.irq == "local timer")
    assert timer.rate > 0
    assert find_irqs(cores[1], cores[0]).seconds is None
    assert any("is not earlier than" in note for note in cores[1].notes)
    assert main([*after.arguments, "irqs", "--earlier", str(before.vmcore)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"interrupt {storm.irq}: the kernel has disabled it")
    assert "per s" in printed
    assert main(after.arguments) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        f"interrupt {storm.irq} (standstill: not_mine [standstill]): the kernel has disabled it"
    )
    assert main(before.arguments) == 0
    assert "interrupt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("panic", "who"),
    [
        ("Kernel panic - not syncing: sysrq triggered crash", "SysRq"),
        ("Kernel panic - not syncing: NMI: Not continuing", "NMI"),
        ("Kernel panic - not syncing: kernel: panic_on_warn set ...", "panic_on_warn"),
        ("Kernel panic - not syncing: hung_task: blocked tasks", "hung-task"),
        ("Kernel panic - not syncing: softlockup: hung tasks", "soft-lockup"),
        ("Kernel panic - not syncing: Hard LOCKUP", "hard-lockup"),
        ("Kernel panic - not syncing: RCU Stall", "RCU"),
    ],
)
def test_who_asks_for_a_panic(panic, who):
    assert who in asked_for(panic)


@pytest.mark.parametrize(
    "panic", [None, "Kernel panic - not syncing: Fatal exception", "Attempted to kill init!"]
)
def test_who_does_not(panic):
    assert asked_for(panic) is None


REPORTS = ["summary", "bt", "tasks", "modules", "waits", "works", "teardown", "irqs", "log"]


@pytest.fixture(scope="module")
def whole(guest, debug_kernel, tmp_path_factory) -> Dumped:
    return dump_after(
        guest,
        debug_kernel,
        tmp_path_factory.mktemp("whole"),
        "resetnic",
        [
            f"echo 0 >{SYSCTL}/panic_on_oops",
            "ip link set rnic0 up; sleep 0.2",
            "rmmod resetnic & sleep 1.5",
        ],
        parameters="late_irq=1",
    )


def damaged(data: bytearray, how: str) -> bytearray:
    """Return a dump's bytes with much of what they said made nonsense; its headers are left."""
    rng = random.Random(how)
    head, size = 0x2000, len(data)
    if how == "cut":
        return data[: size // 2]
    if how == "flipped":
        for place in range(head, size, 509):
            data[place] ^= rng.randrange(1, 256)
    if how == "emptied":
        for _ in range(2000):
            place = rng.randrange(head, size - 4096) & ~4095
            data[place : place + 4096] = bytes(4096)
    if how == "shuffled":
        for _ in range(500_000):
            to, of = (rng.randrange(head, size - 8) & ~7 for _ in range(2))
            data[to : to + 8] = data[of : of + 8]
    return data


@pytest.mark.vm
@pytest.mark.parametrize("how", ["cut", "flipped", "emptied", "shuffled"])
def test_a_damaged_dump_gives_what_it_has(whole, tmp_path, capsys, how):
    path = tmp_path / "vmcore"
    path.write_bytes(damaged(bytearray(whole.vmcore.read_bytes()), how))
    words = [str(path) if word == str(whole.vmcore) else word for word in whole.arguments]
    assert main([*words, *REPORTS]) == 0
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    # Where too little is left to say that all is well, that is not said.
    assert not printed.out.startswith("nothing found")
    assert "ktriage dump: " in printed.err
    assert Path(words[2]) == path
