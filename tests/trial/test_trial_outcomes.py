"""Trials in real guests, with a module that goes wrong on request: each outcome is told from the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktriage.errors import UserError
from ktriage.jobs.lab import Lab, run_result
from ktriage.jobs.labs import open_lab
from ktriage.jobs.repro import measure_rate
from ktriage.trial import Outcome, load_spec
from ktriage.trial.judge import module_counts
from ktriage.trial.rate import rate_interval
from ktriage.words import OutcomeKind

MODULE = Path(__file__).parents[1] / "modules" / "misbehave"

SPEC = """
[kernel]
package = "linux-image-cloud-amd64"
[module]
name = "misbehave"
source = "{source}"
parameters = "{parameters}"
[run]
commands = [{commands}]
timeout = {timeout}
vmcore = "{vmcore}"
[hunted]
titles = ["WARNING in misbehave_warn"]
module_count_below_zero = ["misbehave"]
hang = {hang}
"""


@pytest.fixture
def trial(tmp_path: Path):
    """Return a function that runs commands in a guest with the module loaded."""

    def go(
        *commands: str, parameters: str = "", timeout: float = 20.0, hang: bool = False, vmcore: str = "never"
    ) -> tuple[Outcome, Lab]:
        text = SPEC.format(
            source=MODULE,
            parameters=parameters,
            commands=", ".join(json.dumps(command) for command in commands),
            timeout=timeout,
            hang=str(hang).lower(),
            vmcore=vmcore,
        )
        path = tmp_path / "ktriage.toml"
        path.write_text(text)
        lab = open_lab(load_spec(path), tmp_path / "trials")
        return lab.trial("it", None)[0], lab

    return go


@pytest.mark.vm
def test_nothing_happens(trial) -> None:
    outcome, lab = trial("true")
    assert outcome.kind is OutcomeKind.OK
    assert not outcome.hunted
    assert module_counts(outcome.modules_before)["misbehave"] == 0
    kept = json.loads((lab.directory / "it" / "outcome.json").read_text())
    assert kept["kind"] == "ok"
    assert kept["seconds"]["guest"] < kept["seconds"]["run"]


@pytest.mark.vm
def test_the_hunted_crash(trial) -> None:
    outcome, lab = trial("echo warn > /proc/misbehave")
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.title == "WARNING in misbehave_warn"
    assert outcome.crash
    assert [frame.function for frame in outcome.crash.stack][:2] == ["misbehave_warn", "misbehave"]
    result = run_result(outcome, lab.build(None), 0.0)
    assert result.frames[0] == "misbehave_warn"
    assert result.outcome is OutcomeKind.CRASHED
    assert result.signature


@pytest.mark.vm
def test_a_silent_count_below_zero_is_a_crash(trial) -> None:
    outcome, _ = trial("echo put > /proc/misbehave")
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.titles == ()
    assert outcome.title == "module count of misbehave below zero"
    assert outcome.evidence == ("/proc/modules: misbehave is used by -1",)


@pytest.mark.vm
def test_another_crash_ends_the_guest_and_is_dumped(trial) -> None:
    outcome, _ = trial("echo oops > /proc/misbehave", vmcore="crashed")
    assert outcome.kind is OutcomeKind.OTHER_CRASH
    assert outcome.title == "BUG: unable to handle kernel NULL pointer dereference in misbehave_oops"
    assert outcome.vmcore
    assert Path(outcome.vmcore).stat().st_size > 200 << 20


@pytest.mark.vm
def test_the_hunted_crash_counts_beside_another(trial) -> None:
    outcome, _ = trial("echo warn > /proc/misbehave; echo oops > /proc/misbehave")
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.titles[:2] == (
        "WARNING in misbehave_warn",
        "BUG: unable to handle kernel NULL pointer dereference in misbehave_oops",
    )


@pytest.mark.vm
@pytest.mark.parametrize("hang", [True, False])
def test_a_silent_hang(trial, hang: bool) -> None:
    outcome, lab = trial("echo spin > /proc/misbehave", timeout=2.0, hang=hang, vmcore="hung")
    assert outcome.kind is OutcomeKind.HUNG
    assert outcome.hunted is hang
    assert outcome.vmcore
    assert "misbehave_spin" in (lab.directory / "it" / "console.log").read_text()
    assert run_result(outcome, None, 0.0).outcome is (OutcomeKind.CRASHED if hang else OutcomeKind.HUNG)


@pytest.mark.vm
@pytest.mark.parametrize("how", ["oops", "nonsense"])
def test_a_module_that_does_not_load(trial, how: str) -> None:
    outcome, _ = trial("true", parameters=f"at_load={how}")
    assert outcome.kind is OutcomeKind.BOOT_FAILED
    assert outcome.detail.startswith("the module did not load: ")


@pytest.mark.vm
@pytest.mark.parametrize("command", ["no-such-program", "exit 3"])
def test_a_reproducer_that_does_not_do_its_work_says_nothing(trial, command: str) -> None:
    outcome, _ = trial(command)
    assert outcome.kind is OutcomeKind.INFRA
    assert "run-0 ended with" in outcome.detail


@pytest.mark.vm
def test_a_reset_without_a_word(trial) -> None:
    outcome, _ = trial("reboot -f; sleep 5")
    assert outcome.kind is OutcomeKind.OTHER_CRASH
    assert outcome.title == "unexpected kernel reboot"


@pytest.mark.vm
def test_a_crash_while_booting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTRIAGE_ACCEL", "tcg")
    path = tmp_path / "ktriage.toml"
    panic = RIGHT.replace("\n\n[run]", '\ncmdline = "rdinit=/bin/false"\n\n[run]')
    path.write_text(panic)
    outcome, _ = open_lab(load_spec(path), tmp_path / "trials", restore=False).trial("it", None)
    assert outcome.kind is OutcomeKind.BOOT_FAILED
    assert outcome.detail == "the kernel did not boot: it panicked"
    path.write_text(panic.replace('titles = ["WARNING in x"]', 'patterns = ["Attempted to kill init!"]'))
    outcome, _ = open_lab(load_spec(path), tmp_path / "trials", restore=False).trial("it", None)
    assert outcome.kind is OutcomeKind.CRASHED
    assert outcome.hunted


@pytest.mark.vm
def test_a_rate_is_measured_in_parallel(trial) -> None:
    _, lab = trial("echo warn > /proc/misbehave")
    seen = []
    rate = measure_rate(lab, 5, jobs=2, watch=lambda number, outcome: seen.append((number, outcome.kind)))
    assert rate.rate == 1.0
    assert rate.outcomes == {"crashed": 5}
    assert sorted(number for number, _ in seen) == [0, 1, 2, 3, 4]
    assert len(set(rate.directories)) == 5


def test_module_counts() -> None:
    text = "a 16384 -1 - Live 0x0\nb 1 2 a,c, Live 0x0 (OE)\nc 1 - - Live 0x0\n\ncut"
    assert module_counts(text) == {"a": -1, "b": 2}


@pytest.mark.parametrize(
    ("crashes", "runs", "low", "high"),
    # R: binom.test(crashes, runs)$conf.int
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.3084971), (6, 10, 0.2623781, 0.8784477), (10, 10, 0.6915029, 1.0)],
)
def test_rate_interval(crashes: int, runs: int, low: float, high: float) -> None:
    assert rate_interval(crashes, runs) == pytest.approx((low, high), abs=1e-6)


RIGHT = """[kernel]
package = "linux-image-cloud-amd64"

