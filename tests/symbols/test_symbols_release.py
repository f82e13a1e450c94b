"""A vmlinux says of which release it is; a log of another one gets no lines, whatever fits by its size."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ktriage.console.types import Crash, Frame
from ktriage.symbols.program import DebugFiles
from ktriage.symbols.symbolize import symbolize_crash

KERNEL = """\
const char linux_banner[] = BANNER;
int sink;
__attribute__((noinline)) void leaf(int x) { sink = x; }
void _start(void) { leaf(3); }
"""


def linked(folder: Path, banner: str, *more: str) -> Path:
    """A kernel of two functions with a banner."""
    (folder / "kernel.c").write_text(KERNEL)
    where = ["-Wl,-Ttext=0xffffffff81000000", "-Wl,-Trodata-segment=0xffffffff82000000"]
    flags = ["-g", "-O2", "-ffreestanding", "-fno-pic", "-mcmodel=kernel", "-nostdlib", "-static", *where]
    subprocess.run(
        ["gcc", *flags, f'-DBANNER="{banner}"', "-o", "vmlinux", "kernel.c", *more], cwd=folder, check=True
    )
    return folder / "vmlinux"


def crash(vmlinux: Path, kernel: str | None) -> Crash:
    table = subprocess.run(["nm", "-S", vmlinux], check=True, capture_output=True, text=True).stdout
    size = int(re.search(r"^\w+ (\w+) T leaf$", table, re.MULTILINE)[1], 16)
    return Crash("", 0, 0, 1, "t", stack=(Frame("leaf", 2, size),), kernel=kernel)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("6.1.0-56-amd64", True),
        (None, True),
        ("6.1.0-5", True),  # cut short
        ("6.1.0-56-cloud-amd64", False),
        ("6.2.0-56-amd64", False),
    ],
)
def test_another_release_gives_no_lines(tmp_path, said, known):
    vmlinux = linked(tmp_path, "Linux version 6.1.0-56-amd64 (someone@somewhere) #1 SMP\\n")
    notes: list[str] = []
    (frame,) = symbolize_crash(crash(vmlinux, said), vmlinux=vmlinux, note=notes.append).stack
    assert (frame.line is not None) == known
    assert [said in note and "Linux 6.1.0-56-amd64" in note for note in notes] == ([] if known else [True])


@pytest.mark.parametrize("banner", ["", "Linux version ", "another text"])
def test_a_banner_that_says_nothing_forbids_nothing(tmp_path, banner):
    vmlinux = linked(tmp_path, banner)
    assert DebugFiles(vmlinux).release is None
    (frame,) = symbolize_crash(crash(vmlinux, "5.4.0"), vmlinux=vmlinux).stack
    assert frame.line == 3


def test_a_banner_that_was_left_out_of_the_file_forbids_nothing(tmp_path):
    vmlinux = linked(tmp_path, "Linux version 6.1.0 (x)")
    subprocess.run(["objcopy", "--only-keep-debug", vmlinux, tmp_path / "debug"], check=True)
    assert DebugFiles(vmlinux).release == "6.1.0"
    assert DebugFiles(tmp_path / "debug").release is None
