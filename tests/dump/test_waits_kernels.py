"""The same guests on other kernels: structs and functions change, the answers do not."""

from __future__ import annotations

import os

import pytest
from guests import dump_after

from ktriage.dump import open_vmcore
from ktriage.dump.diagnosis import panicked
from ktriage.dump.teardown import find_teardowns
from ktriage.dump.waits import find_waits
from ktriage.dump.waits_types import Kind
from ktriage.dump.works import find_works
from ktriage.errors import UserError
from ktriage.kernel import Kernel, packaged_kernel
from ktriage.machine import Guest, GuestSpec, prepare

PACKAGES = ["linux-image-6.12-cloud-amd64"]


@pytest.fixture(scope="module", params=PACKAGES)
def other(request) -> tuple[Kernel, Guest]:
    """Return another kernel with its debug information, and a guest on it."""
    try:
        fetch = bool(os.environ.get("KTRIAGE_DEBUGINFO"))
        kernel = packaged_kernel(request.param, headers=True, debuginfo=fetch)
    except UserError as error:
        pytest.skip(error.message)
    if kernel.vmlinux is None:
        pytest.skip(f"no debug information for {kernel.release}: KTRIAGE_DEBUGINFO=1 fetches it")
    return kernel, prepare(GuestSpec(kernel.image, kernel.modules))


@pytest.mark.vm
@pytest.mark.matrix
def test_waits(other, tmp_path):
    kernel, guest = other
    ways = ("abba", "rtnl", "write", "flush", "stop", "dead")
    commands = [f"echo {way} >/proc/standstill" for way in ways]
    dumped = dump_after(guest, kernel, tmp_path / "it", "standstill", commands)
    core = open_vmcore(dumped.vmcore, kernel.vmlinux, dumped.module)
    waits = find_waits(core)
    assert core.notes == []
    found = {wait.task.comm: wait for wait in waits.waits}
    assert found["first"].holders == (found["second"].task,)
    assert found["rtnl-1"].what == "rtnl_mutex"
    assert found["rtnl-1"].holders == (found["rtnl-holder"].task,)
    assert (found["reader"].kind, found["reader"].holders) == (Kind.RWSEM_READ, (found["writer"].task,))
    assert found["flusher"].what == "stuck_work [standstill]"
    assert found["drainer"].what == "workqueue standstill"
    assert found["stopper"].holders == (found["deaf"].task,)
    assert found["bereft"].holders[0].dead
    assert [root.kind for root in waits.roots][:2] == ["deadlock", "dead"]


@pytest.mark.vm
@pytest.mark.matrix
def test_teardown(other, tmp_path):
    kernel, guest = other
    commands = ["ip link set rnic0 up; sleep 0.2", "rmmod resetnic"]
    dumped = dump_after(guest, kernel, tmp_path / "it", "resetnic", commands, parameters="late_irq=1")
    core = open_vmcore(dumped.vmcore, kernel.vmlinux, dumped.module)
    (teardown,) = find_teardowns(core, crashed=panicked(core))
    assert teardown.crashed
    assert teardown.member == "struct resetnic_priv.reset_wk"
    assert teardown.removal.inside == ("netdev_run_todo", "rcu_barrier")
    assert [(c.callee, c.ran) for c in teardown.cancels] == [("cancel_work_sync", True)]
    assert [way.functions[0] for way in teardown.paths] == ["resetnic_intr"]
    has = core.program.symbols("disable_work_sync")
    words = "this kernel has it" if has else "this kernel does not have it"
    assert any("disable_work_sync" in remedy and words in remedy for remedy in teardown.remedies)


@pytest.mark.vm
@pytest.mark.matrix
def test_freed_callbacks_and_a_healthy_guest(other, tmp_path):
    kernel, guest = other
    for way, expected in (("freed", {"tick", "later_work"}), ("later", set())):
        commands = [f"echo {way} >/proc/standstill"]
        dumped = dump_after(guest, kernel, tmp_path / way, "standstill", commands)
        core = open_vmcore(dumped.vmcore, kernel.vmlinux, dumped.module)
        works = find_works(core)
        assert {callback.function.name for callback in works.wrong} == expected
        assert works.stalled == ()
        # A worker may wait for RCU for some milliseconds at any time.
        assert all((root.seconds or 0) < 1 for root in find_waits(core).roots)
