"""What a module's machine code does with works and timers: which function sets up, queues, cancels which.

For x86-64. The code is read from the dump's memory and gone through from front to end of each function,
with the registers as sums of an unknown (an argument, a call's result, a value loaded) and a constant: a
``lea 0x88(%rbx),%rdx`` before a call of queue_work_on() says that the work is at offset 0x88 of what rbx
points to. Branches are not followed: what a call leaves of the caller-saved registers and what a jump may
bring in others counts as unknown, so that some sites are missed, and none is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import capstone
from capstone import x86_const

from ktriage.dump.dataflow import ARGUMENTS, CALL_CLOBBERS, wide

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ktriage.dump.places import Module, Places

MASK = (1 << 64) - 1
LARGEST_MODULE = 16 << 20
"""Bytes of code that are looked at; the largest modules have a few MB."""
LARGEST_FUNCTION = 1 << 16

QUEUES = {
    # function: the argument that is the work or timer
    "queue_work_on": 2,
    "__queue_work": 2,
    "queue_work_node": 2,
    "queue_delayed_work_on": 2,
    "mod_delayed_work_on": 2,
    "queue_rcu_work": 1,
    "__queue_delayed_work": 2,
    "schedule_work": 0,
    "schedule_work_on": 1,
    "schedule_delayed_work": 0,
    "mod_timer": 0,
    "mod_timer_pending": 0,
    "add_timer": 0,
    "add_timer_on": 0,
    "timer_reduce": 0,
    "hrtimer_start_range_ns": 0,
    "enable_work": 0,
    "__tasklet_schedule": 0,
    "__tasklet_hi_schedule": 0,
}
"""What queues a work or arms a timer (include/linux/workqueue.h, timer.h)."""
CANCELS = {
    "cancel_work": 0,
    "cancel_work_sync": 0,
    "cancel_delayed_work": 0,
    "cancel_delayed_work_sync": 0,
    "flush_work": 0,
    "flush_delayed_work": 0,
    "disable_work": 0,
    "disable_work_sync": 0,
    "disable_delayed_work": 0,
    "disable_delayed_work_sync": 0,
    "del_timer": 0,
    "del_timer_sync": 0,
    "try_to_del_timer_sync": 0,
    "timer_delete": 0,
    "timer_delete_sync": 0,
    "timer_shutdown": 0,
    "timer_shutdown_sync": 0,
    "hrtimer_cancel": 0,
    "hrtimer_try_to_cancel": 0,
    "tasklet_kill": 0,
}
"""What takes a work off its queue or disarms a timer."""
FINAL = frozenset(
    {
        "disable_work",
        "disable_work_sync",
        "disable_delayed_work",
        "disable_delayed_work_sync",
        "timer_shutdown",
        "timer_shutdown_sync",
    }
)
"""Those of them after which it can't be queued again."""
SETUPS = {
    "init_timer_key": ("timer", 0, 1),
    "timer_init_key": ("timer", 0, 1),
    "hrtimer_setup": ("hrtimer", 0, 1),
    "tasklet_setup": ("tasklet", 0, 1),
    "tasklet_init": ("tasklet", 0, 1),
}
"""What sets up a timer or tasklet: which, and its arguments that are that and the function."""
IRQS = {
    "request_threaded_irq": (1, 2),
    "request_any_context_irq": (1,),
    "devm_request_threaded_irq": (2, 3),
    "devm_request_any_context_irq": (2,),
    "pci_request_irq": (2, 3),
}
"""What installs interrupt handlers: the arguments that are functions."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a register holds: ``base`` (``arg0``, ``*(arg0+0x18)``, ...; empty for none) plus ``offset``."""

    base: str
    offset: int

    def moved(self, by: int) -> Value:
        """Return it with ``by`` added."""
        return Value(self.base, self.offset + by if self.base else (self.offset + by) & MASK)


@dataclass(frozen=True, slots=True)
class Site:
    """A call in the module: ``caller`` at ``address`` calls ``callee``; ``target`` is the work or timer."""

    caller: str
    caller_start: int
    address: int
    returns_to: int
    callee: str
    target: Value | None = None

    @property
    def offset(self) -> int:
        """Bytes of the call into its function."""
        return self.address - self.caller_start


@dataclass(frozen=True, slots=True)
class Setup:
    """A function of the module that is made a callback: of the work, timer or interrupt at ``target``."""

    caller: str
    function: int
    kind: str
    target: Value | None


@dataclass(slots=True)
class ModuleCode:
    """What was found in a module's code. ``calls`` are all its direct calls, by the caller's name."""

    queues: list[Site] = field(default_factory=list)
    cancels: list[Site] = field(default_factory=list)
    setups: list[Setup] = field(default_factory=list)
    calls: dict[str, list[Site]] = field(default_factory=dict)

    def callers(self, function: str) -> list[Site]:
        """Return the module's calls of ``function``."""
        return [site for sites in self.calls.values() for site in sites if site.callee == function]


