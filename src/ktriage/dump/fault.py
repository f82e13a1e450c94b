"""The access that killed the kernel: which pointer was bad, where it came from, and what lies there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import drgn

from ktriage.dump.chain import Tracer, Value, Variable
from ktriage.dump.core import BROKEN
from ktriage.dump.dataflow import Operand, address_of, decode, read_function
from ktriage.dump.pointer import FREE, HIGHEST, describe, place_of
from ktriage.dump.tasks import MOST_FRAMES, USER_END, read_frame
from ktriage.symbols.code import KASAN_SHADOW_OFFSET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ktriage.console.types import Crash, Frame
    from ktriage.dump.core import Vmcore

FAULTS = ("asm_exc_page_fault", "asm_exc_general_protection", "asm_exc_stack_segment", "page_fault",
          "general_protection", "stack_segment", "async_page_fault")  # fmt: skip
"""Entries of the exceptions that an access makes; without ``asm_exc_`` before Linux 5.8."""
MOST_ELEMENTS = 64
CALLERS = 6
"""How many callers are asked where an argument came from."""
_REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
)
_ENCODED = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    *(f"r{number}" for number in range(8, 16)),
)
"""Registers in the order of their numbers in instructions (Intel SDM, volume 2, table 2-2)."""
_PT_REGS = {"rax": "ax", "rbx": "bx", "rcx": "cx", "rdx": "dx", "rsi": "si", "rdi": "di", "rbp": "bp",
            "rsp": "sp", "rip": "ip"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the way to the bad pointer, the bad one first.

    ``expression`` is C; ``variable`` the one that holds its value, if any; ``address`` is where it was read
    and ``now`` what the dump has there: another value means that someone changed it since. ``object`` says
    what the value points into. ``elements`` tells of the other elements where it is one of an array.
    ``certain`` is false where the name rests on the types' layout alone.
    """

    expression: str
    value: int | None
    variable: str | None = None
    type: str | None = None
    address: int | None = None
    now: int | None = None
    object: str | None = None
    elements: str | None = None
    certain: bool = True

    @property
    def freed(self) -> bool:
        """Whether the value points into an object that is free."""
        return self.object is not None and self.object.endswith(FREE)


