"""Where a register got its value from, written as the source would say it: ``ring = card->rings[2]``.

What the compiler notes of variables is used where it says where they are. Elsewhere the code is followed
back, load by load, and members are named by the types of what they were loaded from. A variable that the
compiler lost sight of may still be told by its type: it has a pointer of the right type at the right offset.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import drgn

from ktriage.dump.core import BROKEN
from ktriage.dump.dataflow import ARGUMENTS, MASK, Function, Operand, Step, address_of
from ktriage.dump.members import Member, member_at, pointed_to, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEEPEST = 6
"""How many loads are followed back."""
POINTER = 8
LAST_SMALL = 4096
"""Values below are no addresses that a kernel maps: NULL, and members of what NULL points to."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a register held, and where it came from.

    ``expression`` is C, or None where nothing names it; ``address`` is where it was loaded from; ``now`` is
    what stands there in the dump. ``source`` is the value that it was reached by. ``certain`` is false where
    the name rests on the layout of types alone.
    """

    expression: str | None
    type_: drgn.Type | None
    value: int | None
    variable: str | None = None
    address: int | None = None
    now: int | None = None
    source: Value | None = None
    array: tuple[str, int, int, int] | None = None
    """Of an element: the array's expression, address, length and the size of an element."""
    certain: bool = True
    moved: bool = False
    """A loop has moved it on since it had this value."""

    @property
    def name(self) -> str | None:
        """The variable that holds it, else the expression."""
        return self.variable or self.expression


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in scope: its value, None where the compiler keeps none at this place."""

    name: str
    type_: drgn.Type
    value: int | None


@dataclass(slots=True)
class Tracer:
    """Follows registers back from one place in a function.

    ``at`` is the number of the instruction where ``registers`` had their values; ``variables`` are those in
    scope there, the innermost inlined function's first; ``caller`` follows what the function was given.
    """

    program: drgn.Program
    function: Function
    at: int
    registers: Mapping[str, int]
    variables: tuple[Variable, ...]
    parameters: tuple[tuple[str, drgn.Type], ...] = ()
    caller: Tracer | None = None

    def register(self, name: str, at: int | None = None, depth: int = DEEPEST) -> Value:
        """Return what is known of a register's value as it is before instruction ``at``.

        Of one that a loop moves on through an array it is the value that it had before the loop.
        """
        at = self.at if at is None else at
        value = self._now(name, at)
        found = self._found(name, at, value, depth) if depth else None
        if found is not None and found.value is not None and value is not None and found.moved:
            return found
        variable = self._variable(value, found)
        if found is None:
            return Value(variable.name if variable else None, variable.type_ if variable else None, value)
        known = next((v for v in (value, found.value, found.now) if v is not None), None)
        return replace(
            found,
            type_=found.type_ or (variable.type_ if variable else None),
            value=known,
            variable=variable.name if variable and variable.name != found.expression else found.variable,
        )

    def _found(self, name: str, at: int, value: int | None, depth: int) -> Value | None:
        """Return what the code says that the register got before instruction ``at``."""
        origins = self.function.origins(name, at)
        steady = {o for o in origins if o < 0 or not self._moves(o, name)}
        if len(steady) == 1:
            (origin,) = steady
            moved = len(origins) > 1
            found = self._set_by(origin, name, None if moved else value, depth)
            return replace(found, moved=moved) if found is not None else None
        # From several places: the one whose memory still holds the value is taken.
        for origin in sorted(steady, reverse=True):
            found = self._set_by(origin, name, value, depth) if origin >= 0 else None
            if found is not None and value is not None and found.now == value:
                return found
        return None

    def _moves(self, origin: int, name: str) -> bool:
        moves = self.function.steps[origin].moves
        return moves is not None and moves[0] == name

    def memory(self, operand: Operand, at: int | None = None, depth: int = DEEPEST) -> Value:
        """Return what is known of the memory that instruction ``at`` names, its value aside."""
        at = self.at if at is None else at
        known = {
            name: self._now(name, at) for name in (operand.base, operand.index) if name and name != "rip"
        }
        registers = {name: value for name, value in known.items() if value is not None}
        if operand.base == "rip" or (operand.base is None and operand.index is None):
            return self._global(operand)
        if operand.base is None:
            return Value(None, None, None, address=address_of(operand, registers))
        base = self.register(operand.base, at, depth - 1) if depth > 0 else Value(None, None, None)
        if base.value is not None:
            registers.setdefault(operand.base, base.value)
        address = address_of(operand, registers)
        offset = operand.displacement
        if base.value is not None:
            offset += registers[operand.base] - base.value
        if operand.index:
            offset += registers.get(operand.index, 0) * operand.scale
        member, base = self._member(base, operand.base, offset, operand.size)
        if member is None:
            return Value(None, None, None, address=address, source=base)
        expression = _follow(base.name or "?", member.path)
        if operand.index and operand.index not in registers and member.array:
            expression = expression.rsplit("[", 1)[0] + "[?]"
        array = None
        if member.array and base.value is not None:
            path, length, start = member.array
            where = (base.value + start) & MASK
            array = (_follow(base.name or "?", path), where, length, size_of(member.type_))
        return Value(
            expression, member.type_, None, address=address, source=base, array=array, certain=base.certain
        )

    def _now(self, name: str, at: int) -> int | None:
        """Return a register's value before instruction ``at``: changed since only by what can be undone."""
        if at == self.at:
            return self.registers.get(name)
        if self.function.origins(name, at) == self.function.origins(name, self.at):
            return self.registers.get(name)
        value = self.registers.get(name)
        if value is None or at > self.at:
            return None
        for place in range(self.at - 1, at - 1, -1):
            step = self.function.steps[place]
            if name in step.sets:
                if not self._moves(place, name) or step.moves is None:
                    return None
                value = (value - step.moves[1]) & MASK
            if not step.falls:
                return None
        return value

    def _set_by(self, origin: int, name: str, value: int | None, depth: int) -> Value | None:
        """Return what instruction ``origin`` made of the register; None where it can't be told."""
        if origin < 0:
            return self._argument(name)
        step = self.function.steps[origin]
        if step.calls is not None:
            return self._returned(step) if name == "rax" else None
        if step.copies:
            return self.register(step.copies, origin, depth - 1)
        if step.loads is not None:
            place = self.memory(step.loads, origin, depth)
            if place.expression is None and place.address is None:
                return None
            now = self._read(place.address, step.loads.size)
            return Value(
                place.expression, place.type_, value if value is not None else now,
                address=place.address, now=now, source=place.source, array=place.array, certain=place.certain,
            )  # fmt: skip
        if step.points is not None and step.points.base == "rip":
            target = self._global(step.points)
            return Value(f"&{target.expression}", None, target.address) if target.expression else None
        return None

    def _returned(self, step: Step) -> Value | None:
        if not step.calls:
            return None
        try:
            name = self.program.symbol(step.calls).name
        except LookupError:
            return None
        return Value(f"{name}()", None, None)

    def _argument(self, name: str) -> Value | None:
        """Return the parameter that the register brought, with what the caller knew of it."""
        given = self.caller.register(name) if self.caller is not None and name in ARGUMENTS else None
        number = ARGUMENTS.index(name) if name in ARGUMENTS else len(ARGUMENTS)
        if number < len(self.parameters):
            parameter, type_ = self.parameters[number]
            value = given.value if given is not None else self._now(name, 0)
            return Value(parameter, type_, value, source=_unless_named(given, parameter))
        return given if given is not None and given.name is not None else None

    def _global(self, operand: Operand) -> Value:
        address = operand.displacement & MASK
        if operand.index or operand.segment:
            return Value(None, None, None, address=address)
        try:
            symbol = self.program.symbol(address)
        except LookupError:
            return Value(None, None, None, address=address)
        try:
            variable = self.program.variable(symbol.name)
        except LookupError:
            return Value(symbol.name if symbol.address == address else None, None, None, address=address)
        if variable.address_ != symbol.address:
            return Value(symbol.name, None, None, address=address)
        if symbol.address == address and size_of(variable.type_) == operand.size:
            return Value(symbol.name, variable.type_, None, address=address)
        member = member_at(variable.type_, address - symbol.address, operand.size)
        if member is None:
            return Value(None, None, None, address=address)
        return Value(f"{symbol.name}{member.path}", member.type_, None, address=address)

    def _member(self, base: Value, register: str, offset: int, size: int) -> tuple[Member | None, Value]:
        """Return the member of what ``base`` points to, and the base as it is then known."""
        target = pointed_to(base.type_) if base.type_ is not None else None
        if target is not None:
            return member_at(target, offset, size), base
        if base.name is None:
            guesses = list(self._by_layout(offset, size))
            if len({variable.type_.type_name() for variable, _ in guesses}) == 1:
                variable, member = guesses[0]
                name = f"(({variable.type_.type_name()}){register})"
                return member, Value(name, variable.type_, base.value, source=base.source, certain=False)
        return None, base

    def _by_layout(self, offset: int, size: int) -> Iterator[tuple[Variable, Member]]:
        """Yield the variables that the compiler lost sight of and that have such a member."""
        for variable in self.variables:
            target = pointed_to(variable.type_) if variable.value is None else None
            member = member_at(target, offset, size) if target is not None else None
            if member is not None:
                yield variable, member

    def _variable(self, value: int | None, found: Value | None) -> Variable | None:
        """Return the variable that holds ``value``: a pointer, of the type that is expected."""
        if value is None:
            return None
        wanted = found.type_.type_name() if found is not None and found.type_ is not None else None
        for variable in self.variables:
            if variable.value != value or pointed_to(variable.type_) is None:
                continue
            if wanted == variable.type_.type_name() or (wanted is None and value >= LAST_SMALL):
                return variable
            if found is None and value < LAST_SMALL and self._alone(value):
                return variable
        return None

    def absolute(self, operand: Operand) -> Value | None:
        """Return the pointer variable whose member a constant address is, as that of an error's is."""
        for variable in self.variables:
            target = pointed_to(variable.type_) if variable.value is not None else None
            if target is None or variable.value is None:
                continue
            member = member_at(target, (operand.displacement - variable.value) & MASK, operand.size)
            if member is not None:
                base = Value(variable.name, variable.type_, variable.value)
                return Value(_follow(variable.name, member.path), member.type_, None, source=base)
        return None

    def _alone(self, value: int) -> bool:
        return sum(v.value == value and pointed_to(v.type_) is not None for v in self.variables) == 1

    def _read(self, address: int | None, size: int) -> int | None:
        if address is None or size not in (1, 2, 4, 8):
            return None
        try:
            return int.from_bytes(self.program.read(address, size), "little")
        except BROKEN:
            return None


def _follow(name: str, path: str) -> str:
    """Return ``name->member`` for the path ``.member``; ``name[i]`` for the path ``[i]``."""
    return f"{name}->{path[1:]}" if path.startswith(".") else f"{name}{path}"


def _unless_named(value: Value | None, name: str) -> Value | None:
    """Return ``value`` where it says more than the parameter's own name."""
    return value if value is not None and value.name not in (None, name) else None
