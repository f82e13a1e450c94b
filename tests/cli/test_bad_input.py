"""Bad input to commands that run guests: one clear line and exit code 2, or the right outcome."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[1] / "modules" / "misbehave"
SPEC = """
[kernel]
package = "linux-image-cloud-amd64"
[module]
name = "misbehave"
source = "{source}"
[run]
commands = ["true"]
[hunted]
titles = ["WARNING in misbehave_warn"]
"""


def repro(tmp_path: Path, spec: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "ktriage.toml"
    path.write_text(spec.format(source=MODULE))
    command = [
        sys.executable,
        "-m",
        "ktriage",
        "repro",
        "run",
        str(path),
        "-n",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "cloud-amd64",
            "no-such-flavour",
            "no kernel package linux-image-no-such-flavour on the configured mirrors",
        ),
        (
            'package = "linux-image-cloud-amd64"',
            'image = "/nonexistent/bzImage"',
            "[kernel] image: no such file",
        ),
        (
            'package = "linux-image-cloud-amd64"',
            'image = "/etc/hostname"',
            "is no kernel: neither a bzImage nor",
        ),
        ('name = "misbehave"', 'name = "behave"', "makes no behave.ko (modules it makes: misbehave.ko)"),
        ('source = "{source}"', 'source = "/nonexistent"', "no such folder: /nonexistent"),
        ("[run]", "[guest]\ncompile = ['x.c']\n[run]", "no such file: "),
        ("[run]", "[guest]\naccel = 'xen'\n[run]", ":8: guest.accel: Input should be 'auto', 'kvm' or 'tcg'"),
        ("titles =", "title =", ":10: hunted.title: unknown key"),
    ],
)
def test_a_specification_that_can_not_be_followed(tmp_path: Path, old: str, new: str, message: str) -> None:
    line = last_line(repro(tmp_path, SPEC.replace(old, new)))
    assert line.startswith("ktriage repro: ")
    assert message in line


def test_a_revision_that_is_not_there(tmp_path: Path, repo) -> None:
    repo.commit("first", {"Makefile": "obj-m := misbehave.o\n"})
    assert "unknown revision 'v9'" in last_line(
        repro(tmp_path, SPEC, "--repo", str(repo.path), "--rev", "v9")
    )
    assert "not a git repository" in last_line(repro(tmp_path, SPEC, "--repo", "/proc", "--rev", "v9"))


@pytest.mark.vm
def test_a_module_that_does_not_load_is_an_outcome(tmp_path: Path) -> None:
    spec = SPEC.replace('source = "{source}"', 'source = "{source}"\nparameters = "at_load=nonsense"')
    done = repro(tmp_path, spec, "--json")
    assert done.returncode == 1
    run, rate = map(json.loads, done.stdout.splitlines())
    assert run["kind"] == "boot-failed"
    assert "the module did not load: insmod ended with 22" in run["detail"]
    assert "Invalid" in (tmp_path / "out" / "run-0000" / "output.log").read_text()
    assert rate["outcomes"] == {"boot-failed": 1}
    assert rate["rate"] is None


@pytest.mark.vm
def test_a_full_disk(tmp_path: Path, small_disk) -> None:
    small_disk("16k", tmp_path / "out")
    line = last_line(repro(tmp_path, SPEC.replace('"true"', '"dmesg | head -c 60000"')))
    assert "No space left on device" in line
