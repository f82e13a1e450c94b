"""The symbols of an opened dump, as the symbolizer of console logs asks for them.

The dump's own log is symbolized with what is open already: to open a vmlinux a second time costs as much
memory again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.dump.places import places_of
from ktriage.symbols.program import Loaded, read_layout

if TYPE_CHECKING:
    import drgn

    from ktriage.dump.core import Vmcore


class CoreFiles:
    """Where the kernel and the modules of a dump are; ``unusable`` says why a module has no file."""

    def __init__(self, core: Vmcore) -> None:
        self.program: drgn.Program = core.program
        self.unusable: dict[str, str] = {}
        self.release = core.release
        self._loaded: dict[str | None, Loaded | None] = {}

    def loaded(self, module: str | None) -> Loaded | None:
        """Return where a module (None: the kernel) is; None where no file of it is loaded."""
        if module not in self._loaded:
            self._loaded[module] = self._find(module)
        return self._loaded[module]

    def _find(self, name: str | None) -> Loaded | None:
        try:
            module = self.program.main_module() if name is None else self.program.module(name)
        except LookupError:
            return None
        if module.debug_file_path is None:
            return None
        layout = read_layout(Path(module.debug_file_path))
        if name is None:
            bias = module.debug_file_bias or 0
            return Loaded(layout, tuple((start + bias, end + bias) for _, start, end in layout.text))
        found = places_of(self.program).module(name.replace("-", "_"))
        return Loaded(layout, found.ranges) if found else None
