"""What ``dump show --json`` prints has the fields that the documentation says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from guests import dump_after

from ktriage.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
BY_OTHERS = {"crash"}
"""Kinds that have a table of their own."""


def documented(kind: str) -> set[str]:
    """Return the fields that the row of a kind names, without what is said of them in brackets."""
    (row,) = re.findall(rf"^\|[^|]*\| `{kind}` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    while "(" in row:
        row = re.sub(r" ?\([^()]*\)", "", row)
    fields = row if row.startswith("`") else row.partition(": ")[2]
    if kind == "diagnosis":
        fields = fields.partition(":")[0]  # then come those of a finding
    return {"kind", *re.findall(r"`(\w+)`", fields)}


@pytest.mark.vm
def test_json_has_the_fields_that_its_page_says(guest, debug_kernel, tmp_path, capsys):
    up, on = "ip link set rnic0 up; sleep 0.2", "echo 0 >/proc/sys/kernel/panic_on_oops"
    commands = [on, up, "rmmod resetnic & sleep 1.5"]
    dumped = dump_after(guest, debug_kernel, tmp_path, "resetnic", commands, parameters="late_irq=1")
    assert main([*dumped.arguments, "--json", "all"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = {one["kind"] for one in printed}
    assert {"diagnosis", "summary", "fault", "task", "module", "module-audit", "object-census"} <= kinds
    assert {"root", "wait", "callback", "teardown", "irq", "softirq", "log"} <= kinds
    for one in printed:
        if one["kind"] not in BY_OTHERS:
            assert set(one) == documented(one["kind"]), one["kind"]
