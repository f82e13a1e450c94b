"""What stands at an address of a dumped kernel: code, a variable, a slab object, a task's stack."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import drgn
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.kallsyms import module_kallsyms
from drgn.helpers.linux.mm import (
    compound_head,
    compound_order,
    in_direct_map,
    page_to_virt,
    virt_to_page,
)
from drgn.helpers.linux.module import for_each_module, module_address_regions
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import cpu_rq
from drgn.helpers.linux.slab import slab_object_info

from ktriage.dump.core import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_MODULES = 4096
MOST_TASKS = 1_000_000
MOST_ENTRIES = 1_000_000
MOST_SYMBOLS = 100_000
THREAD_SIZE = 16384
"""Bytes of a kernel stack where the kernel does not say (x86-64 without KASAN)."""
MODULE_AREA = 0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000
"""Where x86-64 may put modules (MODULES_VADDR to MODULES_END; Documentation/arch/x86/x86_64/mm.rst)."""
TASK_IDLE = 0x402
TASK_REPORT = 0x7F
TASK_RTLOCK_WAIT = 0x1000
TASK_LETTERS = "RSDTtXZP"
_ALIASES = frozenset({"init_module", "cleanup_module"})
_NO_PLACES = ("__crc_", "__ksym", "__kstrtab", "_note", "__pfx_", ".L")
"""How symbols begin that name nothing that one would look for."""


@dataclass(frozen=True, slots=True)
class Code:
    """A place in code. ``module`` is None in the kernel proper; ``gone`` says that no code is there now."""

    address: int
    name: str
    offset: int = 0
    module: str | None = None
    gone: bool = False

    def __str__(self) -> str:
        place = f"{self.name}+{self.offset:#x}" if self.offset else self.name
        return f"{place} [{self.module}]" if self.module else place


@dataclass(frozen=True, slots=True)
class Slab:
    """A slab object: its cache, where it begins, whether the allocator has it free (None: not known)."""

    cache: str
    address: int
    size: int
    free: bool | None


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded module: ``state`` is the value of ``enum module_state``'s name in small letters."""

    name: str
    address: int
    state: str
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task by what it is called; ``dead`` where its task_struct is not on the list of tasks any more."""

    pid: int
    comm: str
    address: int
    state: str = "?"
    dead: bool = False

    @property
    def identity(self) -> tuple[int, bool]:
        """What tells tasks apart: the memory of one that is dead may be another's by now."""
        return self.address, self.dead

    def __str__(self) -> str:
        return f"{self.comm} ({self.pid})"


def task_state(task: drgn.Object) -> str:
    """Return the letter of a task's state as ps has it; raises one of ``BROKEN``.

    The bits of TASK_REPORT have been these since Linux 4.14 (include/linux/sched.h); TASK_IDLE is the sum of
    TASK_UNINTERRUPTIBLE and TASK_NOLOAD.
    """
    try:
        state = int(task.member_("__state"))
    except LookupError:
        # Before commit 2f064a59a11f (Linux 5.14).
        state = int(task.state)
    if state & TASK_IDLE == TASK_IDLE:
        return "I"
    if state & TASK_RTLOCK_WAIT:
        return "D"
    bits = (state | int(task.exit_state)) & TASK_REPORT
    return TASK_LETTERS[bits.bit_length()]


