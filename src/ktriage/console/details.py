"""What a report says beside its title: where it ran, on what, with which registers and stack."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ktriage.console.types import Frame

if TYPE_CHECKING:
    from ktriage.console.region import Report

_CPU = re.compile(
    r"^CPU: (?P<cpu>\d+) (?:UID: \d+ )?PID: (?P<pid>\d+) [Cc]omm: (?P<comm>.{1,16}?) "
    r"(?:(?:Not tainted|Tainted: (?P<taint>[A-Z][A-Z ]*?))\s+)?(?P<kernel>\d+\.\d+\S*)",
    re.ASCII,
)
_HARDWARE = re.compile(r"^Hardware name: (.*)$")
_MODULES = re.compile(r"^Modules linked in: ?(.*)$")
_CODE = re.compile(r"^(?:\S+ )?[Cc]ode: (.*)$")
_REGISTER = re.compile(r"\b([A-Z][A-Z0-9]{1,3}): ([0-9a-f]{16})\b")
_FRAME = re.compile(
    r"^(?:\[<[0-9a-f]+>\] ?)?\s*(?P<doubt>\? )?(?P<function>[a-zA-Z_][\w.$]*)\+0x(?P<offset>[0-9a-f]+)"
    r"/0x(?P<size>[0-9a-f]+)(?: (?P<file>\S+\.[chS]):(?P<line>\d+))?(?: \[(?P<module>[\w-]+)[^\]]*\])?",
    re.ASCII,
)


def details(report: Report) -> dict[str, Any]:
    """Return the fields of a ``Crash`` that the lines of ``report`` fill in."""
    found: dict[str, Any] = {}
    registers: dict[str, int] = {}
    stack: list[Frame] = []
    for line in report.lines:
        _machine(line, found)
        for name, value in _REGISTER.findall(line):
            registers.setdefault(name.lower(), int(value, 16))
        frame = _frame(line)
        if frame is not None:
            stack.append(frame)
    found["registers"] = registers
    found["stack"] = tuple(stack)
    return found


def _machine(line: str, found: dict[str, Any]) -> None:
    if "cpu" not in found and (match := _CPU.match(line)):
        found.update(
            cpu=int(match["cpu"]),
            pid=int(match["pid"]),
            comm=match["comm"],
            kernel=match["kernel"],
            taint=match["taint"],
        )
    elif "hardware" not in found and (match := _HARDWARE.match(line)):
        found["hardware"] = match[1]
    elif "modules" not in found and (match := _MODULES.match(line)):
        found["modules"] = tuple(match[1].split())
    elif "code" not in found and (match := _CODE.match(line)):
        found["code"] = match[1]


def _frame(line: str) -> Frame | None:
    match = _FRAME.match(line)
    if match is None:
        return None
    return Frame(
        function=match["function"],
        offset=int(match["offset"], 16),
        size=int(match["size"], 16),
        module=match["module"],
        file=match["file"],
        line=int(match["line"]) if match["line"] else None,
        reliable=match["doubt"] is None,
    )