@lru_cache(maxsize=1)
def _disassembler() -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    engine.skipdata = True
    return engine


def read_code(places: Places, module: Module) -> ModuleCode:
    """Return what the code of ``module`` does with works and timers.

    Functions that the dump lacks are passed over.
    """
    found = ModuleCode()
    functions = places.functions(module)
    known = {start: name for start, _, name in functions}
    total = 0
    for start, end, name in functions:
        size = min(end - start, LARGEST_FUNCTION)
        total += size
        if size <= 0 or total > LARGEST_MODULE:
            continue
        code = places.read(start, size)
        if code is not None:
            _Sweep(places, known, found, name, start).run(code)
    return found


class _Sweep:
    """One function, gone through from front to end."""

    def __init__(
        self, places: Places, known: dict[int, str], found: ModuleCode, name: str, start: int
    ) -> None:
        self.places = places
        self.known = known
        self.found = found
        self.name = name
        self.start = start
        self.values: dict[str, Value] = {r: Value(f"arg{n}", 0) for n, r in enumerate(ARGUMENTS)}
        self.targets: set[int] = set()

    def run(self, code: bytes) -> None:
        instructions = [i for i in _disassembler().disasm(code, self.start) if i.id]
        end = self.start + len(code)
        for instruction in instructions:
            target = _target(instruction)
            if target is not None and self.start <= target < end and instruction.group(capstone.CS_GRP_JUMP):
                self.targets.add(target)
        for instruction in instructions:
            if instruction.address in self.targets:
                self._forget(CALL_CLOBBERS)
            self._step(instruction, end)

    def _step(self, instruction: capstone.CsInsn, end: int) -> None:
        if not instruction.id:
            return
        target = _target(instruction)
        called = instruction.group(capstone.CS_GRP_CALL)
        left = target is not None and instruction.group(capstone.CS_GRP_JUMP)
        if target is not None and (called or (left and not self.start <= target < end)):
            self._call(instruction, target)
        if called:
            self._forget(CALL_CLOBBERS)
            self.values["rax"] = Value(f"result of the call at {instruction.address:#x}", 0)
        elif not instruction.group(capstone.CS_GRP_JUMP):
            self._assign(instruction)

    def _forget(self, registers: Iterable[str]) -> None:
        for register in registers:
            self.values.pop(register, None)

    def _call(self, instruction: capstone.CsInsn, target: int) -> None:
        callee = self.known.get(target) or self.places.code(target).name
        argument = QUEUES.get(callee, CANCELS.get(callee, 0))
        value = self.values.get(ARGUMENTS[argument])
        site = Site(
            self.name,
            self.start,
            instruction.address,
            instruction.address + instruction.size,
            callee,
            value,
        )
        self.found.calls.setdefault(self.name, []).append(site)
        if callee in QUEUES:
            self.found.queues.append(site)
        elif callee in CANCELS:
            self.found.cancels.append(site)
        elif callee in SETUPS:
            kind, timer, function = SETUPS[callee]
            self._setup(kind, self.values.get(ARGUMENTS[function]), self.values.get(ARGUMENTS[timer]))
        elif callee in IRQS:
            for index in IRQS[callee]:
                self._setup("interrupt", self.values.get(ARGUMENTS[index]), None)

    def _setup(self, kind: str, function: Value | None, target: Value | None) -> None:
        if function is not None and not function.base and function.offset:
            self.found.setups.append(Setup(self.name, function.offset, kind, target))

    def _assign(self, instruction: capstone.CsInsn) -> None:
        """Follow an instruction that moves or adds; all else leaves what it writes unknown."""
        operands = instruction.operands
        if len(operands) == 2 and operands[0].type == x86_const.X86_OP_MEM:
            self._store(operands[0], operands[1], instruction)
            return
        if len(operands) == 2 and operands[0].type == x86_const.X86_OP_REG:
            register = wide(instruction.reg_name(operands[0].reg))
            value = self._result(instruction, register, operands[0].size)
            if not _only_reads(instruction):
                self._forget((register,))
                if value is not None:
                    self.values[register] = value
            return
        for register in _written(instruction):
            self._forget((register,))

    def _result(self, instruction: capstone.CsInsn, register: str, size: int) -> Value | None:
        first, second = instruction.operands
        name = instruction.mnemonic
        # 32-bit results are zero-extended; what is narrower keeps the rest, and is of no interest.
        if name == "xor" and second.type == x86_const.X86_OP_REG and first.reg == second.reg:
            return Value("", 0)
        if name == "lea":
            return self._place(second, instruction)
        if name in ("mov", "movabs") and size >= 4:
            return self._moved(second, instruction)
        if name in ("add", "sub") and second.type == x86_const.X86_OP_IMM and register in self.values:
            return self.values[register].moved(second.imm if name == "add" else -second.imm)
        return None

    def _moved(self, source: capstone.x86.X86Op, instruction: capstone.CsInsn) -> Value | None:
        if source.type == x86_const.X86_OP_IMM:
            return Value("", source.imm & MASK)
        if source.type == x86_const.X86_OP_REG:
            return self.values.get(wide(instruction.reg_name(source.reg)))
        place = self._place(source, instruction)
        if place is None:
            return Value(f"loaded at {instruction.address:#x}", 0)
        return Value(f"*({place.base or 'at'}+{place.offset:#x})", 0)

    def _place(self, operand: capstone.x86.X86Op, instruction: capstone.CsInsn) -> Value | None:
        """Return the address that a memory operand means."""
        memory = operand.mem
        if memory.index or memory.segment:
            return None
        if not memory.base:
            return Value("", memory.disp & MASK)
        base = instruction.reg_name(memory.base)
        if base == "rip":
            return Value("", (instruction.address + instruction.size + memory.disp) & MASK)
        value = self.values.get(wide(base))
        return None if value is None else value.moved(memory.disp)

    def _store(
        self, to: capstone.x86.X86Op, source: capstone.x86.X86Op, instruction: capstone.CsInsn
    ) -> None:
        """Take in a function's address that is stored: that is how INIT_WORK() sets work_struct.func."""
        if instruction.mnemonic != "mov" or to.size != 8:
            return
        value = self._moved(source, instruction) if source.type != x86_const.X86_OP_MEM else None
        if value is not None and not value.base and value.offset in self.known:
            self.found.setups.append(Setup(self.name, value.offset, "stored", self._place(to, instruction)))


