"""A driver whose reset outlives its removal, and callbacks in memory and code that are gone."""

from __future__ import annotations

import json

import pytest
from guests import Dumped, dump_after, opened

from ktriage.cli import main
from ktriage.dump.diagnosis import panicked
from ktriage.dump.teardown import find_teardowns
from ktriage.dump.waits import find_waits
from ktriage.dump.waits_types import Kind
from ktriage.dump.works import find_works

UP = "ip link set rnic0 up; sleep 0.2"
GO_ON = "echo 0 >/proc/sys/kernel/panic_on_oops"


@pytest.fixture(scope="module")
def removed(guest, debug_kernel, tmp_path_factory):
    """Return what dumps a guest after commands on the driver; each once."""
    made: dict[tuple[str, ...], Dumped] = {}

    def remove(parameters: str, *commands: str, module: str = "resetnic") -> Dumped:
        key = (module, parameters, *commands)
        if key not in made:
            folder = tmp_path_factory.mktemp("removed")
            made[key] = dump_after(guest, debug_kernel, folder, module, list(commands), parameters=parameters)
        return made[key]

    return remove


@pytest.fixture
def crash(removed) -> Dumped:
    """The reset runs into what removal has freed, and the kernel panics."""
    return removed("late_irq=1", UP, "rmmod resetnic")


@pytest.fixture
def hang(removed) -> Dumped:
    """As before, but the kernel goes on: without its worker, which held the rtnl."""
    return removed("late_irq=1", GO_ON, UP, "rmmod resetnic & sleep 1.5")


@pytest.fixture
def linger(removed) -> Dumped:
    """The reset waits for the card and holds the rtnl, while the device is removed."""
    return removed("late_irq=1 linger=1", UP, "rmmod resetnic & sleep 1.5")


@pytest.mark.vm
@pytest.mark.parametrize("symbols", [True, False], ids=["with the module's file", "without"])
def test_the_reset_crashes_during_removal(crash, symbols):
    core = opened(crash, symbols=symbols)
    (teardown,) = find_teardowns(core, crashed=panicked(core))
    assert teardown.crashed
    assert teardown.certain
    assert teardown.callback.function.name == "resetnic_reset"
    assert teardown.callback.task.comm.startswith("kworker/")
    assert (teardown.removal.function, teardown.removal.task.comm) == ("resetnic_remove", "rmmod")
    assert teardown.removal.inside == ("netdev_run_todo", "rcu_barrier")
    (cancel,) = teardown.cancels
    assert (cancel.function, cancel.callee, cancel.ran) == ("resetnic_remove", "cancel_work_sync", True)
    (way,) = teardown.paths
    assert way.functions == ("resetnic_intr", "resetnic_intr_handle_misc", "resetnic_schedule_reset")
    assert (way.callee, way.root) == ("queue_work_on", "timer")
    assert way.stopped_by == (("resetnic_stop", "timer_delete_sync"),)
    assert any("disable_work_sync" in r and "does not have it" in r for r in teardown.remedies)
    assert any("has to come after that" in r for r in teardown.remedies)
    assert teardown.member == ("struct resetnic_priv.reset_wk" if symbols else None)


@pytest.mark.vm
def test_modprobe_waits_for_a_barrier_that_the_reset_keeps(crash):
    waits = find_waits(opened(crash))
    (barrier,) = [wait for wait in waits.waits if wait.kind is Kind.RCU_BARRIER]
    assert barrier.task.comm == "rmmod"
    assert barrier.holders[0].comm.startswith("kworker/")
    assert "inside of rcu_read_lock()" in barrier.actor
    assert waits.roots[0].kind == "crashed"
    assert waits.roots[0].tasks == barrier.holders