@dataclass(frozen=True, slots=True)
class Fault:
    """A bad access.

    ``kind`` is ``read``, ``write`` or ``call`` (of an address that is no code). ``where`` is the frame,
    ``instruction`` its code, ``operand`` the access in registers, ``address`` what that came to, ``target``
    the access in the source's words where they are known. ``bad`` says what is wrong with the pointer.
    ``chain`` leads from it to where it came from.
    """

    kind: str
    where: Frame
    pid: int
    comm: str
    instruction: str
    operand: str
    address: int
    size: int
    target: str | None
    bad: str
    chain: tuple[Link, ...]
    variables: tuple[tuple[str, str, str], ...]
    """Arguments and local variables of the function: name, type, value as drgn writes it."""

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... summary`` prints for it."""
        from dataclasses import asdict

        return {
            "kind": "fault",
            "access": self.kind,
            **{k: v for k, v in asdict(self).items() if k != "kind"},
        }

    @property
    def sentence(self) -> str:
        """What happened, in one line."""
        what = self.target or self.operand
        size = "" if self.kind == "call" else f" of {self.size} byte{'s' if self.size != 1 else ''}"
        text = f"{self.kind}{size} at {what} ({self.address:#x}): {self.bad}"
        elements = [link.elements for link in self.chain if link.elements]
        freed = [f"{link.variable or link.expression} is {link.object}" for link in self.chain if link.freed]
        more = elements[:1] + freed[:1]
        return "; ".join([text, *more])


def find_fault(core: Vmcore, crashes: Sequence[Crash] = ()) -> Fault | None:
    """Return the bad access that the dump's kernel died of, or None where it died of something else.

    It is looked for on the stack of the task that panicked; where that task is gone (an oops without a
    panic), in the registers that the first of ``crashes`` printed: then memory is as it was at the dump, not
    at the oops. Only x86-64 is read. What can't be read is noted in ``core.notes``.
    """
    program = core.program
    platform = program.platform
    if platform is None or platform.arch != drgn.Architecture.X86_64:
        return None
    try:
        thread = program.crashed_thread()
    except (ValueError, LookupError):
        thread = None  # it did not panic
    try:
        trace = list(islice(thread.stack_trace(), MOST_FRAMES)) if thread is not None else []
        found = _faulting(trace)
        if thread is not None and found is not None:
            comm = thread.object.comm.string_().decode(errors="replace")
            return _fault(program, trace, found, thread.tid, comm)
    except BROKEN as error:
        core.notes.append(f"the stack of the task that panicked: {str(error) or type(error).__name__}")
    for crash in crashes:
        try:
            trace = _printed(program, crash)
            if trace:
                return _fault(program, trace, 0, crash.pid or 0, crash.comm or "?")
        except BROKEN as error:
            core.notes.append(f"the registers of {crash.title!r}: {str(error) or type(error).__name__}")
    return None


def _faulting(trace: Sequence[drgn.StackFrame]) -> int | None:
    """Return the frame that the outermost exception of a bad access interrupted, in the kernel."""
    found = None
    for number, (inner, frame) in enumerate(pairwise(trace), 1):
        if inner.name.startswith(FAULTS) and frame.interrupted and not _register(frame, "cs") & 3:
            found = number
    return found


def _printed(program: drgn.Program, crash: Crash) -> list[drgn.StackFrame]:
    """Return the stack as far as the registers that a crash printed lead."""
    if not re.search(r"nable to handle|general protection fault|NULL pointer dereference", crash.text):
        return []
    top = next((frame for frame in crash.stack if frame.offset is not None and not frame.inline), None)
    values = {_PT_REGS.get(_plain(name), _plain(name)): value for name, value in crash.registers.items()}
    if top is None or "sp" not in values:
        return []
    address = program.symbol(top.function).address + (top.offset or 0)
    members = {member.name for member in program.type("struct pt_regs").members or ()}
    regs = {name: value for name, value in values.items() if name in members} | {"ip": address}
    return list(islice(program.stack_trace(drgn.Object(program, "struct pt_regs", regs)), MOST_FRAMES))


def _plain(name: str) -> str:
    return re.sub(r"^r0(\d)$", r"r\1", name.lower())


def _register(frame: drgn.StackFrame, name: str) -> int:
    try:
        return int(frame.register(name))
    except (LookupError, ValueError):
        return 0


def _fault(
    program: drgn.Program, trace: Sequence[drgn.StackFrame], at: int, pid: int, comm: str
) -> Fault | None:
    """Explain the access of frame ``at``, or the call that led to an address that is no code."""
    called = trace[at].pc <= USER_END or not _is_code(program, trace[at].pc)
    registers = _registers(trace[at])
    if called:
        # The next frame is the caller, and nothing has run since it called.
        at = next((n for n in range(at + 1, len(trace)) if trace[n].pc > USER_END), len(trace))
    tracer = _tracer(program, trace, at, registers, called=called)
    if tracer is None:
        return None
    scope = _scope(trace, at)
    step = tracer.function.steps[tracer.at]
    operand = step.touches
    if operand is None:
        return _called_register(tracer, scope, pid, comm) if called else None
    operand, place = _unshadowed(tracer, operand)
    target = tracer.memory(operand, place)
    if operand.base is None and operand.index is None:
        target = tracer.absolute(operand) or target
    address = target.address if place != tracer.at else address_of(operand, registers)
    if address is None:
        return None
    if called:
        value = _word(program, address)
        bad, what, address = replace(target, value=value, now=value), target.expression, value or 0
        what = f"{what}()" if what else None
    else:
        bad = target.source or Value(None, None, registers.get(operand.base or ""))
        what = target.expression
    kind = "call" if called else "write" if step.writes else "read"
    return _made(program, scope, pid, comm, kind, step.text, operand, address, what, bad)


def _tracer(
    program: drgn.Program,
    trace: Sequence[drgn.StackFrame],
    at: int,
    registers: dict[str, int],
    *,
    called: bool,
    depth: int = CALLERS,
) -> Tracer | None:
    """Return what follows registers back from frame ``at``: from its instruction, or the call before it."""
    if at >= len(trace) or trace[at].pc <= USER_END:
        return None
    frame = trace[at]
    function = read_function(program, frame.pc - called)
    if function is None:
        return None
    place = function.ending_at(frame.pc) if called else function.place(frame.pc)
    if place is None:
        return None
    scope = _scope(trace, at)
    above = at + len(scope)
    caller = None
    if depth and above < len(trace):
        caller = _tracer(
            program,
            trace,
            above,
            _registers(trace[above]),
            called=not trace[above].interrupted,
            depth=depth - 1,
        )
    return Tracer(program, function, place, registers, _variables(scope), _parameters(program, scope), caller)


def _registers(frame: drgn.StackFrame) -> dict[str, int]:
    return {name: frame.register(name) for name in _REGISTERS if _has(frame, name)}


def _unshadowed(tracer: Tracer, operand: Operand) -> tuple[Operand, int]:
    """Return what KASAN was about to check where the operand is its shadow; else the operand itself.

    Inline checks take the address, shift it right by 3, and read the byte at that plus a constant.
    """
    names = [name for name in (operand.base, operand.index) if name]
    others = [name for name in names if tracer.registers.get(name) != KASAN_SHADOW_OFFSET]
    hidden = operand.displacement & HIGHEST == KASAN_SHADOW_OFFSET or len(others) < len(names)
    if not hidden or len(others) != 1:
        return operand, tracer.at
    name, at = others[0], tracer.at
    for _ in range(CALLERS):
        origins = tracer.function.origins(name, at)
        if len(origins) != 1 or min(origins) < 0:
            break
        (at,) = origins
        step = tracer.function.steps[at]
        if step.points is not None:
            return replace(step.points, size=0), at
        if step.copies is None and step.shifts != name:
            return Operand(name, None, 1, 0, 0), at + 1
        name = step.copies or name
    return Operand(name, None, 1, 0, 0), at


def _called_register(tracer: Tracer, scope: Sequence[drgn.StackFrame], pid: int, comm: str) -> Fault | None:
    """Explain a call through a register, as retpolines make it (``call __x86_indirect_thunk_rax``)."""
    program, step = tracer.program, tracer.function.steps[tracer.at]
    name = _thunk(program, step.calls) if step.calls else step.text.split()[-1]
    if name not in _REGISTERS:
        return None
    value = tracer.register(name)
    operand = Operand(name, None, 1, 0, 8)
    what = f"{value.name}()" if value.name else None
    return _made(program, scope, pid, comm, "call", step.text, operand, value.value or 0, what, value)


def _thunk(program: drgn.Program, address: int) -> str | None:
    """Return the register that a retpoline calls through: ``__x86_indirect_thunk_rax``, or its array's entry.

    The array is since Linux 5.16 (commit 1a6f74429c42); its entries are 32 bytes, in the machine's order.
    """
    for symbol in program.symbols(address):
        head, _, name = str(symbol.name).rpartition("_")
        if head != "__x86_indirect_thunk":
            continue
        if name == "array":
            return _ENCODED[int(address - symbol.address) // 32 % len(_ENCODED)]
        if symbol.address == address:
            return str(name)
    return None


def _made(
    program: drgn.Program,
    scope: Sequence[drgn.StackFrame],
    pid: int,
    comm: str,
    kind: str,
    instruction: str,
    operand: Operand,
    address: int,
    target: str | None,
    bad: Value,
) -> Fault:
    chain: list[Link] = []
    value: Value | None = bad
    while value is not None:
        if value.name is not None:
            chain.append(_link(program, value))
        value = value.source
    name = bad.name or operand.base or f"{address:#x}"
    why = describe(program, bad.value) if bad.value is not None else describe(program, address)
    return Fault(
        kind=kind,
        where=read_frame(program, scope[0]),
        pid=pid,
        comm=comm,
        instruction=instruction,
        operand=str(operand),
        address=address,
        size=operand.size,
        target=target,
        bad=f"{name} is {why}",
        chain=tuple(chain),
        variables=tuple(_written(scope)),
    )


def _link(program: drgn.Program, value: Value) -> Link:
    return Link(
        expression=value.expression or value.name or "?",
        value=value.value,
        variable=value.variable,
        type=value.type_.type_name() if value.type_ is not None else None,
        address=value.address,
        now=value.now,
        object=place_of(program, value.value) if value.value is not None else None,
        elements=_elements(program, value),
        certain=value.certain,
    )


def _elements(program: drgn.Program, value: Value) -> str | None:
    """Say of an array's elements how many are NULL, or share the bad value."""
    if value.array is None or value.value is None:
        return None
    name, address, length, size = value.array
    if size != 8 or not 1 < length <= MOST_ELEMENTS:
        return None
    words = [_word(program, address + 8 * number) for number in range(length)]
    same = sum(word == value.value for word in words)
    text = "NULL" if value.value == 0 else f"{value.value:#x}"
    which = f"all {length}" if same == length else f"{same} of the {length}"
    return f"{which} elements of {name} are {text}"


