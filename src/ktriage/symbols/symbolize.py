"""``func+0xoff/0xsize [module]`` to source lines, with the calls that the compiler inlined."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ktriage.console.types import Crash, Frame
from ktriage.symbols.program import DebugFiles, Loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import drgn

_POINTER = re.compile(
    r"(?:RIP: [0-9a-f]{4}:|\bpc : |\bepc : |PC is at |NIP \[[0-9a-f]+\] |Krnl PSW : .*)(\S+?)\+0x([0-9a-f]+)/"
)
_MODULE_ID = re.compile(r"\[([\w-]+)(?:\([A-Z+-]+\))? ([0-9a-f]{32,40})\]", re.ASCII)
_KERNEL_ID = re.compile(r"^.*\bCPU: \d+ .*\s([0-9a-f]{40})$", re.ASCII | re.MULTILINE)
_TREE = re.compile(
    r"^/.*?/((?:arch|block|certs|crypto|drivers|fs|include|init|io_uring|ipc|kernel|lib|mm|net|rust|security|"
    r"sound|virt)/.+)"
)
_CLONES = re.compile(r"\.(?:isra|part|constprop|cold|llvm)\b.*$")


def exact_frames(text: str) -> set[tuple[str, int]]:
    """Return (function, offset) of the frames that a report gives as the instruction's own address.

    All other frames are return addresses: the call is the instruction before.
    """
    return {(match[1], int(match[2], 16)) for match in _POINTER.finditer(text)}


def build_ids(text: str) -> dict[str | None, str]:
    """Return the build ids that a report has, by module, None being the kernel.

    Kernels with CONFIG_STACKTRACE_BUILD_ID (since Linux 5.14) print them behind the modules of a stack's
    entries (``sprint_backtrace_build_id()``, kernel/kallsyms.c) and at the end of the ``CPU:`` line
    (``dump_stack_print_info()``, lib/dump_stack.c).
    """
    found: dict[str | None, str] = {match[1]: match[2] for match in _MODULE_ID.finditer(text)}
    kernel = _KERNEL_ID.search(text)
    return found | ({None: kernel[1]} if kernel else {})


class Files(Protocol):
    """Where a symbolizer looks: ``DebugFiles``, or what a dump has loaded already."""

    unusable: dict[str, str]

    @property
    def program(self) -> drgn.Program:
        """The program that has the kernel's and its modules' symbols."""

    @property
    def release(self) -> str | None:
        """The kernel's release, where it is known."""

    def loaded(self, module: str | None) -> Loaded | None:
        """Return where a module (None: the kernel) is."""


