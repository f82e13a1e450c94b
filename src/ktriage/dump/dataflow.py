"""A function's machine code, and which instructions gave a register the value that it has at a place.

For x86-64. Jumps within the function are followed backwards, so that a value that comes round a loop or
from another branch is found; a jump through a register or a table hides its targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import capstone
from capstone import x86_const

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import drgn

MASK = (1 << 64) - 1
LARGEST_FUNCTION = 1 << 16
"""Bytes of code that are looked at."""
KASAN_SHIFT = 3
"""KASAN_SHADOW_SCALE_SHIFT: a byte of shadow stands for 8 of memory (generic KASAN)."""
CALL_CLOBBERS = frozenset(("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"))
"""Registers that a call leaves with other values (System V ABI, AMD64 supplement, 3.2.1)."""
ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
"""Registers of the first six arguments (System V ABI, AMD64 supplement, 3.2.3)."""

_WIDE = {
    **{f"{half}{letter}{end}": f"r{letter}{end}" for half in ("e", "") for letter, end in
       (("a", "x"), ("b", "x"), ("c", "x"), ("d", "x"), ("s", "i"), ("d", "i"), ("b", "p"), ("s", "p"))},
    **{f"{letter}l": f"r{letter}x" for letter in "abcd"},
    **{f"{letter}h": f"r{letter}x" for letter in "abcd"},
    **{f"{name}l": f"r{name}" for name in ("si", "di", "bp", "sp")},
    **{f"r{number}{end}": f"r{number}" for number in range(8, 16) for end in "dwb"},
}  # fmt: skip


def wide(name: str) -> str:
    """Return the 64-bit register that ``name`` is a part of."""
    return _WIDE.get(name, name)


@dataclass(frozen=True, slots=True)
class Operand:
    """A place in memory as an instruction names it: ``base + index * scale + displacement``, ``size`` bytes.

    The base of code that addresses memory from the instruction itself is ``rip``; then ``displacement`` is
    the address. ``segment`` is set where the address is relative to gs or fs: a per-cpu variable.
    """

    base: str | None
    index: str | None
    scale: int
    displacement: int
    size: int
    segment: bool = False

    def __str__(self) -> str:
        parts = [self.base or "", f"{self.index}*{self.scale}" if self.index else ""]
        text = " + ".join(part for part in parts if part)
        if self.displacement or not text:
            sign = "-" if self.displacement < 0 else "+"
            text = f"{text} {sign} {abs(self.displacement):#x}" if text else f"{self.displacement:#x}"
        return text


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its address, its text, what it writes, and what it reads from.

    ``copies`` names the register whose value it copies, ``loads`` the memory whose value it loads, ``points``
    the memory whose address it takes (lea). ``moves`` is the register that it adds a constant to, and that
    constant; ``shifts`` the one that it shifts right by 3, as KASAN does. ``touches`` is its memory operand,
    if any; ``writes`` whether that is written.
    """

    address: int
    size: int
    text: str
    sets: frozenset[str]
    calls: int | None = None
    copies: str | None = None
    loads: Operand | None = None
    points: Operand | None = None
    moves: tuple[str, int] | None = None
    shifts: str | None = None
    touches: Operand | None = None
    writes: bool = False
    target: int | None = None
    falls: bool = True


class Function:
    """A function's instructions and how they follow each other."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        self._places = {step.address: place for place, step in enumerate(self.steps)}
        before: list[list[int]] = [[] for _ in self.steps]
        for place, step in enumerate(self.steps):
            if step.falls and place + 1 < len(self.steps):
                before[place + 1].append(place)
            if step.target in self._places:
                before[self._places[step.target]].append(place)
        self._before = before

    def place(self, address: int) -> int | None:
        """Return the number of the instruction at ``address``."""
        return self._places.get(address)

    def ending_at(self, address: int) -> int | None:
        """Return the number of the instruction that ends there: the call, for a return address."""
        return next((n for n, step in enumerate(self.steps) if step.address + step.size == address), None)

    def origins(self, register: str, at: int) -> frozenset[int]:
        """Return the instructions that may have set ``register`` as it is before instruction ``at``.

        -1 stands for the function's beginning.
        """
        found: set[int] = set()
        seen: set[int] = set()
        left = [at]
        while left:
            place = left.pop()
            if place == 0:
                found.add(-1)
            for previous in self._before[place]:
                if register in self.steps[previous].sets:
                    found.add(previous)
                elif previous not in seen:
                    seen.add(previous)
                    left.append(previous)
        return frozenset(found)


def read_function(program: drgn.Program, pc: int) -> Function | None:
    """Decode the function that holds ``pc``; None where no symbol does or its code can't be read.

    Raises drgn.FaultError where the dump lacks its memory.
    """
    try:
        symbol = program.symbol(pc)
    except LookupError:
        return None
    if not 0 < symbol.size <= LARGEST_FUNCTION:
        return None
    return decode(program.read(symbol.address, symbol.size), symbol.address)


def decode(code: bytes, address: int) -> Function:
    """Decode ``code`` that begins at ``address``."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return Function([_step(instruction) for instruction in engine.disasm(code, address)])


