"""The demo's own crashes, read: what a lost module reference looks like on the console."""

from __future__ import annotations

from pathlib import Path

from ktriage.console import Crash, read_crashes

LOGS = Path(__file__).parents[1] / "fixtures" / "demo"


def crashes(name: str) -> list[Crash]:
    return read_crashes((LOGS / f"{name}.log").read_bytes(), source=name)


def test_a_reference_that_was_put_and_never_got() -> None:
    first, *others = crashes("module-put")
    assert first.title == "WARNING in module_put"
    assert first.corrupted is None
    assert first.comm == "ulp-storm"
    assert first.kernel == "6.1.0-56-cloud-amd64"
    functions = [frame.function for frame in first.stack if frame.reliable]
    assert functions[:3] == ["module_put", "tcp_cleanup_ulp", "tcp_v4_destroy_sock"]
    assert functions[-1] == "entry_SYSCALL_64_after_hwframe"
    assert first.refcount is not None
    assert first.refcount.kind == "put-unheld"
    assert "ulp_tally" in first.modules
    assert {crash.title for crash in others} <= {"WARNING in module_put"}


def test_the_other_bug_is_another_one() -> None:
    first = crashes("tally-check")[0]
    assert first.title == "WARNING in tally_check"
    assert first.stack[0].module == "ulp_tally"


def test_a_module_that_dies_at_load() -> None:
    found = crashes("dies-at-load")
    assert found[0].title == "BUG: unable to handle kernel NULL pointer dereference in tally_check"
    assert found[0].type == "NULL-POINTER-DEREFERENCE"
    assert found[0].registers
    assert all(crash.cause == 0 for crash in found[1:])
