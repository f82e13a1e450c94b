"""Which member of a type lies at an offset, as one would write it in C."""

from __future__ import annotations

from dataclasses import dataclass

import drgn

DEEPEST = 16
"""How many levels of members and arrays are gone down."""

_NAMED = (drgn.TypeKind.STRUCT, drgn.TypeKind.UNION, drgn.TypeKind.CLASS)


@dataclass(frozen=True, slots=True)
class Member:
    """A member: ``path`` from the object (``.rings[2]``), its type, and its bits where it is a bit field.

    ``array`` is the path of the innermost array that it is an element of, with the array's length and the
    offset of the first element, or None.
    """

    path: str
    type_: drgn.Type
    array: tuple[str, int, int] | None = None


def plain(type_: drgn.Type) -> drgn.Type:
    """Return the type without its typedefs."""
    while type_.kind == drgn.TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def pointed_to(type_: drgn.Type) -> drgn.Type | None:
    """Return what a pointer type points to, where that has a size; None for another type."""
    type_ = plain(type_)
    if type_.kind != drgn.TypeKind.POINTER:
        return None
    target = plain(type_.type)
    return target if size_of(target) else None


def size_of(type_: drgn.Type) -> int:
    """Return a type's bytes; 0 where it has no size: void, a function, a struct not defined here."""
    try:
        return int(drgn.sizeof(type_))
    except TypeError:
        return 0


def member_at(type_: drgn.Type, offset: int, size: int) -> Member | None:
    """Return the innermost member at ``offset`` bytes into ``type_`` that is ``size`` bytes long.

    Where members of a union or nested ones fit alike, the first does. None where nothing of that size
    begins there.
    """
    return _member(type_, offset, size, "", None, 0, DEEPEST)


def _member(
    type_: drgn.Type,
    offset: int,
    size: int,
    path: str,
    array: tuple[str, int, int] | None,
    start: int,
    depth: int,
) -> Member | None:
    """``start`` is the offset of ``type_`` itself in the outermost object."""
    type_ = plain(type_)
    if not depth or offset < 0:
        return None
    if type_.kind in _NAMED:
        for member in type_.members or ():
            at, rest = divmod(member.bit_offset, 8)
            length = size_of(member.type)
            if member.bit_field_size is not None:
                if (
                    at <= offset
                    and offset + size >= at + (rest + member.bit_field_size + 7) // 8
                    and member.name
                ):
                    return Member(f"{path}.{member.name}", member.type, array)
                continue
            if at <= offset and (offset + size <= at + length):
                inner = path if member.name is None else f"{path}.{member.name}"
                found = _member(member.type, offset - at, size, inner, array, start + at, depth - 1)
                if found is not None:
                    return found
        return None
    if type_.kind == drgn.TypeKind.ARRAY and type_.length:
        step = size_of(type_.type)
        if not step or offset >= step * type_.length:
            return None
        number = offset // step
        here = (path, type_.length, start)
        return _member(
            type_.type, offset % step, size, f"{path}[{number}]", here, start + number * step, depth - 1
        )
    return Member(path, type_, array) if offset == 0 and size_of(type_) == size else None