class Symbolizer:
    """Finds source lines for frames; ``notes`` says what it could not find, and why, each once."""

    def __init__(
        self,
        vmlinux: Path | None = None,
        modules: Iterable[Path] = (),
        build_dir: Path | None = None,
        files: Files | None = None,
    ) -> None:
        self._files: Files = files or DebugFiles(vmlinux, modules)
        self._prefix = f"{build_dir}/" if build_dir else ""
        self._seen: dict[tuple[str | None, str, int | None], int | None] = {}
        self._refused: frozenset[str | None] = frozenset()
        self.notes: list[str] = []

    def crash(self, crash: Crash) -> Crash:
        """Return the crash with source lines in its stack; frames that have one already stay as they are.

        An inlined call comes as a frame of its own before the frame that it was inlined into.
        """
        if not crash.stack or any(frame.inline for frame in crash.stack):
            return crash
        exact = exact_frames(crash.text)
        self._refused = self._other_builds(build_ids(crash.text)) | self._other_release(crash.kernel)
        stack: list[Frame] = []
        for frame in crash.stack:
            is_exact = (frame.function, frame.offset) in exact
            stack += self.frame(frame, exact=is_exact)
            exact.discard((frame.function, frame.offset or 0))
        return replace(crash, stack=tuple(stack))

    def _other_builds(self, said: dict[str | None, str]) -> frozenset[str | None]:
        """Return the modules (None: the kernel) whose file has another build id than the report says."""
        refused = set()
        for module, build_id in said.items():
            loaded = self._files.loaded(module)
            own = loaded.layout.build_id if loaded else None
            if loaded and own and own != build_id:
                refused.add(module)
                self._note(f"{loaded.layout.path}: build id {own}, in the log {build_id}: another build")
        return frozenset(refused)

    def _other_release(self, said: str | None) -> frozenset[str | None]:
        """Return the kernel (None) if its file is of another release than the log says.

        Many functions have the same size in both. A release that is cut short is taken for the whole.
        """
        loaded, own = self._files.loaded(None), self._files.release
        if not (loaded and own and said) or own.startswith(said) or said.startswith(own):
            return frozenset()
        self._note(f"{loaded.layout.path}: Linux {own}, in the log {said}: another build")
        return frozenset([None])

    def frame(self, frame: Frame, *, exact: bool = False) -> list[Frame]:
        """Return a frame with its line, after those inlined into it; alone and unchanged where unknown.

        ``exact`` says that the offset is that of the instruction itself, not of the one after a call.
        """
        if frame.file or frame.offset is None or frame.module in self._refused:
            return [frame]
        start = self._start(frame)
        if start is None:
            return [frame]
        # The instruction before a return address is the call. A function that is entered at its first
        # byte was not called from there.
        address = start + frame.offset - (0 if exact or frame.offset == 0 else 1)
        try:
            places = self._files.program.source_location(address)
        except LookupError:
            self._note(f"{frame.function}: no line information")
            return [frame]
        return self._frames(frame, places)

    def _frames(self, frame: Frame, places: drgn.SourceLocationList) -> list[Frame]:
        found = []
        for depth, place in enumerate(places):
            file = self._path(place.filename, frame.module) if place.filename else None
            line = place.line or None
            if depth == len(places) - 1:
                found.append(replace(frame, file=file, line=line))
            else:
                found.append(
                    Frame(
                        function=place.name() or "?",
                        module=frame.module,
                        file=file,
                        line=line,
                        inline=True,
                        reliable=frame.reliable,
                        context=frame.context,
                    )
                )
        return found

    def _path(self, path: str, module: str | None) -> str:
        """Return a path as the source tree has it: assembly and some builds give absolute ones."""
        short = path.removeprefix(self._prefix) if self._prefix else path
        return tree_path(short) if module is None else short.removeprefix("./")

    def _start(self, frame: Frame) -> int | None:
        """Return the address of the function that a frame is in; None, with a note, where not known."""
        key = (frame.module, frame.function, frame.size)
        if key not in self._seen:
            loaded = self._files.loaded(frame.module)
            if loaded is None:
                self._note_missing(frame)
            self._seen[key] = self._find(frame, loaded) if loaded else None
        return self._seen[key]

    def _note_missing(self, frame: Frame) -> None:
        what = f"module {frame.module}" if frame.module else "the kernel"
        why = self._files.unusable.get(frame.module or "", "no file with debug information was given")
        self._note(f"{what}: {why}")

    def _find(self, frame: Frame, loaded: Loaded) -> int | None:
        symbols = [
            symbol
            for symbol in self._files.program.symbols(frame.function)
            if loaded.section_end(symbol.address) is not None
        ]
        if not symbols:
            self._note(f"{frame.function}: not in {loaded.layout.path}")
            return None
        fitting: set[int] = {symbol.address for symbol in symbols if self._fits(symbol, frame, loaded)}
        if len(fitting) == 1:
            return fitting.pop()
        if fitting:
            places = list(dict.fromkeys(self._places(fitting)))
            if len(places) == 1:
                # A function of a header that was compiled more than once, to code of the same size.
                return min(fitting)
            self._note(f"{frame.function}: may be any of {', '.join(places)}")
            return None
        sizes = ", ".join(f"{symbol.size:#x}" for symbol in symbols)
        self._note(
            f"{frame.function}: {frame.size or 0:#x} bytes in the log, {sizes} in {loaded.layout.path}: "
            "this is not the build that crashed"
        )
        return None

    def _places(self, addresses: set[int]) -> list[str]:
        """Return where the functions at some addresses stand in the sources."""
        places = []
        for address in sorted(addresses):
            try:
                place = self._files.program.source_location(address)[-1]
                places.append(f"{tree_path(place.filename)}:{place.line}")
            except LookupError:
                places.append(f"{address:#x}")
        return places

    def _fits(self, symbol: drgn.Symbol, frame: Frame, loaded: Loaded) -> bool:
        """Tell whether a symbol has the size that the log gives its function.

        The kernel does not keep sizes: kallsyms takes a function to reach to the next symbol, or to the
        end of its section, padding included.
        """
        # Labels within assembly have no size in the file, either.
        if frame.size is None or frame.size == symbol.size or symbol.size == 0:
            return True
        if frame.size < symbol.size or (frame.offset or 0) > frame.size:
            return False
        end = symbol.address + frame.size
        section_end = loaded.section_end(symbol.address)
        if section_end is not None and end >= section_end:
            return not self._code_between(symbol, section_end)
        # Tried first, as looking up an address goes through the whole table. It is also what finds a label
        # without a size that begins at the end: padding goes to it, but it is not found by its address.
        if any(frame.size == symbol.size + -symbol.size % align for align in (16, 32, 64)):
            return True
        return any(other.address == end for other in self._files.program.symbols(end))

    def _code_between(self, symbol: drgn.Symbol, section_end: int) -> bool:
        """Tell whether another function lies between a symbol and the end of its section."""
        step = symbol.address + symbol.size
        step += -step % 16
        return step < section_end and any(
            step <= other.address < section_end for other in self._files.program.symbols(step)
        )

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def tree_path(path: str) -> str:
    """Return the path of one of the kernel's own files as it is in the tree, where it was built elsewhere.

    >>> tree_path("/build/linux-6.1/arch/x86/entry/entry_64.S")
    'arch/x86/entry/entry_64.S'
    """
    match = _TREE.match(path)
    return match[1] if match else path.removeprefix("./")


def plain_name(function: str) -> str:
    """Return a function's name without what the compiler added: ``f.isra.0`` is ``f``."""
    return _CLONES.sub("", function)


def symbolize_crash(
    crash: Crash,
    *,
    vmlinux: Path | None = None,
    modules: Path | Iterable[Path] | None = None,
    build_dir: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Crash:
    """Return ``crash`` with the source lines of its frames, as far as they can be told.

    ``modules`` are module files with debug information, or directories of them. ``build_dir`` is cut off
    the front of paths. Where a line can't be told with certainty there is none, and ``note`` is told why,
    once for each reason as long as the same files are used.
    Raises UserError where ``vmlinux`` can't be used or a place for modules does not exist.
    """
    places = () if modules is None else (modules,) if isinstance(modules, Path) else tuple(modules)
    symbolizer = _symbolizer(vmlinux, places, build_dir)
    known = len(symbolizer.notes)
    found = symbolizer.crash(crash)
    for text in symbolizer.notes[known:]:
        note(text)
    return found


@lru_cache(maxsize=4)
def _symbolizer(vmlinux: Path | None, modules: tuple[Path, ...], build_dir: Path | None) -> Symbolizer:
    """Keep the files of the last calls open: a log has many crashes of one kernel."""
    return Symbolizer(vmlinux, modules, build_dir)
