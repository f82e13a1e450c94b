from __future__ import annotations

import pytest
from case_sample import sample_crash

from ktriage.case.trials import load_outcome
from ktriage.console import read_crashes
from ktriage.errors import UserError
from ktriage.trial.outcome import Outcome
from ktriage.words import OutcomeKind

LOG = b"""[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    1.0] #PF: supervisor read access in kernel mode
[    1.0] Oops: 0000 [#1] PREEMPT SMP
[    1.0] CPU: 1 PID: 214 Comm: server Tainted: G           O       6.1.0 #1
[    1.0] RIP: 0010:ulp_stats+0x5c/0x70 [ulp]
[    1.0] RAX: 0000000000000000 RBX: 0000000000000001 RCX: 0000000000000000
[    1.0] Call Trace:
[    1.0]  <TASK>
[    1.0]  tcp_cleanup_ulp+0x1e/0x40
[    1.0]  </TASK>
[    1.0] Modules linked in: ulp(O)
[    1.0] ---[ end trace 0000000000000000 ]---
"""


def test_an_outcome_comes_back_as_it_was_kept(tmp_path):
    (read,) = read_crashes(LOG, "console.log")
    for crash in (sample_crash(), read, None):
        outcome = Outcome(
            OutcomeKind.CRASHED, "T", hunted=True, crash=crash, modules_after="ulp 1 -1 - Live 0x0\n"
        )
        outcome.save(tmp_path)
        assert load_outcome(tmp_path) == outcome


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "sunk"}', '{"kind": "ok", "crash": 5}'])
def test_what_is_no_outcome_is_said(tmp_path, text):
    (tmp_path / "outcome.json").write_text(text)
    with pytest.raises(UserError, match=r"outcome\.json"):
        load_outcome(tmp_path)


def test_no_outcome_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_outcome(tmp_path)
