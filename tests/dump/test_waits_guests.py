"""Guests that stand still, each in a way of its own: who waits for whom, and by what that is known."""

from __future__ import annotations

import json

import pytest
from guests import Dumped, dump_after, opened

from ktriage.cli import main
from ktriage.dump.waits import by_stack, find_waits
from ktriage.dump.waits_types import Kind, Waits
from ktriage.machine import GuestSpec, prepare

MANY = ("completion", "queue", "write", "semaphore", "dead", "stop", "flush", "twice", "page")
"""Ways that do not come into each other's."""


@pytest.fixture(scope="module")
def stands(guest, debug_kernel, tmp_path_factory):
    """Return what dumps a guest that was told to stand still in a way; each way once."""
    made: dict[str, Dumped] = {}

    def stand(*ways: str, then: str = "true") -> Dumped:
        key = " ".join((*ways, then))
        if key not in made:
            commands = [f"echo {way} >/proc/standstill" for way in ways]
            folder = tmp_path_factory.mktemp("stands")
            made[key] = dump_after(guest, debug_kernel, folder, "standstill", [*commands, then])
        return made[key]

    return stand


def waits_of(dumped: Dumped, *, symbols: bool = True) -> Waits:
    """Read the waits; nothing may be left unread."""
    core = opened(dumped, symbols=symbols)
    core.notes.clear()  # without the module's file that is said
    waits = find_waits(core)
    assert core.notes == []
    return waits


def the(waits: Waits, comm: str):
    """Return the one task of that name that waits."""
    (wait,) = [wait for wait in waits.waits if wait.task.comm == comm]
    return wait


@pytest.mark.vm
def test_a_healthy_guest_has_nobody_blocked(stands):
    waits = waits_of(stands())
    # A worker may wait for RCU for some milliseconds at any time.
    assert all((root.seconds or 0) < 1 and root.kind not in ("deadlock", "dead") for root in waits.roots)
    assert waits.held == ()
    assert waits.asleep > 5


@pytest.mark.vm
@pytest.mark.parametrize("symbols", [True, False], ids=["with the module's file", "without"])
def test_two_locks_in_two_orders_are_a_deadlock(stands, symbols):
    waits = waits_of(stands("abba", "read"), symbols=symbols)
    first, second = the(waits, "first"), the(waits, "second")
    assert first.kind is second.kind is Kind.MUTEX
    assert first.what.startswith("lock_b")
    assert second.what.startswith("lock_a")
    assert [h.comm for h in first.holders] == ["second"]
    assert [h.comm for h in second.holders] == ["first"]
    # Both ways to the lock's address were gone, and they agree.
    assert any("struct mutex_waiter" in e for e in first.evidence)
    assert any("lock of __mutex_lock" in e and f"{first.address:#x}" in e for e in first.evidence)
    root = waits.roots[0]
    assert root.kind == "deadlock"
    assert {task.comm for task in root.tasks} == {"first", "second"}


@pytest.mark.vm
def test_a_lost_completion_and_a_queue_that_nobody_wakes(stands):
    waits = waits_of(stands(*MANY))
    lost, queued = the(waits, "forgotten"), the(waits, "queued")
    assert (lost.kind, lost.what) == (Kind.COMPLETION, "never [standstill]")
    assert (queued.kind, queued.what) == (Kind.WAIT_QUEUE, "nobody_wakes [standstill]")
    assert lost.holders == queued.holders == ()
    assert {root.kind for root in waits.roots if lost.task in root.tasks} == {"unknown"}


@pytest.mark.vm
def test_a_pile_up_on_the_rtnl_leads_to_its_holder(stands):
    waits = waits_of(stands("rtnl"))
    piled = [wait for wait in waits.waits if wait.what == "rtnl_mutex"]
    assert [wait.task.comm for wait in piled] == ["rtnl-1", "rtnl-2", "rtnl-3"]
    assert {wait.holders[0].comm for wait in piled} == {"rtnl-holder"}
    assert [(name, task.comm) for name, task in waits.held] == [("rtnl_mutex", "rtnl-holder")]
    (root,) = [root for root in waits.roots if piled[0].task in root.waiters]
    assert [task.comm for task in root.tasks] == ["rtnl-holder"]
    assert len(root.waiters) == 4
    assert "never [standstill]" in root.says
    assert len(by_stack(waits.waits)[0]) == 3


@pytest.mark.vm
@pytest.mark.parametrize(
    ("ways", "waiter", "kind", "holder"),
    [
        (("abba", "read"), "writer", Kind.RWSEM_WRITE, "reader"),
        (MANY, "reader", Kind.RWSEM_READ, "writer"),
    ],
    ids=["to write", "to read"],
)
def test_read_write_semaphores(stands, ways, waiter, kind, holder):
    wait = the(waits_of(stands(*ways)), waiter)
    assert (wait.kind, wait.what) == (kind, "sem_rw [standstill]")
    assert [task.comm for task in wait.holders] == [holder]
    assert any("struct rwsem_waiter" in e for e in wait.evidence)


