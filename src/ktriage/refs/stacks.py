r"""Stacks in traces as call paths, each block of bytes read once.

How a frame is written has changed over the years and depends on options (``sym-offset``, ``sym-addr``) and
on the program that prints it:

    " => func", " => func+0x1d/0x90 [mod]", " => func <ffffffff81000000>"      kernel/trace/trace_output.c
    "=> func (ffffffff81000000)"                                                trace-cmd report
    "\tffffffff81000000 func+0x1d ([kernel.kallsyms])", "... ([mod])"           perf script
    "        func+29", "        func+0x1d/0x90 [mod]"                            bpftrace, printk
"""

from __future__ import annotations

import re

from ktriage.refs.names import Names
from ktriage.refs.types import NO_PATH, Path, Place

DEEPEST = 128
"""Frames beyond are left out: the tracer itself stops earlier."""
_MOST_BLOCKS = 1 << 16

_SYMBOL = rb"([A-Za-z_.$][\w.$@]*|(?:0x)?[0-9a-f]{4,16}\b)(?:\+(?:0x([0-9a-f]+)|(\d+))(?:/0x[0-9a-f]+)?)?"
_FTRACE = re.compile(rb"^ ?=> +<?" + _SYMBOL + rb"(?: \[([\w.-]+)\])?", re.MULTILINE)
_PERF = re.compile(
    rb"^\s+[0-9a-f]+ " + _SYMBOL + rb" \((?:\[([\w.-]+)\]|/\S*?([\w-]+)\.ko(?:\.\w+)?|[^)\n]*)\)",
    re.MULTILINE,
)
_PLAIN = re.compile(
    rb"^\s+(?:\[<?[0-9a-fx]*>?\]\s*)*(?:\? )?" + _SYMBOL + rb"(?: \[([\w.-]+)\])?", re.MULTILINE
)

_ADDRESS = re.compile(r"[0-9a-f]{8,16}")

# What the tracer itself adds on top of the function that was traced.
_TRACER = re.compile(
    r"^(?:trace_event_|__?traceiter_|perf_trace_|__bpf_trace_|bpf_trace_run|bpf_prog_|bpf_get_stackid|"
    r"trace_buffer_|__trace_|__ftrace_trace_stack|ftrace_(?:trampoline|regs_caller|caller|call|ops_)|"
    r"arch_ftrace_|kprobe_|kretprobe_|aggr_pre_handler|opt_pre_handler|optimized_callback|"
    r"__kretprobe_|arch_rethook_|rethook_|fprobe_|do_int3|asm_exc_int3|exc_int3|int3$|stack_trace_save|"
    r"do_trace_|bpf_trampoline_)"
)
# Functions that count, and those that only hand on.
_COUNTING = re.compile(
    r"^(?:__?module_get|try_module_get|strong_try_module_get|module_put|module_put\.part\.\d+|"
    r"refcount_\w+|kref_\w+|ref_tracker_\w+|__?refcount_\w+|__?netdev_tracker_\w+|netdev_(?:hold|put)|"
    r"__?dev_(?:hold|put)\w*|dev_(?:hold|put)\w*|kobject_(?:get|put)(?:_unless_zero)?|(?:get|put)_device)$"
)
_WRAPPERS = {
    "__symbol_get", "__symbol_get_gpl", "__symbol_put", "symbol_put_addr",
    "ref_module", "use_module", "resolve_symbol", "resolve_symbol_wait", "simplify_symbols",
    "load_module", "module_unload_free", "free_module",
    "__module_put_and_exit", "__module_put_and_kthread_exit", "module_put_and_kthread_exit",
}  # fmt: skip
_LINKING = {
    "ref_module", "use_module", "resolve_symbol", "resolve_symbol_wait", "simplify_symbols",
    "load_module", "module_unload_free", "free_module",
}  # fmt: skip
_SOFTIRQ = re.compile(r"^(?:__do_softirq|handle_softirqs|__softirqentry_text_start)(?:\.|$)")
_HARDIRQ = re.compile(
    r"^(?:common_interrupt|asm_common_interrupt|__common_interrupt|do_IRQ|ret_from_intr|irq_exit_rcu|"
    r"asm_sysvec_\w+|sysvec_\w+|handle_irq_event\w*|handle_domain_irq|generic_handle_\w*irq|__irq_svc|el1_irq|"
    r"gic_handle_irq|smp_apic_timer_interrupt|apic_timer_interrupt)(?:\.|$)"
)


