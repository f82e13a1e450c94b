"""What to record, as writes to the files of tracefs.

A recording has a tracing instance of its own; the paths of ``Write`` are relative to it, or absolute below
tracefs (Documentation/trace/ftrace.rst, events.rst, kprobetrace.rst).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from ktriage.errors import UserError

FUNCTION = re.compile(r"[A-Za-z_.][\w.]*")
PROBE = re.compile(
    r"(?:(?P<module>[\w-]+):(?!ret\b)(?=[A-Za-z_]))?(?P<function>[A-Za-z_.][\w.]*)"
    r"(?::(?P<argument>\w+)(?:\+(?P<count>\d+|0x[\da-f]+))?)?"
)
MODULE_NAME = re.compile(r"[A-Za-z0-9_-]+")
ARGUMENTS = 6
"""How many arguments come in registers on x86-64; ``$argN`` reaches no others."""

COUNTED = ("module_get", "module_put")
"""Tracepoints with a module's count (include/trace/events/module.h)."""

CALLER = "caller"
"""What is fetched at a function's entry beside the object: the address that it returns to.

A stack that is taken there has no more than the function itself where the probe is a breakpoint on its first
instruction: the unwinder takes that for executed.
"""

COUNT = "count"
"""The object's count, where it is known in which place it is."""

LIFE = ("module_load", "module_free", "module_request")
"""Never filtered: whose load took a static use, and where code stood that calls, is known from them."""

PLACED = "module_placed"
"""The event that says where a module's code is, by a probe on what calls its init."""

BUFFER_KB = 8192
"""The ring buffer of each CPU: some 40,000 events with stacks."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A kernel function that gets or puts: its module, its name, and which argument is the object.

    ``argument`` counts from 1; 0 is what the function returns. ``count`` is where in the object its count (an
    int) is, in bytes, or None.
    """

    function: str
    argument: int = 1
    module: str | None = None
    count: int | None = None

    @property
    def symbol(self) -> str:
        """The function as kprobe_events takes it."""
        return f"{self.module}:{self.function}" if self.module else self.function


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to record: a module's gets and puts, or those of any pair of functions, or both."""

    module: str | None = None
    get: tuple[Probe, ...] = ()
    put: tuple[Probe, ...] = ()
    stacks: bool = True
    buffer_kb: int = BUFFER_KB


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a file of tracefs, whole or added to what is there (``append``)."""

    path: str
    text: str
    append: bool = False


def parse_probe(text: str) -> Probe:
    """Read ``[MODULE:]FUNCTION[:ARGUMENT[+OFFSET]]``; ARGUMENT is 1 to 6, or ``ret``.

    Raises UserError where it is not of that form.
    """
    found = PROBE.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text!r} is no [MODULE:]FUNCTION[:ARGUMENT[+OFFSET]]", hint="for example kobject_get:1"
        )
    argument = found["argument"] or "1"
    module = found["module"].replace("-", "_") if found["module"] else None
    count = int(found["count"], 0) if found["count"] else None
    if argument == "ret":
        return Probe(found["function"], 0, module, count)
    if not argument.isdigit() or not 1 <= int(argument) <= ARGUMENTS:
        raise UserError(f"{text}: the argument is 1 to {ARGUMENTS}, or ret")
    return Probe(found["function"], int(argument), module, count)


def wanted(
    module: str | None,
    get: tuple[str, ...],
    put: tuple[str, ...],
    *,
    stacks: bool = True,
    buffer_kb: int = BUFFER_KB,
) -> Wanted:
    """Return what to record; raises UserError where it is nothing, or half of a pair."""
    if module is None and not (get or put):
        raise UserError("say what to record: a module, or get and put")
    if bool(get) != bool(put):
        raise UserError("get and put come together: a count has both")
    if module is not None and not MODULE_NAME.fullmatch(module):
        raise UserError(f"{module!r} is no module's name")
    return Wanted(
        module.replace("-", "_") if module else None,
        tuple(map(parse_probe, get)),
        tuple(map(parse_probe, put)),
        stacks,
        buffer_kb,
    )


def kprobes(what: Wanted, group: str) -> list[tuple[str, str]]:
    """Return the kprobe events: the name of each and its definition, which creates it in ``group``."""
    found: dict[str, str] = {}
    sides: tuple[tuple[Literal["get", "put"], tuple[Probe, ...]], ...] = (
        ("get", what.get),
        ("put", what.put),
    )
    for side, probes in sides:
        for probe in probes:
            name = f"{side}_{probe.function.replace('.', '_')}"
            kind, value = ("p", f"$arg{probe.argument}") if probe.argument else ("r", "$retval")
            more = f" {CALLER}=$stack0" if probe.argument else ""
            more += f" {COUNT}=+{probe.count}({value}):s32" if probe.count is not None else ""
            found[name] = f"{kind}:{group}/{name} {probe.symbol} obj={value}{more}"
    return list(found.items())


def events(what: Wanted, group: str, *, life: bool = False) -> list[str]:
    """Return the events that are recorded, as ``SYSTEM/NAME``; with ``life`` those of all modules' lives."""
    of_module = [f"module/{name}" for name in LIFE] if what.module or life else []
    of_module += [f"module/{name}" for name in COUNTED] if what.module else []
    return of_module + [f"{group}/{name}" for name, _ in kprobes(what, group)]


def writes(what: Wanted, group: str, *, clock: str, life: bool = False) -> list[Write]:
    """Return what sets a recording up, in order; the last of it begins it."""
    probes = kprobes(what, group)
    done = [Write("buffer_size_kb", str(what.buffer_kb)), Write("trace_clock", clock)]
    done += [Write("options/sym-offset", "1"), Write("options/stacktrace", str(int(what.stacks)))]
    done += [Write("/sys/kernel/tracing/kprobe_events", text, append=True) for _, text in probes]
    if what.module:
        done += [Write(f"events/module/{name}/filter", f'name == "{what.module}"') for name in COUNTED]
    # Getting and putting nothing is allowed, for many a function.
    done += [Write(f"events/{group}/{name}/filter", "obj != 0") for name, _ in probes]
    done += [Write(f"events/{event}/enable", "1") for event in events(what, group, life=life)]
    return done


def placed(group: str, layout: dict[str, int]) -> str | None:
    """Return the definition of the event ``PLACED``, by where ``struct module`` has its members.

    None where that is not known.
    """
    where = [layout.get(f"module.{member}") for member in ("name", "text", "init")]
    if None in where:
        return None
    name, text, init = where
    fields = f"name=+{name}($arg1):string text=+{text}($arg1):x64 init=+{init}($arg1):x64"
    return f"p:{group}/{PLACED} do_init_module {fields}"


def heading(what: Wanted, group: str) -> str:
    """Return the comment that a trace begins with: which of its events get and which put."""
    names = [name for name, _ in kprobes(what, group)]
    if not names:
        return ""
    gets, puts = ([name for name in names if name.startswith(side)] for side in ("get_", "put_"))
    functions = [probe.function for probe in (*what.get, *what.put)]
    same = zip(*functions, strict=False)
    common = "".join(letters[0] for letters in takewhile(lambda one: len(set(one)) == 1, same))
    kind = common.strip("_") or what.get[0].function
    count = f" count={COUNT}" if any(probe.count is not None for probe in (*what.get, *what.put)) else ""
    return f"# refs: kind={kind} get={','.join(gets)} put={','.join(puts)} object=obj{count}\n"
