"""Frames to lines, on a linked kernel of three functions and a relocatable module that gcc made just now."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ktriage.console.types import Crash, Frame
from ktriage.errors import UserError
from ktriage.symbols.program import find_modules, read_layout
from ktriage.symbols.source import source_lines
from ktriage.symbols.symbolize import Symbolizer, build_ids, exact_frames, symbolize_crash

KERNEL = """\
int sink;
static inline __attribute__((always_inline)) void inner(int x)
{
	sink = x;
	*(volatile int *)16 = x;
}
__attribute__((noinline)) void leaf(int x)
{
	inner(x);
}
__attribute__((noinline)) int outer(int x)
{
	leaf(x);
	return sink + 1;
}
void _start(void)
{
	sink = outer(3);
}
"""
TWIN = """\
extern int sink;
__attribute__((noinline)) static int twin(int x) { sink += x; return sink * %d; }
int twin_%d(int x) { return twin(x) + 1; }
"""
MODULE = """\
extern void leaf(int);
static int count;
__attribute__((noinline)) int mod_work(int x)
{
	leaf(x + count);
	count++;
	return 0;
}
__attribute__((noinline, section(".text.unlikely"))) int mod_exit(void)
{
	return mod_work(1) + 1;
}
"""
FLAGS = [
    "-g",
    "-O2",
    "-ffreestanding",
    "-fno-pic",
    "-mcmodel=kernel",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
]


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Path:
    """A folder with a vmlinux and a module, both with debug information."""
    folder = tmp_path_factory.mktemp("symbols")
    sources = {"kernel.c": KERNEL, "twin1.c": TWIN % (3, 1), "twin2.c": TWIN % (5, 2), "my-mod.c": MODULE}
    for name, text in sources.items():
        (folder / name).write_text(text)

    def gcc(*args: str) -> None:
        subprocess.run(["gcc", *FLAGS, *args], cwd=folder, check=True)

    (folder / "modules").mkdir()
    gcc(
        "-nostdlib",
        "-static",
        "-Wl,-Ttext=0xffffffff81000000",
        "-Wl,--build-id",
        "-o",
        "vmlinux",
        "kernel.c",
        "twin1.c",
        "twin2.c",
    )
    gcc("-c", "-o", "modules/my-mod.ko", "my-mod.c")
    subprocess.run(["strip", "-g", "-o", "bare", "vmlinux"], cwd=folder, check=True)
    return folder


def symbols(path: Path) -> dict[str, tuple[int, int]]:
    """Return the functions of a file by name: address and size, as nm has them."""
    text = subprocess.run(["nm", "-S", path], check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^(\w+) (\w+) [tT] (\w+)$", text, re.MULTILINE)
    return {name: (int(address, 16), int(size, 16)) for address, size, name in found}


def call_return(path: Path, function: str) -> int:
    """Return the offset in a function right after its first call: the return address."""
    text = subprocess.run(
        ["objdump", f"--disassemble={function}", path], check=True, capture_output=True, text=True
    ).stdout
    start = int(re.search(rf"^(\w+) <{function}>:", text, re.MULTILINE)[1], 16)
    places = [int(m, 16) for m in re.findall(r"^\s*(\w+):\t", text, re.MULTILINE)]
    lines = re.findall(r"^\s*\w+:\t.*$", text, re.MULTILINE)
    call = next(i for i, line in enumerate(lines) if "call" in line)
    return places[call + 1] - start


def test_inlined_calls_come_before_the_function_they_are_in(build):
    vmlinux = build / "vmlinux"
    size = symbols(vmlinux)["leaf"][1]
    leaf, outer = (
        Frame("leaf", size - 1, size),
        Frame("outer", call_return(vmlinux, "outer"), symbols(vmlinux)["outer"][1]),
    )
    crash = Crash("", 0, 0, 1, "t", stack=(leaf, outer), text=f"RIP: 0010:leaf+{size - 9:#x}/{size:#x}\n")
    found = symbolize_crash(crash, vmlinux=vmlinux, build_dir=build).stack
    lines = [(f.function, f.inline, f.file, f.line) for f in found]
    assert ("inner", True, "kernel.c", 5) in lines
    assert lines[-1] == ("outer", False, "kernel.c", 13)
    assert found[-1].offset == outer.offset


def test_a_return_address_is_the_call_not_what_follows(build):
    vmlinux = build / "vmlinux"
    offset, size = call_return(vmlinux, "outer"), symbols(vmlinux)["outer"][1]
    symbolizer = Symbolizer(vmlinux)
    (called,) = symbolizer.frame(Frame("outer", offset, size))
    (exact,) = symbolizer.frame(Frame("outer", offset, size), exact=True)
    assert (called.line, exact.line) == (13, 14)


def test_module_frames_in_every_section(build):
    sizes = symbols(build / "modules/my-mod.ko")
    symbolizer = Symbolizer(None, [build / "modules"])
    (work,) = symbolizer.frame(
        Frame(
            "mod_work", call_return(build / "modules/my-mod.ko", "mod_work"), sizes["mod_work"][1], "my_mod"
        )
    )
    (gone,) = symbolizer.frame(
        Frame(
            "mod_exit", call_return(build / "modules/my-mod.ko", "mod_exit"), sizes["mod_exit"][1], "my_mod"
        )
    )
    assert (work.line, gone.line) == (5, 11)
    assert Path(work.file).name == "my-mod.c"
    assert symbolizer.notes == []


def test_padding_counts_to_the_function_as_in_kallsyms(build):
    vmlinux = build / "vmlinux"
    table = sorted(symbols(vmlinux).values())
    address, size = symbols(vmlinux)["outer"]
    following = next(start for start, _ in table if start >= address + size)
    (frame,) = Symbolizer(vmlinux).frame(Frame("outer", 4, following - address))
    assert frame.line


def test_another_build_is_said_and_gives_no_line(build):
    symbolizer = Symbolizer(build / "vmlinux")
    frame = Frame("outer", 4, 0x400)
    assert symbolizer.frame(frame) == [frame]
    assert "not the build that crashed" in symbolizer.notes[0]


def test_two_of_the_same_name_and_size_are_not_guessed(build):
    table = subprocess.run(["nm", "-S", build / "vmlinux"], check=True, capture_output=True, text=True).stdout
    sizes = {int(size, 16) for size in re.findall(r"^\w+ (\w+) t twin$", table, re.MULTILINE)}
    symbolizer = Symbolizer(build / "vmlinux")
    frame = Frame("twin", 2, max(sizes))
    if len(sizes) == 1:
        assert symbolizer.frame(frame) == [frame]
        assert re.search(r"twin: may be any of .*twin1\.c:2, .*twin2\.c:2$", symbolizer.notes[0])
    else:
        (found,) = symbolizer.frame(frame)
        assert found.line == 2


def test_what_is_missing_is_said_once(build):
    symbolizer = Symbolizer(build / "vmlinux", [build / "modules"])
    frames = [Frame("f", 1, 2, "absent"), Frame("g", 1, 2, "absent"), Frame("no_such_function", 1, 2)]
    assert [symbolizer.frame(frame) for frame in frames] == [[frame] for frame in frames]
    assert len(symbolizer.notes) == 2


def test_frames_with_lines_and_without_offsets_stay(build):
    symbolizer = Symbolizer(build / "vmlinux")
    for frame in (Frame("leaf", 1, 2, file="x.c", line=3), Frame("leaf")):
        assert symbolizer.frame(frame) == [frame]


def test_instruction_pointers_of_several_machines():
    text = """RIP: 0010:module_put+0x8b/0x90