def _word(program: drgn.Program, address: int) -> int | None:
    try:
        return int(program.read_u64(address))
    except BROKEN:
        return None


def _has(frame: drgn.StackFrame, name: str) -> bool:
    try:
        frame.register(name)
    except (LookupError, ValueError):
        return False
    return True


def _is_code(program: drgn.Program, address: int) -> bool:
    try:
        data = program.read(address, 1)
    except BROKEN:
        return False
    try:
        program.symbol(address)
    except LookupError:
        return bool(decode(data, address).steps)
    return True


def _scope(trace: Sequence[drgn.StackFrame], at: int) -> list[drgn.StackFrame]:
    """Return the frame and those that it is inlined in, innermost first."""
    scope = [trace[at]]
    while scope[-1].is_inline and at + len(scope) < len(trace):
        scope.append(trace[at + len(scope)])
    return scope


def _variables(scope: Sequence[drgn.StackFrame]) -> tuple[Variable, ...]:
    found = []
    for frame in scope:
        for name in frame.locals():
            try:
                variable = frame[name]
                number = None
                if not variable.absent_ and variable.type_.kind == drgn.TypeKind.POINTER:
                    number = variable.value_()
                found.append(Variable(name, variable.type_, number))
            except (*BROKEN, TypeError):
                continue
    return tuple(found)


def _written(scope: Sequence[drgn.StackFrame]) -> list[tuple[str, str, str]]:
    """Return the variables as a person reads them."""
    rows = []
    for frame in scope:
        for name in frame.locals():
            try:
                variable = frame[name]
                text = "optimized out"
                if not variable.absent_:
                    text = variable.format_(dereference=False, type_name=False, columns=80)
                rows.append((name, variable.type_.type_name(), text))
            except (*BROKEN, TypeError):
                continue
    return rows


def _parameters(program: drgn.Program, scope: Sequence[drgn.StackFrame]) -> tuple[tuple[str, drgn.Type], ...]:
    """Return names and types of the function's parameters; none where the compiler may have changed them.

    GCC names the functions whose parameters it changed ``.isra`` and ``.constprop``.
    """
    frame = scope[-1]
    try:
        if "." in frame.symbol().name:
            return ()
        function = program.function(frame.name)
    except LookupError:
        return ()
    return tuple((p.name or "?", p.type) for p in function.type_.parameters)
