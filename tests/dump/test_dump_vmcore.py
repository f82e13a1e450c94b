"""A real guest's memory, read: its modules must stand as /proc/modules said they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktriage.case.modules import parse_modules
from ktriage.cli import main
from ktriage.dump import (
    log_text,
    module_state,
    module_states,
    open_vmcore,
    read_log,
    running_tasks,
    summarize,
    tasks,
)
from ktriage.errors import UserError
from ktriage.jobs.labs import open_lab
from ktriage.kernel import Kernel
from ktriage.symbols.program import read_layout
from ktriage.trial import Outcome, load_spec

MODULE = Path(__file__).parents[1] / "modules" / "misbehave"

SPEC = """
[kernel]
package = "linux-image-cloud-amd64"
[module]
name = "misbehave"
source = "{source}"
[run]
commands = ["echo warn >/proc/misbehave", "echo put >/proc/misbehave"]
vmcore = "crashed"
[hunted]
module_count_below_zero = ["misbehave"]
"""


@pytest.fixture(scope="module")
def dumped(debug_kernel: Kernel, tmp_path_factory) -> tuple[Outcome, Kernel, Path]:
    """A guest in which a module warned and put a reference too many: outcome, kernel, module file."""
    folder = tmp_path_factory.mktemp("dump")
    (folder / "ktriage.toml").write_text(SPEC.format(source=MODULE))
    lab = open_lab(load_spec(folder / "ktriage.toml"), folder / "trials")
    outcome, build = lab.trial("it", None)
    assert outcome.vmcore, outcome
    assert build
    assert build.module
    return outcome, debug_kernel, build.module


@pytest.mark.vm
def test_modules_stand_as_proc_modules_said(dumped):
    outcome, kernel, _ = dumped
    core = open_vmcore(Path(outcome.vmcore), kernel.vmlinux)
    said = {
        name: (int(count), users) for name, (count, users) in parse_modules(outcome.modules_after).items()
    }
    found = {m.name: (m.refcnt, ",".join(m.users)) for m in module_states(core)}
    assert found == said
    assert found["misbehave"][0] == -1
    assert core.notes == []


@pytest.mark.vm
def test_the_module_in_full(dumped):
    outcome, kernel, file = dumped
    core = open_vmcore(Path(outcome.vmcore), kernel.vmlinux, file)
    state = module_state(core, "misbehave")
    assert (state.state, state.refcnt_raw, state.refcnt) == ("live", 0, -1)
    assert state.taints == "OE"
    assert state.build_id == read_layout(file).build_id
    ((_, start, end),) = state.ranges
    assert start <= state.address < end
    assert start <= state.exit < end
    line = next(line for line in outcome.modules_after.splitlines() if line.startswith("misbehave "))
    assert state.size == int(line.split()[1])
    # The module's own symbols are at the addresses that it had in the guest.
    (symbol,) = core.program.symbols("misbehave_warn")
    assert start <= symbol.address < end
    with pytest.raises(UserError, match="no module 'absent'"):
        module_state(core, "absent")


@pytest.mark.vm
def test_log_and_summary(dumped):
    outcome, kernel, _ = dumped
    core = open_vmcore(Path(outcome.vmcore), kernel.vmlinux)
    summary, crashes, lines = summarize(core)
    assert summary.release == kernel.release
    assert summary.panic is None
    assert 1 <= summary.tasks < 1000
    assert {"O", "W"} <= set(summary.taints)
    assert [crash.title for crash in crashes] == ["WARNING in misbehave_warn"]
    assert lines == read_log(core.program)
    # What the console printed last stands in the log, too.
    console = (Path(outcome.directory) / "console.log").read_text(errors="replace")
    last = [line for line in console.replace("\r", "").splitlines() if "end trace" in line][-1]
    assert last.split("] ", 1)[-1] in log_text(lines)


@pytest.mark.vm
def test_tasks_and_their_stacks(dumped):
    outcome, kernel, _ = dumped
    core = open_vmcore(Path(outcome.vmcore), kernel.vmlinux)
    found = {task.pid: task for task in tasks(core)}
    assert (found[2].comm, found[2].kernel, found[1].kernel) == ("kthreadd", True, False)
    assert found[2].waits_in == "kthreadd"
    names = [frame.function for frame in found[2].stack]
    assert names.index("__schedule") < names.index("kthreadd") < names.index("ret_from_fork")
    assert all(frame.file and frame.line for frame in found[2].stack)
    assert all(frame.offset is not None for frame in found[1].stack if not frame.inline)
    assert [task.cpu for task in running_tasks(core)] == [0]
    assert core.notes == []


@pytest.mark.vm
def test_what_a_hung_guest_was_doing(debug_kernel, tmp_path, capsys):
    text = SPEC.format(source=MODULE).replace('"echo warn >/proc/misbehave", "echo put', '"echo spin')
    (tmp_path / "ktriage.toml").write_text(text.replace("[run]", "[run]\ntimeout = 10"))
    lab = open_lab(load_spec(tmp_path / "ktriage.toml"), tmp_path / "trials")
    outcome, build = lab.trial("it", None)
    assert outcome.kind == "hung", outcome
    base = [
        "dump",
        "show",
        outcome.vmcore,
        "--vmlinux",
        str(debug_kernel.vmlinux),
        "--modules",
        str(build.module),
    ]
    assert main([*base, "--json", "bt"]) == 0
    (task,) = map(json.loads, capsys.readouterr().out.splitlines())
    spinning = next(frame for frame in task["stack"] if frame["function"] == "misbehave_spin")
    assert spinning["module"] == "misbehave"
    source = (MODULE / "misbehave.c").read_text().splitlines()
    start = next(n for n, line in enumerate(source, 1) if "misbehave_spin(void)" in line)
    assert start < spinning["line"] <= start + 6
    assert main([*base, "bt", "--task", "nobody"]) == 2
    assert main([*base, "bt", "--all"]) == 0
    assert "kthreadd (2)" in capsys.readouterr().out


@pytest.mark.vm
def test_command(dumped, capsys):
    outcome, kernel, file = dumped
    base = ["dump", "show", outcome.vmcore, "--vmlinux", str(kernel.vmlinux), "--modules", str(file)]
    assert main([*base, "--json"]) == 0
    diagnosis, _, crash = map(json.loads, capsys.readouterr().out.splitlines())
    assert diagnosis["findings"][0]["says"] == "WARNING in misbehave_warn"
    frame = next(frame for frame in crash["stack"] if frame["function"] == "misbehave_warn")
    source = (MODULE / "misbehave.c").read_text().splitlines()
    assert "WARN(1" in source[frame["line"] - 1]
    assert main([*base, "--json", "modules"]) == 0
    modules = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert next(m["refcnt"] for m in modules if m["name"] == "misbehave") == -1
    for report, word in (
        ("summary", "misbehave_warn+"),
        ("modules", "misbehave "),
        ("log", "misbehave"),
        ("tasks", "kthreadd"),
    ):
        assert main([*base, report]) == 0
        printed = capsys.readouterr()
        assert word in printed.out
        assert "\x1b" not in printed.out
        assert printed.err == ""


@pytest.mark.vm
def test_wrong_and_missing_debug_information(dumped, tmp_path, capsys):
    outcome, kernel, _ = dumped
    assert main(["dump", "show", outcome.vmcore, "--vmlinux", str(tmp_path / "absent")]) == 2
    assert "no such file" in capsys.readouterr().err
    # A vmlinux of the wrong kernel: the module file is an ELF file with another build id.
    assert main(["dump", "show", outcome.vmcore, "--vmlinux", str(dumped[2])]) == 2
    said = capsys.readouterr().err
    assert "not the kernel of" in said
    assert f"linux-image-{kernel.release}-dbg" in said
    assert said.count("\n") == 1


@pytest.mark.vm
def test_a_dump_cut_in_half_is_read_as_far_as_it_goes(dumped, tmp_path):
    outcome, kernel, _ = dumped
    half = tmp_path / "half"
    size = Path(outcome.vmcore).stat().st_size
    with Path(outcome.vmcore).open("rb") as whole, half.open("wb") as part:
        part.write(whole.read(size // 2))
    core = open_vmcore(half, kernel.vmlinux)
    summarize(core)
    module_states(core)
    assert "cut short" in core.notes[0]


@pytest.mark.vm
def test_a_dump_with_flipped_bytes_raises_nothing_but_ours(dumped, tmp_path):
    outcome, kernel, _ = dumped
    data = bytearray(Path(outcome.vmcore).read_bytes())
    head = 0x2000
    for place in range(head, len(data), 4099):
        data[place] ^= 0x5A
    path = tmp_path / "flipped"
    path.write_bytes(data)
    core = open_vmcore(path, kernel.vmlinux)
    summarize(core)
    module_states(core)


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\xff" * 300])
def test_what_is_no_dump_is_said(tmp_path, content):
    path = tmp_path / "vmcore"
    path.write_bytes(content)
    with pytest.raises(UserError, match="vmcore: "):
        open_vmcore(path)


def test_bad_input_is_one_line_and_exit_2(tmp_path, capsys):
    for arguments in (
        ["show", str(tmp_path)],
        ["show", str(tmp_path / "absent")],
        ["show"],
        [],
        ["show", "x", "nonsense"],
    ):
        try:
            code = main(["dump", *arguments])
        except SystemExit as stop:
            code = stop.code
        assert code == 2, arguments
        assert capsys.readouterr().err.count("\n") == 1