@pytest.mark.vm
def test_a_semaphore_has_no_owner(stands):
    wait = the(waits_of(stands(*MANY)), "downs")
    assert (wait.kind, wait.what) == (Kind.SEMAPHORE, "sem_counting [standstill]")
    assert wait.holders == ()
    assert "does not record" in wait.actor


@pytest.mark.vm
def test_a_lock_whose_holder_has_ended(stands):
    waits = waits_of(stands(*MANY))
    wait = the(waits, "bereft")
    assert [(task.comm, task.dead) for task in wait.holders] == [("dead-holder", True)]
    (root,) = [root for root in waits.roots if root.kind == "dead"]
    assert root.tasks == wait.holders
    assert "kmalloc-256" in wait.what


@pytest.mark.vm
def test_a_lock_taken_twice_is_a_deadlock_of_one(stands):
    waits = waits_of(stands(*MANY))
    wait = the(waits, "narcissus")
    assert wait.holders == (wait.task,)
    assert waits.roots[0].kind == "deadlock"
    assert waits.roots[0].tasks == (wait.task,)
    assert "which it holds itself" in waits.roots[0].says


@pytest.mark.vm
def test_a_page_does_not_say_who_locked_it(stands):
    wait = the(waits_of(stands(*MANY)), "page-locker")
    assert wait.kind is Kind.PAGE
    assert wait.what == f"folio {wait.address:#x}"
    assert wait.holders == ()


@pytest.mark.vm
def test_the_last_reference_to_a_network_device(guest, debug_kernel, tmp_path):
    commands = ["rmmod resetnic & sleep 1"]
    dumped = dump_after(guest, debug_kernel, tmp_path / "it", "resetnic", commands, parameters="leak=1")
    wait = the(waits_of(dumped), "rmmod")
    assert (wait.kind, wait.what) == (Kind.NETDEV, "rnic0")
    assert "does not record who" in wait.actor


@pytest.mark.vm
def test_kthread_stop_waits_for_the_thread(stands):
    waits = waits_of(stands(*MANY))
    wait = the(waits, "stopper")
    assert wait.kind is Kind.KTHREAD_STOP
    assert [task.comm for task in wait.holders] == ["deaf"]
    assert any(wait.holders[0] in root.tasks and wait.task in root.waiters for root in waits.roots)


@pytest.mark.vm
def test_flushes_lead_to_the_worker(stands):
    waits = waits_of(stands(*MANY))
    flush, drain = the(waits, "flusher"), the(waits, "drainer")
    assert (flush.kind, flush.what) == (Kind.WORK, "stuck_work [standstill]")
    assert (drain.kind, drain.what) == (Kind.WORKQUEUE, "workqueue standstill")
    assert flush.holders == drain.holders
    assert flush.holders[0].comm.startswith("kworker/")
    assert any("struct wq_barrier" in e for e in flush.evidence)
    (root,) = [root for root in waits.roots if flush.task in root.waiters]
    assert flush.holders[0] in root.tasks


@pytest.mark.vm
def test_rcu_waits_lead_to_the_reader(kernel, debug_kernel, tmp_path):
    two = prepare(GuestSpec(kernel.image, kernel.modules, cpus=2))
    dumped = dump_after(two, debug_kernel, tmp_path / "rcu", "standstill", ["echo rcu >/proc/standstill"])
    waits = waits_of(dumped)
    grace, barrier = the(waits, "synchronizer"), the(waits, "barrier")
    assert grace.kind is Kind.GRACE_PERIOD
    assert barrier.kind is Kind.RCU_BARRIER
    for wait in (grace, barrier):
        assert [task.comm for task in wait.holders] == ["rcu-holder"]
        assert "CPU 1" in wait.actor
    (root,) = [root for root in waits.roots if grace.task in root.waiters]
    assert (root.kind, root.tasks[0].comm) == ("running", "rcu-holder")


@pytest.mark.vm
def test_the_command_prints_the_tree(stands, capsys):
    dumped = stands("rtnl")
    assert main([*dumped.arguments, "waits"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert "tasks are blocked; " in lines[0]
    holder = next(i for i, line in enumerate(lines) if line.startswith("  rtnl-holder"))
    assert lines[holder + 2].startswith("    rtnl-1")
    assert "3 x rtnl-1" in printed.out
    assert printed.err == ""
    assert max(map(len, lines)) <= 110
    assert main([*dumped.arguments, "--json", "waits"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {item["kind"] for item in found} == {"root", "wait"}
    roots = [item["tasks"][0]["comm"] for item in found if item["kind"] == "root"]
    assert "rtnl-holder" in roots


@pytest.mark.vm
def test_a_panic_that_was_asked_for_leads_with_the_deadlock(stands, capsys):
    dumped = stands("abba", then="echo c >/proc/sysrq-trigger")
    assert main([*dumped.arguments, "--json"]) == 0
    diagnosis = json.loads(capsys.readouterr().out.splitlines()[0])
    assert "SysRq" in diagnosis["asked"]
    assert diagnosis["findings"][0]["kind"] == "waits"
    assert diagnosis["findings"][0]["says"].startswith("deadlock: ")
    assert main(dumped.arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("deadlock: ")
    assert "someone asked for it by SysRq c: the task that panicked is not to blame" in printed
