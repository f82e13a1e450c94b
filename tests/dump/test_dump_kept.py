"""What a case store keeps of a dump is all that its reports say."""

from __future__ import annotations

import pytest
from guests import dump_after

from ktriage.case.findings import show
from ktriage.case.store import open_store
from ktriage.case.store.types import FindingKind
from ktriage.cli import main


@pytest.mark.vm
def test_a_dump_is_kept_with_its_bug(guest, debug_kernel, tmp_path, capsys):
    commands = ["ip link set rnic0 up; sleep 0.2", "rmmod resetnic"]
    dumped = dump_after(guest, debug_kernel, tmp_path / "it", "resetnic", commands, parameters="late_irq=1")
    place = str(tmp_path / "case.db")
    assert main([*dumped.arguments, "summary", "--case", place]) == 0
    capsys.readouterr()
    store = open_store(place)
    (finding,) = store.findings(kind=FindingKind.DUMP)
    assert store.bug(finding.bug or 0).title.endswith("in resetnic_init_rings")
    kept = show(finding, store.blob).document
    assert kept.diagnosis.findings[0].says == finding.summary
    assert "resetnic_reset() (struct resetnic_priv.reset_wk) crashed" in finding.summary
    assert (kept.fault.access, kept.fault.target) == ("write", "queue->head")
    assert [link.expression for link in kept.fault.chain] == ["priv->queues[0]", "priv"]
    assert kept.summary.release == debug_kernel.release
    assert {"mutex", "rcu_barrier"} & {wait.waits_for for wait in kept.waits}
    assert kept.roots[0].root == "crashed"
    (teardown,) = kept.teardowns
    assert teardown.certain
    assert teardown.queued_by[0].functions[0] == "resetnic_intr"
    assert kept.audited
    assert kept.module_count > 5
    assert "resetnic" in {one.module for one in kept.dangling}
    (entry,) = store.crashes(finding.bug or 0)
    assert entry.report
