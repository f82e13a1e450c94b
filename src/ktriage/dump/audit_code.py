"""Pointers into modules' code and data: how many a module has, and those into one that is gone or going."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ktriage.dump.holders.callbacks import POINTERS, Pointer
from ktriage.dump.holders.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

GOING = ("going",)


@dataclass(frozen=True, slots=True)
class Dangling:
    """A pointer into a module that is ``going``, or into where one was (``gone``)."""

    pointer: Pointer
    state: str
    module: str | None
    name: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``ktriage dump show --json ... audit`` prints for this pointer."""
        return {
            "kind": "dangling",
            "state": self.state,
            "module": self.module,
            "function": self.name,
            **{
                f"pointer_{name}" if name == "kind" else name: value
                for name, value in self.pointer.to_json().items()
            },
        }


@dataclass(frozen=True, slots=True)
class CodeUse:
    """How many pointers of each kind lead into each module, and those that dangle."""

    uses: dict[str, Counter[str]]
    dangling: tuple[Dangling, ...]


def audit_code(walk: Walk) -> CodeUse:
    """Return who points into modules; ``walk.notes`` says what could not be read."""
    states = {module.name: module.state for module in walk.modules}
    uses: dict[str, Counter[str]] = defaultdict(Counter)
    dangling = []
    for pointer in _pointers(walk):
        module = walk.module_at(pointer.target)
        if module is not None:
            uses[module][pointer.kind] += 1
            if states[module] in GOING:
                dangling.append(Dangling(pointer, "going", module, walk.name(pointer.target)))
        # What is armed may itself have been the module's: then even its function can't be read.
        elif walk.is_gone(pointer.target) or walk.is_gone(pointer.address):
            what = pointer.target or pointer.address
            dangling.append(Dangling(pointer, "gone", walk.last_unloaded, f"{what:#x}"))
    return CodeUse(dict(uses), tuple(dangling))


def _pointers(walk: Walk) -> Iterator[Pointer]:
    for source in POINTERS:
        with walk.guard(source.__name__.replace("_", " ")):
            yield from source(walk)
