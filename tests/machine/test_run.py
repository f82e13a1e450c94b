"""Real guests: how a run can end, and that nothing outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ktriage.errors import UserError
from ktriage.kernel import Kernel
from ktriage.machine import BootFailedError, End, Guest, GuestSpec, Plan, prepare, run

pytestmark = pytest.mark.vm


def go(guest: Guest, directory: Path, script: str, timeout: float = 20.0, **options):
    plan = Plan(
        ("file before /proc/uptime", "must it", "file after /proc/uptime"), {"ktriage/it": script.encode()}
    )
    return run(guest, plan, directory, timeout=timeout, **options)


def test_a_plan_is_followed_to_its_end(guest: Guest, tmp_path: Path) -> None:
    left = go(guest, tmp_path, "echo from the guest; exit 0")
    assert left.end is End.DONE
    assert [(step.name, step.code) for step in left.steps] == [("it", 0)]
    assert float(left.files["after"].split()[0]) >= float(left.files["before"].split()[0])
    assert (tmp_path / "output.log").read_text() == "from the guest\n"
    assert left.vmcore is None
    assert left.warnings == ()


def test_a_step_that_must_succeed_ends_the_plan(guest: Guest, tmp_path: Path) -> None:
    left = go(guest, tmp_path, "exit 3")
    assert left.end is End.DONE
    assert left.steps[0].code == 3
    assert "after" not in left.files


def test_a_panic_is_seen_and_dumped(guest: Guest, tmp_path: Path) -> None:
    left = go(guest, tmp_path, "echo c > /proc/sysrq-trigger", vmcore=lambda end: end is End.PANICKED)
    assert left.end is End.PANICKED
    assert b"Kernel panic - not syncing: sysrq triggered crash" in left.console
    assert left.vmcore
    assert left.vmcore.read_bytes()[:4] == b"\x7fELF"
    assert left.steps[0].code is None


def test_a_hang_is_told_and_brings_out_backtraces(guest: Guest, tmp_path: Path) -> None:
    left = go(guest, tmp_path, "sleep 1000", timeout=1.0)
    assert left.end is End.TIMED_OUT
    assert left.provoked is not None
    provoked = left.console[left.provoked :]
    assert b"sysrq: Show Blocked State" in provoked
    assert b"NMI" in provoked


def test_a_reset_is_told(guest: Guest, tmp_path: Path) -> None:
    assert go(guest, tmp_path, "reboot -f; sleep 10").end is End.SHUT_DOWN


def test_console_is_kept_whole_with_its_times(guest: Guest, tmp_path: Path) -> None:
    left = go(guest, tmp_path, "for i in 1 2 3; do echo line-$i > /dev/kmsg; sleep 0.1; done")
    kept = (tmp_path / "console.log").read_bytes()
    assert kept == left.console
    assert [f"line-{i}" in kept.decode() for i in (1, 2, 3)] == [True] * 3
    rows = [line.split() for line in (tmp_path / "console.log.times").read_text().splitlines()]
    offsets, seconds = [int(row[0]) for row in rows], [float(row[1]) for row in rows]
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    assert seconds == sorted(seconds)


def test_restored_guests_are_no_copies_of_each_other(guest: Guest, tmp_path: Path) -> None:
    drawn = []
    for number in range(2):
        place = tmp_path / str(number)
        place.mkdir()
        go(guest, place, "head -c 16 /dev/urandom | hexdump -v; date +%s")
        drawn.append((place / "output.log").read_text().splitlines())
    assert drawn[0][0] != drawn[1][0]
    assert abs(int(drawn[1][-1]) - time.time()) < 60


def test_a_kernel_that_does_not_come_up(kernel: Kernel) -> None:
    with pytest.raises(BootFailedError) as caught:
        prepare(GuestSpec(kernel.image, kernel.modules, cmdline="rdinit=/nothing root=/dev/nothing"))
    assert b"Kernel panic - not syncing" in caught.value.console


def test_what_is_no_kernel(tmp_path: Path, kernel: Kernel) -> None:
    with pytest.raises(UserError, match="no kernel at"):
        prepare(GuestSpec(tmp_path / "vmlinuz", kernel.modules))
    text = tmp_path / "vmlinuz"
    text.write_text("this is no kernel\n" * 100)
    with pytest.raises(UserError, match="neither a bzImage nor a vmlinux"):
        prepare(GuestSpec(text, kernel.modules))
    with pytest.raises(UserError, match="no kernel at"):
        prepare(GuestSpec(tmp_path, kernel.modules))


def test_a_vmlinux_boots_without_its_wrapping(kernel: Kernel, tmp_path: Path) -> None:
    if kernel.vmlinux is None:
        pytest.skip("no vmlinux at hand: make demo DEBUGINFO=1 fetches one")
    guest = prepare(GuestSpec(kernel.vmlinux, kernel.modules), restore=False)
    assert go(guest, tmp_path, "true").end is End.DONE


def test_many_guests_are_restored_one_after_the_other_and_side_by_side(guest: Guest, tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(24)]
    for place in places:
        place.mkdir()
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda place: go(guest, place, "true").end, places))
    assert ends == [End.DONE] * len(places)


CHILD = """
import sys
from pathlib import Path
from ktriage.kernel import packaged_kernel
from ktriage.machine import GuestSpec, Plan, prepare, run
kernel = packaged_kernel("linux-image-cloud-amd64", headers=True)
guest = prepare(GuestSpec(kernel.image, kernel.modules))
plan = Plan(("step it",), {"ktriage/it": b"echo up > /dev/console; sleep 1000"})
run(guest, plan, Path(sys.argv[1]), timeout=600)
"""


def qemu_of(directory: Path) -> list[int]:
    """Return the QEMU processes whose log is in ``directory``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd/2").readlink() == directory / "qemu.log" and "qemu" in (
                process / "comm"
            ).read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_qemu_outlives_its_parent(guest: Guest, tmp_path: Path, how: signal.Signals) -> None:
    del guest
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], env=environment)
    try:
        deadline = time.monotonic() + 60
        log = tmp_path / "console.log"
        while time.monotonic() < deadline and not (log.exists() and b"up" in log.read_bytes()):
            time.sleep(0.05)
        assert qemu_of(tmp_path)
    finally:
        child.send_signal(how)
        child.wait()
    deadline = time.monotonic() + 10
    while qemu_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert qemu_of(tmp_path) == []
    assert list(temporary.iterdir()) == []


def test_a_disk_that_fills_up_is_the_machines_fault(guest: Guest, tmp_path: Path, small_disk) -> None:
    left = go(guest, small_disk("64k", tmp_path / "small"), "head -c 200000 /dev/zero | tr '\\0' x")
    assert left.end is End.MACHINE_FAILED
    assert "No space left on device" in left.detail
