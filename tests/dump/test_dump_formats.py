"""Every form of a dump that QEMU writes, of the same guest: what is read must be the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktriage.cli import main
from ktriage.dump import module_states, open_vmcore, summarize
from ktriage.dump.core import find_vmcoreinfo
from ktriage.errors import UserError
from ktriage.kernel import Kernel
from ktriage.machine.guest import CMDLINE, come_up
from ktriage.machine.image import build_image
from ktriage.machine.vm import Hardware, Vm, running

FORMATS = ("elf", "kdump-zlib")


@dataclass(frozen=True, slots=True)
class Machine(Hardware):
    """A guest with a QMP socket for others, with or without the device that takes VMCOREINFO."""

    socket: Path = Path()
    device: bool = True

    def arguments(self) -> list[str]:
        """Return QEMU's arguments."""
        command = Hardware.arguments(self)
        if not self.device:
            at = command.index("vmcoreinfo")
            del command[at - 1 : at + 1]
        return [*command, "-qmp", f"unix:{self.socket},server=on,wait=off"]


async def _write(vm: Vm, path: Path, form: str) -> None:
    with path.open("wb") as file:
        vm.qmp.send_fd_scm(file.fileno())
        await vm.execute("getfd", {"fdname": "it"})
        await vm.execute("dump-guest-memory", {"paging": False, "protocol": "fd:it", "format": form})


async def _dump(hardware: Machine, folder: Path, debug_kernel: Kernel) -> list[str]:
    async with running(hardware, folder) as vm:
        await come_up(vm, 60)
        await vm.execute("stop")
        for form in FORMATS:
            await _write(vm, folder / form, form)
        if not hardware.device:
            return []
        core = await asyncio.to_thread(open_vmcore, hardware.socket, debug_kernel.vmlinux)
        assert core.notes == []
        return [module.name for module in module_states(core)]


@pytest.fixture(scope="module")
def dumps(debug_kernel: Kernel, tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder with ``info`` and ``bare``, each with a dump in each form; the modules as seen over QMP."""
    root = tmp_path_factory.mktemp("formats")
    image = build_image(modules=debug_kernel.modules, drivers=(), programs=())
    seen: list[str] = []
    for name in ("info", "bare"):
        (root / name).mkdir()
        hardware = Machine(
            debug_kernel.image, image, CMDLINE, socket=root / f"{name}.qmp", device=name == "info"
        )
        seen += asyncio.run(_dump(hardware, root / name, debug_kernel))
    return root, seen


@pytest.mark.vm
@pytest.mark.parametrize("device", ["info", "bare"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_form_says_the_same(dumps, debug_kernel, device, form):
    root, seen = dumps
    assert "virtio_pci" in seen
    core = open_vmcore(root / device / form, debug_kernel.vmlinux)
    summary, crashes, lines = summarize(core)
    assert [module.name for module in module_states(core)] == seen
    assert (summary.release, summary.cpus, crashes) == (debug_kernel.release, 1, [])
    assert len(lines) > 100
    assert [note for note in core.notes if "VMCOREINFO" not in note] == []
    assert bool(core.notes) == (device == "bare")


@pytest.mark.vm
def test_the_vmcoreinfo_found_is_the_one_that_the_device_gives(dumps):
    root, _ = dumps
    assert find_vmcoreinfo(root / "bare" / "console.log") is None
    given = open_vmcore_info(root / "info" / "elf")
    found = find_vmcoreinfo(root / "info" / "elf")
    assert found is not None
    assert found.rstrip(b"\n") == given.rstrip(b"\n")


@pytest.mark.parametrize("after", [b"\0", b"S\xff\0\xf0", b""])
def test_the_vmcoreinfo_found_ends_with_its_last_line(tmp_path, after):
    text = b"OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)=ffffffff8ba10000\nNUMBER(sme_mask)=0\n"
    (tmp_path / "dump").write_bytes(b"\x7fELF" + text + after)
    assert find_vmcoreinfo(tmp_path / "dump") == text


def open_vmcore_info(path: Path) -> bytes:
    """Return what drgn takes from the dump's own note."""
    import drgn

    program = drgn.Program()
    program.set_core_dump(path)
    return bytes(program["VMCOREINFO"].string_())


@pytest.mark.vm
@pytest.mark.parametrize("size", [16, 4096, 5000, 1 << 20, 8 << 20])
def test_a_kdump_that_is_cut_gives_what_it_has_or_one_line(dumps, debug_kernel, tmp_path, capsys, size):
    root, _ = dumps
    cut = tmp_path / "vmcore"
    with (root / "info" / "kdump-zlib").open("rb") as whole:
        cut.write_bytes(whole.read(size))
    code = main(["dump", "show", str(cut), "--vmlinux", str(debug_kernel.vmlinux), "modules"])
    said = capsys.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in said
    if code == 2:
        assert said.count("\n") == 1


@pytest.mark.vm
def test_a_kdump_with_flipped_bytes_raises_nothing_but_ours(dumps, debug_kernel, tmp_path):
    root, _ = dumps
    whole = (root / "info" / "kdump-zlib").read_bytes()
    path = tmp_path / "vmcore"
    for step, first in ((401, 0), (4099, 4096), (40009, 20000)):
        data = bytearray(whole)
        for place in range(first, len(data), step):
            data[place] ^= 0x5A
        path.write_bytes(data)
        try:
            core = open_vmcore(path, debug_kernel.vmlinux)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        summarize(core)
        module_states(core)


def test_a_socket_where_nobody_answers_is_said(tmp_path):
    import socket

    place = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        with pytest.raises(UserError, match="no Linux guest can be read there"):
            open_vmcore(place)