pc : do_undefinstr+0x10/0x20
epc : riscv_fn+0x3/0x9
PC is at arm_fn+0x1c/0x50
NIP [c00000000003b5e8] ppc_fn+0x2c/0x40
RIP: 0033:0x43ca13
 tcp_cleanup_ulp+0x33/0x50
"""
    names = {"module_put", "do_undefinstr", "riscv_fn", "arm_fn", "ppc_fn"}
    assert {name for name, _ in exact_frames(text)} == names


@pytest.mark.parametrize("content", [b"", b"not elf", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\xff" * 200])
def test_what_is_no_kernel_is_said_in_one_line(tmp_path, content):
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with pytest.raises(UserError, match="vmlinux: "):
        Symbolizer(path)


def test_a_kernel_without_debug_information_is_said(build, tmp_path):
    with pytest.raises(UserError, match="no debug information"):
        Symbolizer(build / "bare")
    with pytest.raises(UserError, match="no such file"):
        Symbolizer(tmp_path / "absent")
    with pytest.raises(UserError, match="no such file or directory"):
        find_modules([tmp_path / "absent"])


def test_a_spoilt_module_is_a_note(build, tmp_path):
    whole = (build / "modules/my-mod.ko").read_bytes()
    for name, content in (
        ("cut", whole[:700]),
        ("noise", b"\x7fELF" + bytes(range(256)) * 4),
        ("empty", b""),
    ):
        (tmp_path / f"{name}.ko").write_bytes(content)
        symbolizer = Symbolizer(None, [tmp_path])
        frame = Frame("mod_work", 1, 2, name)
        assert symbolizer.frame(frame) == [frame]
        assert len(symbolizer.notes) == 1


def test_build_id_is_read(build):
    said = subprocess.run(
        ["readelf", "-n", build / "vmlinux"], check=True, capture_output=True, text=True
    ).stdout
    assert read_layout(build / "vmlinux").build_id == re.search(r"Build ID: (\w+)", said)[1]


def test_another_build_id_in_the_log_gives_no_lines(build):
    size = symbols(build / "vmlinux")["outer"][1]
    own = read_layout(build / "vmlinux").build_id
    line = "CPU: 0 PID: 1 Comm: x Not tainted 6.1.0 #1 {}\n"
    for said, known in ((own, True), ("ab" * 20, False)):
        crash = Crash("", 0, 0, 1, "t", stack=(Frame("outer", 4, size),), text=line.format(said))
        notes = []
        found = symbolize_crash(crash, vmlinux=build / "vmlinux", note=notes.append)
        assert (found.stack[0].line is not None) == known
        assert bool(notes) != known


def test_build_ids_of_a_report():
    machine = f"CPU: 1 PID: 2 Comm: a b Tainted: G 6.1.0 #1 {'cd' * 20}"
    text = f" f+0x1/0x2 [my_mod {'12' * 20}]\n{machine}\n g+0x1/0x2 [x]\n"
    assert build_ids(text) == {"my_mod": "12" * 20, None: "cd" * 20}


def test_lines_around_a_place(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a.c").write_text("one\n\ttwo\nthree\nfour\n")
    (tmp_path / "secret").write_text("secret\n")
    lines = source_lines(tmp_path / "tree", "a.c", 2, around=1)
    assert [(n.number, n.text, n.here) for n in lines] == [
        (1, "one", False),
        (2, "        two", True),
        (3, "three", False),
    ]
    for file, line in (
        ("a.c", 0),
        ("a.c", 5),
        ("b.c", 1),
        ("../secret", 1),
        (str(tmp_path / "secret"), 1),
        ("a\0b", 1),
    ):
        assert source_lines(tmp_path / "tree", file, line) == []