def _step(instruction: capstone.CsInsn) -> Step:
    operands = instruction.operands
    written = {wide(instruction.reg_name(register)) for register in instruction.regs_access()[1]}
    memory = next((operand for operand in operands if operand.type == x86_const.X86_OP_MEM), None)
    touches = _operand(instruction, memory) if memory is not None else None
    calls = None
    if instruction.id == x86_const.X86_INS_CALL:
        written |= CALL_CLOBBERS
        calls = operands[0].imm & MASK if operands[0].type == x86_const.X86_OP_IMM else 0
    jump = capstone.CS_GRP_JUMP in instruction.groups
    ends = capstone.CS_GRP_RET in instruction.groups or instruction.id in (
        x86_const.X86_INS_JMP, x86_const.X86_INS_UD2,
    )  # fmt: skip
    source = _source(instruction) if len(operands) == 2 else (None, None, None)
    lea = instruction.id == x86_const.X86_INS_LEA
    return Step(
        address=instruction.address,
        size=instruction.size,
        text=f"{instruction.mnemonic} {instruction.op_str}".strip(),
        sets=frozenset(written),
        calls=calls,
        copies=source[0],
        loads=source[1],
        points=source[2],
        moves=_moved(instruction, source[2]),
        shifts=_shifted(instruction),
        touches=None if lea or instruction.id == x86_const.X86_INS_NOP else touches,
        writes=bool(memory is not None and memory.access & capstone.CS_AC_WRITE),
        target=operands[0].imm & MASK if jump and operands[0].type == x86_const.X86_OP_IMM else None,
        falls=not ends,
    )


def _source(instruction: capstone.CsInsn) -> tuple[str | None, Operand | None, Operand | None]:
    """Return what the first operand's new value is: a register's, memory's, or an address."""
    target, source = instruction.operands
    if target.type != x86_const.X86_OP_REG:
        return None, None, None
    if source.type == x86_const.X86_OP_MEM:
        operand = _operand(instruction, source)
        if instruction.id == x86_const.X86_INS_LEA:
            return None, None, operand
        return (None, operand, None) if instruction.mnemonic.startswith("mov") else (None, None, None)
    if source.type == x86_const.X86_OP_REG and instruction.mnemonic.startswith("mov"):
        return wide(instruction.reg_name(source.reg)), None, None
    return None, None, None


def _moved(instruction: capstone.CsInsn, points: Operand | None) -> tuple[str, int] | None:
    """Return the register that grows by a constant, and the constant."""
    target = instruction.operands[0] if instruction.operands else None
    if target is None or target.type != x86_const.X86_OP_REG:
        return None
    name = wide(instruction.reg_name(target.reg))
    if points is not None and points.base == name and not points.index:
        return name, points.displacement
    if instruction.id in (x86_const.X86_INS_INC, x86_const.X86_INS_DEC):
        return name, 1 if instruction.id == x86_const.X86_INS_INC else -1
    if instruction.id not in (x86_const.X86_INS_ADD, x86_const.X86_INS_SUB):
        return None
    source = instruction.operands[1]
    if source.type != x86_const.X86_OP_IMM:
        return None
    return name, source.imm if instruction.id == x86_const.X86_INS_ADD else -source.imm


def _shifted(instruction: capstone.CsInsn) -> str | None:
    if instruction.id != x86_const.X86_INS_SHR or len(instruction.operands) != 2:
        return None
    target, source = instruction.operands
    if (
        target.type != x86_const.X86_OP_REG
        or source.type != x86_const.X86_OP_IMM
        or source.imm != KASAN_SHIFT
    ):
        return None
    return wide(instruction.reg_name(target.reg))


def _operand(instruction: capstone.CsInsn, operand: capstone.x86.X86Op) -> Operand:
    memory = operand.mem
    base = wide(instruction.reg_name(memory.base)) if memory.base else None
    displacement = memory.disp
    if base == "rip":
        displacement += instruction.address + instruction.size
    index = wide(instruction.reg_name(memory.index)) if memory.index else None
    segment = memory.segment in (x86_const.X86_REG_GS, x86_const.X86_REG_FS)
    return Operand(base, index, memory.scale, displacement, operand.size, segment)


def address_of(operand: Operand, registers: Mapping[str, int]) -> int | None:
    """Return the address that an operand comes to; None where a register is not known or it is per-cpu."""
    if operand.segment:
        return None
    total = operand.displacement
    if operand.base and operand.base != "rip":
        if operand.base not in registers:
            return None
        total += registers[operand.base]
    if operand.index:
        if operand.index not in registers:
            return None
        total += registers[operand.index] * operand.scale
    return total & MASK
