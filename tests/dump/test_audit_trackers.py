"""References to network devices that the kernel's own trackers tell of: on a kernel that has these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from audit_cases import built

from ktriage.cli import main
from ktriage.dump.audit import Audit, audit
from ktriage.dump.core import open_vmcore
from ktriage.kernel import Kernel
from ktriage.kernel.config import GUEST, Config
from ktriage.kernel.tree import build_tree, packaged_source
from ktriage.machine import End, GuestSpec, Plan, prepare, run

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(3600)]

FRAGMENT = Path(__file__).parents[1] / "fixtures/refs/kernel.config"
SETUP = [
    "insmod /dummy.ko numdummies=0; insmod /keeper.ko",
    "for d in d0 d1; do ip link add $d type dummy; ip link set $d up; done",
    "ip addr add 10.0.0.1/24 dev d0; ip addr add 10.0.1.1/24 dev d1",
    # It gives back what it takes of a device that is up, and keeps what it takes of one that is down.
    "echo d0 > /proc/keeper; echo d1 > /proc/keeper; ip link set d0 down; sleep 1",
    "for n in 1 2; do echo d0 > /proc/keeper || true; done",
]


@dataclass(frozen=True)
class Case:
    """A dump, its audit, and what opens it on the command line."""

    audit: Audit
    arguments: list[str]


@pytest.fixture(scope="module")
def own() -> Kernel:
    """Return the small kernel with trackers that references are recorded on, too."""
    build = build_tree(packaged_source("linux-source-6.1"), Config("small", (GUEST, FRAGMENT.read_text())))
    assert build.kernel, build.error
    return build.kernel


def audited(own: Kernel, folder: Path, commands: list[str]) -> Case:
    assert own.headers
    assert own.vmlinux
    dummy, keeper = own.headers / "drivers/net/dummy.ko", built(own, "keeper")
    files: dict[str, bytes | Path] = {"dummy.ko": dummy, "keeper.ko": keeper}
    lines = []
    for number, command in enumerate(commands):
        files[f"ktriage/step-{number}"] = f"set -e\n{command}\n".encode()
        lines.append(f"step step-{number}")
    guest = prepare(GuestSpec(own.image, memory_mib=256))
    left = run(guest, Plan(tuple(lines), files), folder, timeout=60, vmcore=lambda _: True)
    assert left.end is End.DONE, left.detail
    assert [step.code for step in left.steps] == [0] * len(commands), (folder / "output.log").read_text()
    assert left.vmcore
    core = open_vmcore(left.vmcore, own.vmlinux, [dummy, keeper])
    words = ["dump", "show", str(left.vmcore), "--vmlinux", str(own.vmlinux)]
    case = Case(audit(core), [*words, "--modules", str(dummy), "--modules", str(keeper)])
    assert core.notes == []
    return case


def test_the_holder_is_named_with_its_stack(own: Kernel, tmp_path: Path, capsys) -> None:
    case = audited(own, tmp_path, SETUP)
    devices = [one for census in case.audit.objects for one in census.found if one.kind == "net_device"]
    (kept,) = [one for one in devices if one.verdict != "busy"]
    assert (kept.name, kept.verdict, kept.count - kept.accounted) == ("d0", "unaccounted", 2)
    # What is accounted for is tracked, too, and not told: only what keeper did not give back is.
    (tracked,) = kept.tracked
    assert tracked.count == 2
    assert tracked.stack[:2] == ("keeper_look [keeper]", "keeper_write [keeper]")
    assert "vfs_write" in tracked.stack
    assert len(tracked.objects) == 2
    assert all(one.startswith("kmalloc-8 object at 0xffff") for one in tracked.objects)
    assert main([*case.arguments, "audit"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 nobody found for; taken in keeper_look [keeper] ← keeper_write [keeper]" in said


def test_a_device_on_its_way_out(own: Kernel, tmp_path: Path) -> None:
    go = "ip link del d0 & sleep 2"
    case = audited(own, tmp_path, [*SETUP, go])
    devices = [one for census in case.audit.objects for one in census.found if one.kind == "net_device"]
    (kept,) = [one for one in devices if one.name == "d0"]
    assert (kept.verdict, kept.note.split("; ")[0]) == ("leaked", "unregistered")
    assert [(one.stack[0], one.count) for one in kept.tracked] == [("keeper_look [keeper]", 2)]


def test_what_all_hold_is_found(own: Kernel, tmp_path: Path) -> None:
    case = audited(own, tmp_path, SETUP[:3])
    devices = [one for census in case.audit.objects for one in census.found if one.kind == "net_device"]
    assert devices == []
