"""The ``Code:`` line of a report: its instructions, which of them trapped, and what it tried to touch.

The kernel prints the bytes around the instruction pointer and marks the byte that it points to
(``show_opcodes()``, arch/x86/kernel/dumpstack.c). Where the first instruction begins is not said: it is
found by trying, until the marked byte is the beginning of one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import capstone
from capstone import arm64_const, arm_const, x86_const

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ktriage.console.types import Crash

LONGEST_X86 = 15
"""Bytes of the longest x86 instruction."""
KASAN_SHADOW_OFFSET = 0xDFFFFC0000000000
"""CONFIG_KASAN_SHADOW_OFFSET of x86-64: the shadow of ADDRESS is at (ADDRESS >> 3) + this."""
KASAN_SHIFT = 3
NULL_PAGE = 0x1000
_MASK = (1 << 64) - 1
MOST_BYTES = 1024

_SEGMENT = re.compile(r"\bRIP: ([0-9a-f]{4}):")
_FAULT = re.compile(
    r"unable to handle|general protection|page fault|double fault|stack segment|stack guard page was hit"
    r"|Unable to handle|Unhandled fault|NULL pointer dereference|user-memory-access|Oops|KFENCE: ",
)
_X86_BYTE = re.compile(r"<([0-9a-f]{2})>|([0-9a-f]{2})(?=\s|$)", re.ASCII)
_WORD = re.compile(r"[(<]([0-9a-f]{8})[)>]|([0-9a-f]{8})(?=\s|$)", re.ASCII)


_NO_ACCESS = (x86_const.X86_INS_UD2, x86_const.X86_INS_INT3, x86_const.X86_INS_LEA, x86_const.X86_INS_NOP)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; ``offset`` is in bytes from the one that trapped."""

    offset: int
    data: bytes
    text: str
    trapped: bool


@dataclass(frozen=True, slots=True)
class Access:
    """What the trapping instruction tried to touch.

    ``expression`` is its operand as registers (``rax + 0x190``), ``address`` what that comes to,
    ``write`` whether it would have written. With inline KASAN the instruction reads the shadow, not the
    object: then ``shadow`` is true and ``address`` is the object's, of which the low 3 bits are known only
    where the register that held it is. ``null`` names the register that held NULL, or next to it.
    """

    expression: str
    address: int
    size: int
    write: bool
    shadow: bool = False
    null: str | None = None

    def __str__(self) -> str:
        what = f"{'write' if self.write else 'read'} of {self.size} byte{'s' if self.size > 1 else ''}"
        text = f"{what} at {self.expression} = {self.address:#x}"
        if self.shadow:
            text = f"KASAN's check of {self.expression} = {self.address:#x}, before it is touched"
        return f"{text}; {self.null} is NULL" if self.null else text


@dataclass(frozen=True, slots=True)
class Code:
    """The instructions of a ``Code:`` line, in order, and what the trapping one tried, where known."""

    instructions: tuple[Instruction, ...]
    access: Access | None = None

    @property
    def trapped(self) -> Instruction | None:
        """The instruction that trapped."""
        return next((i for i in self.instructions if i.trapped), None)


def read_code(crash: Crash) -> Code | None:
    """Disassemble a crash's ``Code:`` line; None where there is none or it can't be read.

    The machine is told from the registers' names and the form of the line: x86, arm64 and arm are read.
    What was accessed is said only of a report about a fault: a warning or a stall has none. Where the line is
    of the program that called the kernel, nothing in it trapped: None.
    """
    if not crash.code or _of_user(crash.text):
        return None
    registers = {_plain(name): value for name, value in crash.registers.items()}
    faulted = registers if _FAULT.search(crash.text) else {}
    words = _WORD.findall(crash.code)[:MOST_BYTES]
    if words and "pstate" in registers:
        return _words(_ARM64, words, faulted)
    if words and "psr" in registers:
        return _words(_ARM, words, faulted)
    return _x86(crash.code, faulted, wide="eax" not in registers)


