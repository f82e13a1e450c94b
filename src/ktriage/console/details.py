"""What a report says beside its title: where it ran, registers, stack, locks, counts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ktriage.console import taints
from ktriage.console.lines import is_cpu, is_task, readable
from ktriage.console.locks import read_locks
from ktriage.console.refcounts import read_refcount
from ktriage.console.registers import Registers
from ktriage.console.stacks import StackReader

if TYPE_CHECKING:
    from ktriage.console.region import Report

_TAINT = r"(?:Not tainted|Tainted: (?P<taint>[A-Z](?: *[A-Z])*)) +(?P<kernel>\S+) #"
_CPU = re.compile(
    rf"^CPU: (?P<cpu>\d+) (?:UID: \d+ )?PID: (?P<pid>\d+) [Cc]omm: (?P<comm>.{{1,64}}?) +{_TAINT}", re.ASCII
)
_OLD_CPU = re.compile(rf"^Pid: (?P<pid>\d+), comm: (?P<comm>.{{1,64}}?) +{_TAINT}", re.ASCII)
_TAINTED = re.compile(rf"^ +{_TAINT}", re.ASCII)
_RELEASE = re.compile(
    r"^(?P<kernel>\S+) #\S+ (?:Not tainted|Tainted: (?P<taint>[A-Z](?: *[A-Z])*))\s*$", re.ASCII
)
# The same, said in the announcement or next to it.
_WHO = (
    re.compile(r"^WARNING: CPU: (?P<cpu>\d+) PID: (?P<pid>\d+) at "),
    re.compile(r"^WARNING: .*, CPU#(?P<cpu>\d+): (?P<comm>.{1,64})/(?P<pid>\d+)$"),
    re.compile(
        r"^(?:watchdog: )?BUG: soft lockup - CPU#(?P<cpu>\d+) stuck .*\[(?P<comm>.{1,64}):(?P<pid>\d+)\]"
    ),
    re.compile(r"^INFO: task (?P<comm>.{1,64}):(?P<pid>\d+) "),
    re.compile(r" by task (?P<comm>.{1,64})/(?P<pid>\d+)"),
    re.compile(r"^(?P<comm>\S.{0,63})/(?P<pid>\d+) is (?:trying to (?:acquire|release) lock|just|freeing)"),
    re.compile(r"pid: (?P<pid>\d+), name: (?P<comm>.{1,64})$"),
)
_WHO_WORDS = ("CPU: ", "CPU#", "INFO: task", "by task", " is ", "pid: ")
_MODULE = re.compile(r"([\w-]+)(?:\(([A-Z+-]+)\))?", re.ASCII)
_UNLOADED = re.compile(r"\[last unloaded: ([\w-]+)", re.ASCII)
_MODULES = "Modules linked in:"
_HARDWARE = "Hardware name:"


def details(report: Report, text: str, caller: str) -> dict[str, Any]:
    """Return the fields of a ``Crash`` that the lines of ``report`` fill in.

    ``text`` is the report's. ``caller`` is the context of its lines.
    """
    found: dict[str, Any] = {}
    registers = Registers()
    stack = StackReader("task" if is_task(caller) else "hardirq" if is_cpu(caller) else None)
    lines = report.lines[: report.own]
    for line in lines:
        _machine(line, found)
        registers.read(line)
        stack.read(line)
    for name in ("comm", "hardware"):
        if name in found:
            found[name] = readable(found[name])
    found["registers"] = registers.found
    found["stack"] = tuple(stack.frames)
    found["taints"] = taints.words(found.get("taint"))
    found["locks"], found["chain"] = read_locks(lines, text)
    found["refcount"] = read_refcount([*report.prefix[-8:], *lines], text)
    return found


def _machine(line: str, found: dict[str, Any]) -> None:
    if line.startswith(("CPU: ", "Pid: ")):
        match = _CPU.match(line) or _OLD_CPU.match(line)
        _learn(match, found)
    elif line.startswith(_HARDWARE):
        found.setdefault("hardware", line.removeprefix(_HARDWARE).strip())
    elif line.startswith(_MODULES):
        if "modules" not in found:
            _modules(line, found)
    elif line.startswith("Code: ") or " Code: " in line[:24]:
        found.setdefault("code", line.partition("ode: ")[2].strip())
    elif "ainted" in line:
        _learn(_TAINTED.match(line) or _RELEASE.match(line), found)
    if "pid" not in found and any(word in line for word in _WHO_WORDS):
        _learn(next((match for who in _WHO if (match := who.search(line))), None), found)


def _learn(match: re.Match[str] | None, found: dict[str, Any]) -> None:
    if match is None:
        return
    for name, value in match.groupdict().items():
        if value is not None:
            found.setdefault(name, int(value) if name in ("cpu", "pid") else value)


def _modules(line: str, found: dict[str, Any]) -> None:
    names, _, unloaded = line.removeprefix(_MODULES).partition("[last unloaded:")
    modules = [match.groups() for match in _MODULE.finditer(names)]
    found["modules"] = tuple(name for name, _ in modules)
    found["module_taints"] = {name: letters for name, letters in modules if letters}
    if unloaded and (match := _UNLOADED.search(line)):
        found["last_unloaded"] = match[1]