[run]
commands = ["true"]
timeout = 5

[hunted]
titles = ["WARNING in x"]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("timeout = 5", "timeout = -5", ":6: run.timeout: Input should be greater than 0"),
        ("timeout = 5", "timeuot = 5", ":6: run.timeuot: unknown key"),
        ("timeout = 5", 'timeout = "5 s"', ":6: run.timeout: "),
        ("[run]", "[runs]", ":4: runs: unknown key"),
        ('commands = ["true"]\n', "", ":4: run.commands: this key is needed"),
        ('titles = ["WARNING in x"]', "", ":8: hunted: say what is hunted"),
        ('titles = ["WARNING in x"]', 'patterns = ["("]', ":9: hunted.patterns.0: no regular expression"),
        ("package =", "packages =", ":2: kernel.packages: unknown key"),
        ('package = "linux-image-cloud-amd64"', "", ":1: kernel: name one of package, image and tree"),
        ("[run]", "[guest]\nmemory = '1T'\n[run]", ":5: guest.memory: write a size such as 256M or 2G"),
        ("[run]", "[run", "at line 4"),
        ("[kernel]", "folder = 'x'\n[kernel]", ":1: folder: unknown key"),
        ("[run]", "[module]\nname = 'a b'\n[run]", ":5: module.name: a module's name has"),
    ],
)
def test_a_wrong_specification_names_key_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "ktriage.toml"
    path.write_text(RIGHT)
    load_spec(path)
    path.write_text(RIGHT.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_specifications_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_spec(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        load_spec(tmp_path / "x.toml")


def test_files_that_a_specification_names_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "ktriage.toml"
    path.write_text(RIGHT.replace('package = "linux-image-cloud-amd64"', 'image = "vmlinuz"'))
    with pytest.raises(UserError, match=r"\[kernel\] image: no such file"):
        open_lab(load_spec(path), tmp_path / "out")
    path.write_text(RIGHT + '[guest]\nfiles = {"bin/x" = "x"}\n')
    with pytest.raises(UserError, match=r"\[guest\] files: bin/x: no such file"):
        open_lab(load_spec(path), tmp_path / "out")
    path.write_text(RIGHT + '[guest]\ncompile = ["x.c"]\n')
    with pytest.raises(UserError, match="no such file"):
        open_lab(load_spec(path), tmp_path / "out")


@pytest.mark.vm
@pytest.mark.matrix
@pytest.mark.parametrize("package", ["linux-image-6.12-cloud-amd64", "linux-image-amd64"])
def test_other_kernels(trial, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SPEC", SPEC.replace("linux-image-cloud-amd64", package))
    outcome, lab = trial("echo warn > /proc/misbehave")
    assert lab.bench.kernel.package.startswith("linux-image-6.")
    assert outcome.kind is OutcomeKind.CRASHED, outcome.detail
    assert outcome.title == "WARNING in misbehave_warn"