def _of_user(text: str) -> bool:
    """Return whether the first ``Code:`` line stands below an instruction pointer of user mode.

    Its segment is __USER_CS or __USER32_CS (arch/x86/include/asm/segment.h).
    """
    before, _, _ = text.partition("Code: ")
    segments = _SEGMENT.findall(before)
    return bool(segments) and segments[-1] in ("0033", "0023")


def _plain(name: str) -> str:
    """Return a register's name as disassemblers have it: the kernel prints R8 as R08."""
    return re.sub(r"^r0(\d)$", r"r\1", name.lower())


def _x86(line: str, registers: Mapping[str, int], *, wide: bool) -> Code | None:
    found = _X86_BYTE.findall(line)[:MOST_BYTES]
    mark = next((place for place, (marked, _) in enumerate(found) if marked), None)
    if mark is None:
        return None
    data = bytes(int(marked or plain, 16) for marked, plain in found)
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64 if wide else capstone.CS_MODE_32)
    engine.detail = True
    before = _aligned(engine, data[:mark])
    after = list(engine.disasm(data[mark:], 0))
    if not after:
        return None
    instructions = [_instruction(i, i.address - mark) for i in before]
    instructions += [_instruction(i, i.address) for i in after]
    return Code(tuple(instructions), _x86_access(after[0], before, registers) if registers else None)


def _instruction(decoded: capstone.CsInsn, offset: int) -> Instruction:
    text = f"{decoded.mnemonic} {decoded.op_str}".strip()
    return Instruction(offset, bytes(decoded.bytes), text, offset == 0)


def _aligned(engine: capstone.Cs, data: bytes) -> list[capstone.CsInsn]:
    """Return the instructions that fill ``data`` to its end, from the first start that gives any."""
    for start in range(min(len(data), LONGEST_X86 + 1)):
        decoded = list(engine.disasm(data[start:], start))
        if decoded and decoded[-1].address + decoded[-1].size == len(data):
            return decoded
    return []


def _x86_access(
    trapped: capstone.CsInsn, before: Sequence[capstone.CsInsn], registers: Mapping[str, int]
) -> Access | None:
    if trapped.id in _NO_ACCESS:
        return None
    operand = next((o for o in trapped.operands if o.type == x86_const.X86_OP_MEM), None)
    if operand is None or operand.mem.segment in (x86_const.X86_REG_GS, x86_const.X86_REG_FS):
        return None
    memory = operand.mem
    names = [(trapped.reg_name(memory.base), 1), (trapped.reg_name(memory.index), memory.scale)]
    parts = [(name, scale) for name, scale in names if name]
    if any(name not in registers for name, _ in parts):
        return None
    address = (sum(registers[name] * scale for name, scale in parts) + memory.disp) & _MASK
    shadow = next((n for n, _ in parts if registers[n] == KASAN_SHADOW_OFFSET), None)
    if shadow or (memory.disp & _MASK) == KASAN_SHADOW_OFFSET:
        others = [name for name, _ in parts if name != shadow]
        return _shadowed(others[0], before, registers) if len(others) == 1 else None
    return Access(
        expression=_expression(parts, memory.disp),
        address=address,
        size=operand.size,
        write=bool(operand.access & capstone.CS_AC_WRITE),
        null=_null(parts, registers) if address < NULL_PAGE or address > _MASK - NULL_PAGE else None,
    )


def _expression(parts: Sequence[tuple[str, int]], displacement: int) -> str:
    text = " + ".join(name if scale == 1 else f"{name}*{scale}" for name, scale in parts)
    if not text:
        return f"{displacement & _MASK:#x}"
    if displacement:
        text += f" {'-' if displacement < 0 else '+'} {abs(displacement):#x}"
    return text


def _null(parts: Sequence[tuple[str, int]], registers: Mapping[str, int]) -> str | None:
    """Return the register that is NULL, the base before the index."""
    return next((name for name, _ in parts if registers[name] == 0), None)