def _target(instruction: capstone.CsInsn) -> int | None:
    """Return where a direct call or jump goes."""
    if not (instruction.group(capstone.CS_GRP_CALL) or instruction.group(capstone.CS_GRP_JUMP)):
        return None
    operand = instruction.operands[0] if instruction.operands else None
    if operand is None or operand.type != x86_const.X86_OP_IMM:
        return None
    return int(operand.imm) & MASK


def _only_reads(instruction: capstone.CsInsn) -> bool:
    return instruction.mnemonic in ("cmp", "test", "bt", "push")


def _written(instruction: capstone.CsInsn) -> list[str]:
    return [wide(instruction.reg_name(register)) for register in instruction.regs_access()[1]]


def order_of(places: Places, module: Module, function: str, call: int, pc: int) -> bool | None:
    """Tell whether the call at ``call`` has run where a frame of the same function goes on at ``pc``.

    True where every way from the function's entry to ``pc`` leads through it, False where none leads from it
    to ``pc``, None where it depends on a branch. Of a jump through a register the targets are not known:
    then it is None, too.
    """
    edges, start, known = _flow(places, module, function)
    if not known or call not in edges or start is None:
        return None
    # A frame goes on behind its call: the call itself is what has to be reached.
    here = max((address for address in edges if address < pc), default=None)
    if here is None:
        return None
    if here not in _reached(edges, edges.get(call, ())):
        return False
    return True if here != call and here not in _reached(edges, (start,), without=call) else None


def always_calls(places: Places, module: Module, function: str, call: int) -> bool:
    """Tell whether every way through a function, from its entry to its ends, makes the call at ``call``."""
    edges, start, known = _flow(places, module, function)
    if not known or call not in edges or start is None:
        return False
    # Where it goes on is outside of it: a return, or a jump to another function.
    ends = {at for at, to in edges.items() if not to or any(place not in edges for place in to)}
    return not ends & _reached(edges, (start,), without=call)


def _flow(
    places: Places, module: Module, function: str
) -> tuple[dict[int, tuple[int, ...]], int | None, bool]:
    """Return where each instruction of a function goes on, its start, and whether all of that is known.

    Parts that gcc has moved away (``function.cold``) are taken in.
    """
    edges: dict[int, tuple[int, ...]] = {}
    start, known = None, True
    for begin, end, name in places.functions(module):
        if name.removesuffix(".cold") != function:
            continue
        start = begin if name == function else start
        code = places.read(begin, min(end - begin, LARGEST_FUNCTION))
        for instruction in _disassembler().disasm(code or b"", begin):
            if not instruction.id:
                continue
            following = instruction.address + instruction.size
            target = _target(instruction)
            jumps = instruction.group(capstone.CS_GRP_JUMP)
            ends = instruction.group(capstone.CS_GRP_RET) or instruction.mnemonic in ("ud2", "int3")
            if jumps and target is None:
                known = False
            to = [] if ends or instruction.mnemonic == "jmp" else [following]
            edges[instruction.address] = (*to, *([target] if jumps and target is not None else []))
    return edges, start, known


def _reached(
    edges: dict[int, tuple[int, ...]], starts: Iterable[int], without: int | None = None
) -> set[int]:
    """Return the instructions that are reached from ``starts`` by ways that do not use ``without``."""
    seen: set[int] = set()
    todo = [start for start in starts if start != without]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        todo += [to for to in edges.get(at, ()) if to != without]
    return seen