class Places:
    """Answers for one dump, worked out when they are first asked for.

    None of its methods raises for memory that the dump lacks: what is not known is None or a number.
    """

    def __init__(self, program: drgn.Program) -> None:
        self.program = program
        self.notes: list[str] = []
        self._seen_symbols: list[tuple[int, int, str]] = []
        self._no_symbol: set[int] = set()
        self._offsets: dict[tuple[str, str], int | None] = {}
        self._symbols: dict[str, tuple[list[int], list[tuple[int, int, str, bool]]]] = {}
        self.stacks: dict[int, list[Any]] = {}
        """Unwound stacks, by task: they are asked for by more than one report."""

    # Code -------------------------------------------------------------------------------------------

    @cached_property
    def modules(self) -> tuple[Module, ...]:
        """The loaded modules, newest first; where their list breaks off is in ``notes``."""
        found = []
        try:
            for module in islice(for_each_module(self.program), MOST_MODULES):
                regions = tuple(
                    (start, start + size) for start, size in module_address_regions(module) if size
                )
                state = str(module.state.format_(type_name=False)).removeprefix("MODULE_STATE_").lower()
                name = module.name.string_().decode(errors="replace")
                found.append(Module(name, module.value_(), state, regions))
        except BROKEN as error:
            self.notes.append(f"the list of modules breaks off after {len(found)}: {error}")
        return tuple(found)

    def module_at(self, address: int) -> Module | None:
        """Return the module whose memory holds ``address``."""
        return next((m for m in self.modules for start, end in m.ranges if start <= address < end), None)

    def module(self, name: str) -> Module | None:
        """Return the loaded module ``name``."""
        return next((module for module in self.modules if module.name == name), None)

    def code(self, address: int) -> Code:
        """Return what function ``address`` is in; ``gone`` where it is a module's that is not loaded."""
        module = self.module_at(address)
        if module is not None:
            starts, symbols = self._module_symbols(module)
            index = bisect_right(starts, address) - 1
            if index >= 0:
                start, _, name, _ = symbols[index]
                return Code(address, name, address - start, module.name)
            return Code(address, f"{address:#x}", 0, module.name)
        symbol = self._kernel_symbol(address)
        if symbol is None:
            gone = MODULE_AREA[0] <= address < MODULE_AREA[1] and not self._in_kernel_text(address)
            return Code(address, f"{address:#x}", gone=gone)
        return Code(address, symbol[2], address - symbol[0])

    def _kernel_symbol(self, address: int) -> tuple[int, int, str] | None:
        """Return (start, end, name) of the symbol of the kernel that holds ``address``.

        drgn goes through the whole table for each, in milliseconds: what was found is kept.
        """
        index = bisect_right(self._seen_symbols, (address, 1 << 64, "")) - 1
        if index >= 0 and self._seen_symbols[index][0] <= address < self._seen_symbols[index][1]:
            return self._seen_symbols[index]
        if address in self._no_symbol:
            return None
        try:
            symbol = self.program.symbol(address)
        except BROKEN:
            self._no_symbol.add(address)
            return None
        found = (symbol.address, symbol.address + max(symbol.size, 1), symbol.name)
        if found[0] <= address < found[1]:
            insort(self._seen_symbols, found)
        return found

    def _in_kernel_text(self, address: int) -> bool:
        start, end = self.symbol_address("_stext"), self.symbol_address("_end")
        return start is not None and end is not None and start <= address < end

    def symbol_address(self, name: str) -> int | None:
        """Return the address of a symbol of the kernel; None where there is none."""
        try:
            return int(self.program.symbol(name).address)
        except BROKEN:
            return None

    def functions(self, module: Module) -> list[tuple[int, int, str]]:
        """Return a module's functions as (start, end, name), in the order of their addresses."""
        return [(start, end, name) for start, end, name, code in self._module_symbols(module)[1] if code]

    def _module_symbols(self, module: Module) -> tuple[list[int], list[tuple[int, int, str, bool]]]:
        """Read a module's symbols from its own table in memory (kallsyms), which needs no file of it."""
        if module.name not in self._symbols:
            found: dict[int, tuple[int, int, str, bool]] = {}
            try:
                struct = drgn.Object(self.program, "struct module *", module.address)
                for symbol in islice(module_kallsyms(struct), MOST_SYMBOLS):
                    # init_module and cleanup_module are aliases of what the source calls them.
                    known = symbol.address in found and symbol.name in _ALIASES
                    if not symbol.name.startswith(_NO_PLACES) and not known:
                        code = symbol.kind == drgn.SymbolKind.FUNC
                        found[symbol.address] = (
                            symbol.address,
                            symbol.address + symbol.size,
                            symbol.name,
                            code,
                        )
            except (*BROKEN, AttributeError) as error:
                self.notes.append(f"the symbols of {module.name} can't be read: {error}")
            symbols = [found[address] for address in sorted(found)]
            self._symbols[module.name] = ([start for start, *_ in symbols], symbols)
        return self._symbols[module.name]

    # Memory -----------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes | None:
        """Return memory; None where the dump lacks any of it."""
        try:
            return bytes(self.program.read(address, size))
        except BROKEN:
            return None

    def word(self, address: int) -> int | None:
        """Return the 8 bytes at ``address`` as a number."""
        data = self.read(address, 8)
        return None if data is None else int.from_bytes(data, "little")

    def string(self, address: int, most: int = 64) -> str:
        """Return the C string at ``address``, cut to ``most`` bytes; empty where the dump lacks it."""
        try:
            return str(self.program.read_c_string(address, max_size=most).decode(errors="replace"))
        except BROKEN:
            return ""

    def offset(self, type_name: str, member: str) -> int | None:
        """Return where ``member`` (with dots, if need be) is in a struct; None where there is no such."""
        key = (type_name, member)
        if key not in self._offsets:
            try:
                self._offsets[key] = drgn.offsetof(self.program.type(type_name), member)
            except (LookupError, TypeError):
                self._offsets[key] = None
        return self._offsets[key]

    def entries(self, head: int, what: str) -> Iterator[int]:
        """Yield the entries of the ``struct list_head`` at ``head``; what ends it early as in ``linked``."""
        yield from self.linked(head, head, what)

    def linked(self, head: int, end: int, what: str) -> Iterator[int]:
        """Yield where the pointer at ``head`` leads, and so on up to one that is ``end`` (an hlist's is 0).

        Memory that is missing, a circle that leaves out the end and a list without one are noted, and end
        the walk.
        """
        seen = {head}
        at = self.word(head)
        while at is not None and at != end:
            if at in seen or len(seen) > MOST_ENTRIES:
                self.notes.append(f"{what}: the list at {head:#x} runs in a circle after {len(seen) - 1}")
                return
            seen.add(at)
            yield at
            at = self.word(at)
        if at is None:
            self.notes.append(f"{what}: the list at {head:#x} breaks off after {len(seen) - 1}")

    @cached_property
    def jiffies(self) -> int:
        """The kernel's clock in ticks; 0 where it can't be read."""
        try:
            return int(self.program["jiffies_64"])
        except BROKEN:
            return 0

    @cached_property
    def clock(self) -> int:
        """The scheduler's clock in nanoseconds, where it is furthest; 0 where it can't be read.

        A CPU's own stands while it idles or spins with interrupts off: the log's last line may be newer.
        """
        furthest = self._last_logged()
        try:
            for cpu in for_each_possible_cpu(self.program):
                furthest = max(furthest, int(cpu_rq(self.program, cpu).clock))
        except (*BROKEN, AttributeError):
            pass
        return furthest

    def _last_logged(self) -> int:
        """Return the time of the log's newest record (printk_ringbuffer.h, since Linux 5.10)."""
        try:
            ring = self.program["prb"].desc_ring
            newest = int(ring.head_id.counter) & ((1 << int(ring.count_bits)) - 1)
            return int(ring.infos[newest].ts_nsec)
        except (*BROKEN, AttributeError):
            return 0

    @cached_property
    def tick(self) -> float:
        """Seconds of a tick (1/HZ)."""
        # clocksource_jiffies counts TICK_NSEC << JIFFIES_SHIFT a tick (kernel/time/jiffies.c).
        for name, member, shift in (("tick_nsec", None, 0), ("clocksource_jiffies", "mult", 8)):
            try:
                value = self.program[name]
                nanoseconds = int(value.member_(member) if member else value) >> shift
            except BROKEN:
                continue
            if 100_000 <= nanoseconds <= 100_000_000:
                return nanoseconds / 1e9
        return 1 / 250

    def slab(self, address: int) -> Slab | None:
        """Return the slab object that holds ``address``; None where no slab does."""
        try:
            info = slab_object_info(self.program, address)
            if info is None or not info.slab_cache:
                return None
            cache = info.slab_cache
            return Slab(
                cache=cache.name.string_().decode(errors="replace"),
                address=info.address,
                size=int(cache.object_size),
                free=None if info.allocated is None else not info.allocated,
            )
        except (*BROKEN, AttributeError):
            return None

    def memory(self, address: int) -> Slab | None:
        """Return the slab object that holds ``address``, or the pages, as an object of the cache ``pages``.

        What is too large for a slab comes from the page allocator. Pages that nobody refers to are free;
        single ones that are in use are not told of: what is in them is not known.
        """
        slab = self.slab(address)
        if slab is not None:
            return slab
        try:
            if not in_direct_map(self.program, address):
                return None
            page = virt_to_page(self.program, address)
            size = int(self.program["PAGE_SIZE"])
            head = compound_head(page)
            if int(head._refcount.counter) == 0:  # noqa: SLF001 (the kernel's name)
                return Slab("pages", address - address % size, size, free=True)
            order = int(compound_order(head))
            start = page_to_virt(head).value_()
        except (*BROKEN, AttributeError):
            return None
        return Slab("pages", start, size << order, free=False) if order else None

    def name(self, address: int) -> str:
        """Say what is at ``address``: a variable, a slab object, a task's stack, else the number."""
        module = self.module_at(address)
        if module is not None:
            return str(self.code(address))
        symbol = self._kernel_symbol(address)
        if symbol is not None:
            offset = address - symbol[0]
            return f"{symbol[2]}+{offset:#x}" if offset else symbol[2]
        slab = self.slab(address)
        if slab is not None:
            free = "freed " if slab.free else ""
            return f"{free}{slab.cache} object {slab.address:#x}+{address - slab.address:#x}"
        task = self.stack_owner(address)
        return f"on the stack of {task}" if task else f"{address:#x}"

    # Tasks ------------------------------------------------------------------------------------------

    @cached_property
    def _tasks(self) -> dict[int, drgn.Object]:
        found: dict[int, drgn.Object] = {}
        try:
            for task in islice(for_each_task(self.program, idle=True), MOST_TASKS):
                found[task.value_()] = task
        except BROKEN as error:
            self.notes.append(f"the list of tasks breaks off after {len(found)}: {error}")
        return found

    def tasks(self) -> Iterator[drgn.Object]:
        """Yield ``struct task_struct *`` of all tasks, the idle ones included."""
        yield from self._tasks.values()

    def is_task(self, address: int) -> bool:
        """Tell whether a task on the list of tasks is at ``address``."""
        return address in self._tasks

    def task(self, address: int) -> TaskRef | None:
        """Return the task at ``address``; one that is not on the list, but whose memory is there, is dead."""
        try:
            task = self._tasks.get(address)
            dead = task is None
            if task is None:
                slab = self.slab(address)
                if slab is None or slab.cache != "task_struct" or slab.address != address:
                    return None
                task = drgn.Object(self.program, "struct task_struct *", address)
            state = "X" if dead else task_state(task)
            return TaskRef(int(task.pid), task.comm.string_().decode(errors="replace"), address, state, dead)
        except BROKEN:
            return None

    def stack_bounds(self, task: drgn.Object) -> tuple[int, int]:
        """Return where a task's kernel stack begins and ends."""
        start = int(task.stack.value_())
        return start, start + self.stack_size

    @cached_property
    def stack_size(self) -> int:
        """Bytes of a kernel stack."""
        try:
            area = self.program["init_task"].stack_vm_area
            for task in self.tasks():
                area = task.stack_vm_area
                if area and area.nr_pages:
                    return int(area.nr_pages) * int(self.program["PAGE_SIZE"])
        except (*BROKEN, AttributeError):
            pass
        return THREAD_SIZE

    @cached_property
    def _stacks(self) -> tuple[list[int], list[int]]:
        pairs = []
        for address, task in self._tasks.items():
            try:
                pairs.append((int(task.stack.value_()), address))
            except BROKEN:
                continue
        pairs.sort()
        return [start for start, _ in pairs], [address for _, address in pairs]

    def stack_owner(self, address: int) -> TaskRef | None:
        """Return the task on whose kernel stack ``address`` is."""
        starts, tasks = self._stacks
        index = bisect_right(starts, address) - 1
        if index < 0 or address >= starts[index] + self.stack_size:
            return None
        return self.task(tasks[index])


def places_of(program: drgn.Program) -> Places:
    """Return the one ``Places`` of a program."""
    return cast(Places, program.cache.setdefault("ktriage.places", Places(program)))