def _shadowed(name: str, before: Sequence[capstone.CsInsn], registers: Mapping[str, int]) -> Access | None:
    """Say which address KASAN was about to check when its shadow could not be read.

    ``name`` held the address shifted right by 3. Going back from the trap, ``shr name, 3`` and ``mov``
    lead to the register that held the whole address, and a ``lea`` to the object that it is a member of.
    """
    low = (registers[name] << KASAN_SHIFT) & _MASK
    whole, parts, displacement = _origin(name, before)
    value = registers.get(whole)
    address = value if value is not None and value & ~7 == low else low
    if parts and all(part in registers for part, _ in parts):
        computed = (sum(registers[p] * scale for p, scale in parts) + displacement) & _MASK
        if computed & ~7 == low:
            expression = _expression(parts, displacement)
            null = _null(parts, registers) if computed < NULL_PAGE else None
            return Access(expression, computed, 1, write=False, shadow=True, null=null)
    expression = whole if address == value else f"{name} << {KASAN_SHIFT}"
    null = whole if address == 0 and value == 0 else None
    return Access(expression, address, 1, write=False, shadow=True, null=null)


def _origin(name: str, before: Sequence[capstone.CsInsn]) -> tuple[str, list[tuple[str, int]], int]:
    """Follow a register back: return the one that held the whole address, and the lea that made it."""
    current = name
    for decoded in reversed(before):
        operands = decoded.operands
        if not operands or operands[0].type != x86_const.X86_OP_REG:
            continue
        if decoded.reg_name(operands[0].reg) != current:
            continue
        if decoded.id == x86_const.X86_INS_MOV and operands[1].type == x86_const.X86_OP_REG:
            current = decoded.reg_name(operands[1].reg)
        elif decoded.id == x86_const.X86_INS_LEA:
            memory = operands[1].mem
            names = [(decoded.reg_name(memory.base), 1), (decoded.reg_name(memory.index), memory.scale)]
            return current, [(n, scale) for n, scale in names if n], memory.disp
        elif decoded.id != x86_const.X86_INS_SHR:
            break
    return current, [], 0


@dataclass(frozen=True, slots=True)
class _Machine:
    """A machine whose instructions are words: how capstone calls it and its operands."""

    engine: tuple[int, int]
    memory: int
    word: int
    """Bytes that a load or store without a suffix moves, where the register's name does not say."""


_ARM64 = _Machine((capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM), arm64_const.ARM64_OP_MEM, 8)
_ARM = _Machine((capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM), arm_const.ARM_OP_MEM, 4)


def _words(machine: _Machine, words: Sequence[tuple[str, str]], registers: Mapping[str, int]) -> Code | None:
    mark = next((place for place, (marked, _) in enumerate(words) if marked), None)
    if mark is None:
        return None
    engine = capstone.Cs(*machine.engine)
    engine.detail = True
    instructions: list[Instruction] = []
    access = None
    for place, (marked, plain) in enumerate(words):
        value = int(marked or plain, 16)
        data, offset = value.to_bytes(4, "little"), 4 * (place - mark)
        decoded = next(engine.disasm(data, 0), None)
        if decoded is None:
            instructions.append(Instruction(offset, data, f".word {value:#010x}", offset == 0))
            continue
        instructions.append(_instruction(decoded, offset))
        if offset == 0:
            access = _word_access(machine, decoded, registers)
    return Code(tuple(instructions), access)


def _word_access(machine: _Machine, trapped: capstone.CsInsn, registers: Mapping[str, int]) -> Access | None:
    operand = next((o for o in trapped.operands if o.type == machine.memory), None)
    if operand is None or operand.shift.value or trapped.mnemonic[:2] not in ("ld", "st"):
        return None
    memory = operand.mem
    names = [trapped.reg_name(register) for register in (memory.base, memory.index) if register]
    if not names or any(name not in registers for name in names):
        return None
    parts = [(name, 1) for name in names]
    address = (sum(registers[name] for name in names) + memory.disp) & _MASK
    moved = trapped.reg_name(trapped.operands[0].reg) or ""
    size = 4 if moved.startswith("w") else machine.word
    return Access(
        expression=_expression(parts, memory.disp),
        address=address,
        size={"b": 1, "h": 2}.get(trapped.mnemonic[-1], size),
        write=trapped.mnemonic.startswith("st"),
        null=_null(parts, registers) if address < NULL_PAGE else None,
    )
