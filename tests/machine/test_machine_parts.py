"""The parts of the machine room that need no guest."""

from __future__ import annotations

import asyncio
import io
import itertools
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktriage.errors import UserError
from ktriage.kernel import Kernel
from ktriage.machine import Plan, Program, accel
from ktriage.machine.image import compile_static, driver_files
from ktriage.machine.run import ControlReader, Step

SAID = (
    b"awake\nfile modules 12\na 1 0\nb 2 1\nstart load\nexit load 0 1500\n"
    b"start run-0\nwarn reseed: Invalid argument\nfile empty 0\nnonsense\nexit run-0 139 2000000\ndone\n"
)


def read(pieces: list[bytes]) -> ControlReader:
    async def feed() -> ControlReader:
        reader = ControlReader()
        for piece in pieces:
            reader.feed(piece)
        return reader

    return asyncio.run(feed())


@given(st.lists(st.integers(0, len(SAID)), max_size=30))
def test_control_line_is_read_alike_however_it_is_cut(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(SAID)})
    reader = read([SAID[a:b] for a, b in itertools.pairwise(places)])
    assert reader.files == {"modules": b"a 1 0\nb 2 1\n", "empty": b""}
    assert reader.steps == {"load": Step("load", 0, 0.0015), "run-0": Step("run-0", 139, 2.0)}
    assert reader.warnings == ["reseed: Invalid argument"]
    assert reader.awake.is_set()
    assert reader.done.is_set()


@given(st.binary(max_size=400))
def test_control_line_takes_any_bytes(data: bytes) -> None:
    read([data])


def test_a_plan_is_packed_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"from disk")
    plan = Plan(("step a",), {"ktriage/a": b"true\n", "bin/x": tmp_path / "x"})
    with tarfile.open(fileobj=io.BytesIO(plan.archive())) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    assert content == {"ktriage/a": b"true\n", "bin/x": b"from disk", "ktriage/plan": b"step a\n"}


def test_drivers_come_after_what_they_need(kernel: Kernel) -> None:
    assert kernel.modules
    names = [path.name for path in driver_files(kernel.modules, ("virtio-blk", "not-there"))]
    assert names[-1] == "virtio_blk.ko"
    assert names.index("virtio_ring.ko") < names.index("virtio.ko") < names.index("virtio_blk.ko")


def test_modules_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no modules\.dep"):
        driver_files(tmp_path, ("virtio_blk",))


def test_a_program_that_does_not_compile_says_where(tmp_path: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return x; }\n")
    with pytest.raises(UserError, match=r"wrong\.c:1:.*error: .x. undeclared"):
        compile_static(Program(source))
    with pytest.raises(UserError, match="no such file"):
        compile_static(Program(tmp_path / "missing.c"))


def test_accelerator_is_remembered_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTRIAGE_CACHE", str(tmp_path))
    monkeypatch.delenv("KTRIAGE_ACCEL", raising=False)
    assert accel.remembered() is None
    accel.remember("tcg")
    assert accel.remembered() == "tcg"
    assert accel.candidates() == ["tcg"]
    (tmp_path / "accel.json").write_text("not json")
    assert accel.remembered() is None
    accel.remember("kvm")
    assert accel.remembered() == "kvm"


def test_accelerator_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTRIAGE_ACCEL", "tcg")
    assert accel.candidates("auto") == ["tcg"]
    assert accel.candidates("kvm") == ["kvm"]
    with pytest.raises(UserError, match="no accelerator 'xen'"):
        accel.candidates("xen")


def test_qemu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from ktriage.machine.vm import qemu_binary

    monkeypatch.setenv("KTRIAGE_QEMU", "/nonexistent/qemu")
    with pytest.raises(UserError, match="is no QEMU"):
        qemu_binary()
    monkeypatch.delenv("KTRIAGE_QEMU")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UserError, match="apt-get install qemu-system-x86"):
        qemu_binary()
