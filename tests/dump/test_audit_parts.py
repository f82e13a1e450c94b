"""Parts of the audit that need no guest."""

from __future__ import annotations

import drgn
import pytest

from ktriage.dump.audit import ModuleAudit
from ktriage.dump.audit_ledger import read_ledger
from ktriage.dump.holders import Holder
from ktriage.dump.holders.lists import once
from ktriage.errors import UserError

X86 = drgn.Platform(drgn.Architecture.X86_64)


def pointers(*addresses: int) -> list[drgn.Object]:
    program = drgn.Program(X86)
    kind = program.pointer_type(program.void_type(), 8)
    return [drgn.Object(program, kind, value=address) for address in addresses]


def test_a_list_that_runs_in_a_circle_ends():
    found = []
    with pytest.raises(ValueError, match="circle at 0x2000"):
        found += [int(one) for one in once(pointers(0x1000, 0x2000, 0x3000, 0x2000))]
    assert [int(one) for one in once(pointers(0x1000, 0x2000))] == [0x1000, 0x2000]
    assert list(once([(1, "a"), (1, "a")])) == [(1, "a"), (1, "a")]


def audit(count: int | None, found: int, lacks: tuple[str, ...] = ()) -> ModuleAudit:
    holder = Holder("m", "file", 0x1000, "struct file", "task 1 (init)", found)
    return ModuleAudit("m", 0x2000, "live", count, (holder,) if found else (), lacks)


@pytest.mark.parametrize(
    ("count", "found", "lacks", "verdict", "unaccounted"),
    [
        (2, 2, (), "exact", 0),
        (0, 0, ("x",), "exact", 0),
        (3, 2, (), "unaccounted", 1),
        (3, 2, ("x",), "uncountable", 1),
        (1, 2, ("x",), "missing", -1),
        (-1, 0, (), "missing", -1),
        (None, 2, (), "none", 0),
    ],
)
def test_verdicts(count, found, lacks, verdict, unaccounted):
    one = audit(count, found, lacks)
    assert (one.verdict, one.unaccounted) == (verdict, unaccounted)
    assert one.to_json()["verdict"] == verdict


def test_a_ledger_is_read_by_module(tmp_path):
    file = tmp_path / "ledger"
    file.write_text(
        '{"object": "a-b", "kind": "module", "holders": [{"function": "f", "count": 2}], "more": 1}\n'
        '\n{"object": "x", "kind": "file"}\n'
    )
    found = read_ledger(file)
    assert list(found) == ["a_b"]
    assert found["a_b"].holders[0].count == 2
    with pytest.raises(UserError, match="absent"):
        read_ledger(tmp_path / "absent")
    file.write_text('{"kind": "module"}\n')
    with pytest.raises(UserError, match="ledger:1: no ledger"):
        read_ledger(file)