class Stacks:
    """Turns stack blocks into numbers of call paths."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[tuple[bytes, bytes | None], int] = {}
        self._sites: dict[tuple[str, str | None], int] = {}

    def ftrace(self, block: bytes, site: bytes | None = None) -> int:
        """Return the path of the lines below ``<stack trace>``."""
        return self._path(block, site, _FTRACE)

    def perf(self, block: bytes, site: bytes | None = None) -> int:
        """Return the path of the lines below one of perf script's events."""
        return self._path(block, site, _PERF)

    def plain(self, block: bytes, site: bytes | None = None) -> int:
        """Return the path of indented lines, as bpftrace and the kernel's log have them."""
        return self._path(block, site, _PLAIN)

    def folded(self, text: bytes, site: bytes | None = None) -> int:
        """Return the path of one line with semicolons between the functions, innermost first."""
        return self._path(b"\n".join(b" " + part.strip() for part in text.split(b";")), site, _PLAIN)

    def site(self, site: bytes | None) -> int:
        """Return the path of an event that has a call site and no stack."""
        if not site:
            return NO_PATH
        return self._path(b" " + site.lstrip(b">"), None, _PLAIN)

    def _path(self, block: bytes, site: bytes | None, pattern: re.Pattern[bytes]) -> int:
        key = (block, site)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_BLOCKS:
                self._known.clear()
            places = list(_places(block, pattern)) or list(_places(b" " + (site or b"").lstrip(b">"), _PLAIN))
            known = self._names.path(self._made(places, site)) if places else NO_PATH
            self._known[key] = known
        return known

    def _made(self, places: list[Place], site: bytes | None) -> Path:
        modules = self._names.modules
        for place in places:
            if place.module:
                modules.setdefault(place.function, place.module)
        places = [
            place if place.module or place.function not in modules
            else Place(place.function, modules[place.function], place.offset)
            for place in places
        ]  # fmt: skip
        places = places[_outside_tracer(places) :]
        if site and site[:1] == b">":
            return found_path(places, None, site[1:].decode(errors="replace"))
        return found_path(places, _site_name(site))


def _site_name(site: bytes | None) -> str | None:
    if not site:
        return None
    return re.split(rb"[+ ]", site, maxsplit=1)[0].decode(errors="replace")


def _places(block: bytes, pattern: re.Pattern[bytes]) -> list[Place]:
    places = []
    for match in pattern.finditer(block):
        function, offset, decimal, *modules = match.groups()
        module = next((name for name in modules if name), None)
        if module is not None and (module.startswith((b"kernel", b"guest")) or module == b"unknown"):
            module = None  # perf's [kernel.kallsyms]
        places.append(
            Place(
                _named(function),
                module.decode(errors="replace").replace("-", "_") if module else None,
                int(offset, 16) if offset else int(decimal) if decimal else None,
            )
        )
        if len(places) == DEEPEST:
            break
    return places


def _named(function: bytes) -> str:
    name = function.decode(errors="replace")
    return f"0x{name}" if _ADDRESS.fullmatch(name) else name


def _outside_tracer(places: list[Place]) -> int:
    """Return the index of the first place that is not the tracer's own.

    A kprobe's handlers lie above the probed function, with an exception's entry between them.
    """
    first = 0
    for index, place in enumerate(places[:24]):
        if _TRACER.match(place.function):
            first = index + 1
    return first if first < len(places) else 0


def found_path(places: list[Place], site: str | None, probed: str | None = None) -> Path:
    """Return the path with its site found: past the counting functions and their wrappers.

    ``site`` is the call site that the event itself printed, ``probed`` the function that was probed, or None.
    """
    index = 0
    way: str | None = None
    while index < len(places) - 1 and (
        _COUNTING.match(places[index].function) or places[index].function == probed
    ):
        way = places[index].function
        index += 1
    if site is not None and index < len(places) - 1 and places[index].function != site:
        # What counts may be inlined or traced from deeper: the event knows better.
        named = next((i for i, place in enumerate(places[:8]) if place.function == site), None)
        if named is not None:
            index = named
            way = places[named - 1].function if named else way
    while places[index].function in _WRAPPERS:
        way = places[index].function
        if index == len(places) - 1 or way in _LINKING:
            break
        index += 1
    kept = tuple(
        place if i == index else Place(place.function, place.module) for i, place in enumerate(places)
    )
    return Path(kept, index, way, _context(places))


def _context(places: list[Place]) -> str | None:
    for place in places:
        if _SOFTIRQ.match(place.function):
            return "softirq"
        if _HARDIRQ.match(place.function):
            return "hardirq"
    return None


def is_linking(path: Path) -> bool:
    """Return whether linking took or dropped this reference, not a call."""
    return path.way in _LINKING