@pytest.mark.vm
def test_the_summary_leads_with_it(crash, capsys):
    assert main(crash.arguments) == 0
    printed = capsys.readouterr()
    first = "work resetnic_reset() (struct resetnic_priv.reset_wk) crashed while resetnic_remove() tears"
    assert printed.out.startswith(first)
    assert "all 8 elements of priv->queues are NULL" in printed.out
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 120
    assert main([*crash.arguments, "--json", "teardown"]) == 0
    (found,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert found["queued_by"][0]["functions"][0] == "resetnic_intr"
    assert found["cancels"][0]["ran"] is True


@pytest.mark.vm
def test_a_worker_that_died_holds_the_rtnl(hang):
    core = opened(hang)
    waits = find_waits(core)
    (removal,) = [wait for wait in waits.waits if wait.task.comm == "rmmod"]
    assert removal.what == "rtnl_mutex"
    (holder,) = removal.holders
    assert holder.dead
    assert holder.comm.startswith("kworker/0:")
    # Its task_struct is freed, and may be another's by now: the name is the worker's, the pid the log's.
    assert f"PID: {holder.pid} Comm: {holder.comm}" in hang.console
    assert waits.roots[0].kind == "dead"
    works = find_works(core)
    (wrong,) = works.wrong
    assert wrong.function.name == "resetnic_reset"
    assert wrong.task is None
    assert "is dead" in wrong.wrong[0]
    assert all("died in resetnic_reset" in stalled.says for stalled in works.stalled)
    (teardown,) = find_teardowns(core, works)
    assert "died while resetnic_remove()" in teardown.says
    assert teardown.certain


@pytest.mark.vm
def test_who_got_the_dead_workers_memory_is_not_blamed(removed, capsys):
    dumped = removed("late_irq=1", GO_ON, UP, "rmmod resetnic & sleep 1.5; ip link & sleep 0.5")
    waits = find_waits(opened(dumped))
    (ip,) = [wait for wait in waits.waits if wait.task.comm == "ip"]
    # Else the slab gave the memory to someone else, and this says nothing.
    assert ip.task.address in {holder.address for holder in ip.holders}
    (root, *_) = waits.roots
    assert root.kind == "dead"
    assert root.tasks[0].comm.startswith("kworker/0:")
    assert {"ip", "rmmod"} <= {task.comm for task in root.waiters}
    assert main([*dumped.arguments, "waits"]) == 0
    assert "which it holds itself" not in capsys.readouterr().out


@pytest.mark.vm
def test_a_reset_that_lingers_keeps_the_removal_waiting(linger, capsys):
    core = opened(linger)
    (root,) = [r for r in find_waits(core).roots if "rmmod" in {task.comm for task in r.waiters}]
    assert root.tasks[0].comm.startswith("kworker/")
    (teardown,) = find_teardowns(core)
    assert teardown.callback.state == "running"
    assert teardown.certain
    assert main([*linger.arguments, "--json"]) == 0
    diagnosis = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [finding["kind"] for finding in diagnosis["findings"]] == ["teardown", "waits"]


@pytest.mark.vm
def test_the_same_driver_in_order_is_clean(removed, capsys):
    dumped = removed("", UP, "rmmod resetnic")
    core = opened(dumped)
    assert find_teardowns(core) == []
    works = find_works(core)
    assert works.wrong == ()
    assert works.stalled == ()
    assert main([*dumped.arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["findings"] == []


@pytest.mark.vm
def test_callbacks_in_a_freed_object(removed):
    dumped = removed("", "echo freed >/proc/standstill", module="standstill")
    core = opened(dumped)
    works = find_works(core)
    assert {(c.kind, c.function.name) for c in works.wrong} == {
        ("timer", "tick"),
        ("delayed work", "later_work"),
    }
    for callback in works.wrong:
        assert callback.object.free
        assert callback.object.cache == "kmalloc-256"
        assert "inside of a freed object" in callback.wrong[0]
    says = [teardown.says for teardown in find_teardowns(core, works)]
    assert len(says) == 2
    assert all("although its object is freed" in line for line in says)


@pytest.mark.vm
def test_callbacks_of_a_module_that_is_gone(removed):
    dumped = removed("", "echo later >/proc/standstill; rmmod standstill", module="standstill")
    works = find_works(opened(dumped, symbols=False))
    assert {c.kind for c in works.wrong} == {"timer", "delayed work"}
    for callback in works.wrong:
        assert callback.function.gone
        assert "the module unloaded last is standstill" in callback.wrong[0]


@pytest.mark.vm
def test_a_timer_that_called_code_that_is_gone(removed, capsys):
    dumped = removed("", "echo soon >/proc/standstill; rmmod standstill; sleep 2", module="standstill")
    assert main(dumped.arguments) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("timer at 0x")
    assert first.endswith("crashed although the module with its code is gone (unloaded last: standstill)")


@pytest.mark.vm
def test_a_work_that_waits_is_no_fault(removed):
    dumped = removed("", "echo later >/proc/standstill", module="standstill")
    works = find_works(opened(dumped))
    ours = {(c.kind, c.state, c.workqueue): c for c in works.callbacks if c.function.module == "standstill"}
    assert set(ours) == {("timer", "armed", None), ("delayed work", "armed", "standstill")}
    assert all(990 < callback.seconds <= 1000 for callback in ours.values())
    assert works.wrong == ()


def left(removed, what: str, *, gone: bool = False, later: int = 100_000):
    """Return the dump of a guest whose module left ``what`` behind when it was removed."""
    wedge = "" if gone else " wedge=1"
    parameters = f"leave={what} later={later}{wedge}"
    return removed(parameters, "rmmod straggler & sleep 1", module="straggler")


@pytest.mark.vm
def test_a_timer_that_its_work_armed_again(removed):
    (teardown,) = find_teardowns(opened(left(removed, "timer")))
    # The object is freed, and may be another's by now: function and all.
    assert teardown.freed
    assert teardown.certain
    assert teardown.callback.kind == "timer"
    assert teardown.member == "struct straggler.watchdog"
    assert ("straggler_refill",) in [way.functions for way in teardown.paths]
    assert {cancel.callee for cancel in teardown.cancels} == {"timer_delete_sync"}
    assert any("timer_shutdown_sync" in remedy for remedy in teardown.remedies)


@pytest.mark.vm
@pytest.mark.matrix
def test_a_delayed_work_that_queues_itself(removed):
    (teardown,) = find_teardowns(opened(left(removed, "delayed")))
    assert (teardown.callback.kind, teardown.freed) == ("delayed work", True)
    assert teardown.member == "struct straggler.poll_dw"
    assert {cancel.callee for cancel in teardown.cancels} == {
        "cancel_delayed_work",
        "cancel_delayed_work_sync",
    }
    assert any("disable_delayed_work_sync" in remedy for remedy in teardown.remedies)


@pytest.mark.vm
@pytest.mark.matrix
def test_a_high_resolution_timer_in_freed_memory(removed):
    # It may already have brought the tree of timers down: what is left of that is walked.
    (teardown,) = find_teardowns(opened(left(removed, "hrtimer")))
    assert (teardown.callback.kind, teardown.freed) == ("hrtimer", True)
    assert [way.callee for way in teardown.paths] == ["hrtimer_start_range_ns"]
    assert "nothing in the module cancels it" in teardown.remedies


@pytest.mark.vm
@pytest.mark.matrix
def test_a_work_of_the_module_itself(removed):
    (teardown,) = find_teardowns(opened(left(removed, "static")))
    assert teardown.callback.function.name == "straggler_static"
    assert teardown.callback.state == "running"
    assert teardown.certain
    assert teardown.removal.task.comm == "rmmod"


@pytest.mark.vm
def test_an_interrupt_thread_that_removal_waits_for(removed):
    dumped = removed("leave=thread", "rmmod straggler & sleep 1", module="straggler")
    core = opened(dumped)
    (teardown,) = find_teardowns(core)
    assert teardown.callback.kind == "interrupt thread"
    assert teardown.callback.function.name == "straggler_thread"
    assert teardown.removal.inside == ("free_irq", "kthread_stop")
    (cancel,) = teardown.cancels
    assert (cancel.callee, cancel.ran) == ("free_irq", False)
    # What has yet to be cancelled, in order, is no finding: the timer and the work are still armed.
    assert {c.function.name for c in find_works(core).callbacks} >= {"straggler_poll", "straggler_watchdog"}
    (root,) = [r for r in find_waits(core).roots if "rmmod" in {task.comm for task in r.waiters}]
    assert root.tasks[0].comm.startswith("irq/")


@pytest.mark.vm
@pytest.mark.matrix
@pytest.mark.parametrize("gone", [False, True], ids=["removal hangs", "module gone"])
def test_a_timer_that_fires_on_freed_memory(removed, gone):
    wedge = "" if gone else " wedge=1"
    dumped = removed(f"leave=timer later=500{wedge}", "rmmod straggler & sleep 3", module="straggler")
    core = opened(dumped)
    teardown = find_teardowns(core, crashed=panicked(core))[0]
    assert teardown.crashed
    assert teardown.callback.kind == "timer"
    assert "crashed in an object that is freed" in teardown.says


@pytest.mark.vm
@pytest.mark.matrix
def test_an_object_that_is_too_large_for_a_slab(removed):
    parameters = "large=1 leave={} later=100000 wedge=1"
    (teardown,) = find_teardowns(
        opened(removed(parameters.format("timer"), "rmmod straggler & sleep 1", module="straggler"))
    )
    assert teardown.freed
    assert teardown.callback.object.cache == "pages"
    loaded = opened(removed(parameters.format("nothing"), "true", module="straggler"))
    ours = [c for c in find_works(loaded).callbacks if c.function.module == "straggler"]
    assert len(ours) == 2
    assert all((c.object.cache, c.object.free, c.object.size) == ("pages", False, 65536) for c in ours)
    assert find_works(loaded).wrong == ()


@pytest.mark.vm
@pytest.mark.parametrize("symbols", [True, False], ids=["with the module's file", "without"])
def test_a_cancel_in_a_function_that_removal_has_called(removed, symbols):
    dumped = removed("leave=late later=100000", "rmmod straggler & sleep 1", module="straggler")
    (teardown,) = find_teardowns(opened(dumped, symbols=symbols))
    assert (teardown.callback.kind, teardown.freed) == ("delayed work", False)
    ran = {(cancel.function, cancel.ran) for cancel in teardown.cancels}
    assert ("straggler_stop", True) in ran
    assert ("straggler_exit", True) not in ran
    assert "after cancel_delayed_work_sync() on it had returned" in teardown.says
    assert "straggler_poll" in {way.functions[0] for way in teardown.paths}
