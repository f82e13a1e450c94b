from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktriage.console.types import Crash
from ktriage.symbols.code import read_code

GPF = "general protection fault: 0000 [#1] PREEMPT SMP KASAN\n"


def crash(code: str, text: str = "BUG: unable to handle page fault\n", **registers: int) -> Crash:
    return Crash("", 0, 0, 1, "t", code=code, text=text, registers=registers)


def test_kasan_shadow_is_decoded_to_the_member_of_a_null():
    # cmp byte ptr [rdx + rax], 0 after lea rdi, [rbx + 0x38]; mov rdx, rdi; shr rdx, 3
    line = (
        "75 7e 49 8b 9c 24 88 06 00 00 48 8d 7b 38 48 b8 00 00 00 00 00 fc ff df"
        " 48 89 fa 48 c1 ea 03 <80> 3c 02 00 75 4a 48 8b 7b 38"
    )
    code = read_code(crash(line, GPF, rax=0xDFFFFC0000000000, rbx=0, rdx=7, rdi=0x38))
    assert code.trapped.text == "cmp byte ptr [rdx + rax], 0"
    assert (code.access.address, code.access.expression, code.access.null) == (0x38, "rbx + 0x38", "rbx")
    assert code.access.shadow
    assert "lea rdi, [rbx + 0x38]" in [i.text for i in code.instructions]


def test_kasan_shadow_without_the_object_gives_the_register():
    code = read_code(crash("<80> 3c 02 00", GPF, rax=0xDFFFFC0000000000, rdx=7, rdi=0x38))
    assert (code.access.expression, code.access.address) == ("rdx << 3", 0x38)


def test_a_null_base_with_a_displacement():
    # mov rdx, qword ptr [rax + 0x190]
    code = read_code(crash("90 <48> 8b 90 90 01 00 00", rax=0))
    assert str(code.access) == "read of 8 bytes at rax + 0x190 = 0x190; rax is NULL"


def test_a_write_by_base_index_and_scale():
    # mov dword ptr [rbx + r8*4 - 8], eax
    code = read_code(crash("<42> 89 44 83 f8", rbx=0x1000, r08=2))
    assert (code.access.address, code.access.size, code.access.write) == (0x1000, 4, True)
    assert code.access.expression == "rbx + r8*4 - 0x8"


def test_the_start_is_found_where_instructions_meet_the_mark():
    # The first byte is the tail of something; a decoding from it would run over the mark.
    code = read_code(crash("00 00 00 0f 05 c3 <0f> 0b eb b4", text="WARNING: x\n"))
    assert code.trapped.text == "ud2"
    assert [i.text for i in code.instructions if i.offset < 0][-1] == "ret"
    assert code.access is None


def test_a_warning_touches_nothing():
    assert read_code(crash("<48> 8b 00", text="WARNING: x\n", rax=0)).access is None


@pytest.mark.parametrize(
    "line", ["Bad RIP value.", "", "48 8b 00", "<zz>", "<48>", "Unable to access opcode bytes at 0x0"]
)
def test_what_is_no_code_gives_nothing(line):
    assert read_code(crash(line, rax=0)) is None


def test_arm64():
    line = "d503233f a9bf7bfd 910003fd (f9400c01)"
    code = read_code(crash(line, "Unable to handle kernel NULL pointer dereference\n", x0=0, pstate=5))
    assert code.trapped.text == "ldr x1, [x0, #0x18]"
    assert str(code.access) == "read of 8 bytes at x0 + 0x18 = 0x18; x0 is NULL"


def test_arm():
    line = "e5973000 e2169602 13e09000 e1a06506 (e5c34008)"
    code = read_code(crash(line, "Unable to handle kernel paging request\n", r3=0xDEAD0000, psr=1))
    assert code.trapped.text == "strb r4, [r3, #8]"
    assert (code.access.address, code.access.size, code.access.write) == (0xDEAD0008, 1, True)


@given(st.binary(min_size=1, max_size=64), st.integers(0, 63), st.integers(0, 2**64 - 1))
def test_any_bytes_are_read_or_not_but_never_raise(data, mark, value):
    words = [
        f"<{byte:02x}>" if place == mark % len(data) else f"{byte:02x}" for place, byte in enumerate(data)
    ]
    names = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n:02}" for n in range(8, 16))]
    code = read_code(crash(" ".join(words), **dict.fromkeys(names, value)))
    if code:
        assert sum(i.trapped for i in code.instructions) == 1
        whole = b"".join(i.data for i in code.instructions)
        assert whole in data


@given(st.text(max_size=200))
def test_any_text_never_raises(line):
    read_code(crash(line, rax=0))
    read_code(crash(line, x0=0, pstate=0))
