"""Registers by name, as each architecture prints them.

x86        ``RAX: 0000000000000000 RBX: ...``, ``EAX: 00000000``, ``RSP: 0018:ffff...``, ``CR2: ...``
arm64      ``x29: ffff800008003c00 x28: ...``, ``sp : ffff800008003c00``, ``pstate: 60400005 (nZCv ...``
arm        ``r10: 00000000  r9 : 00000000``, ``pc : [<80101234>]    lr : [<80101230>]    psr: 60000013``
riscv64    `` gp : ffffffff8 tp : ff...``, ``status: 0000 badaddr: 0000 cause: 0000``
powerpc    ``NIP:  c0000 LR: c0000``, ``GPR00: c0000 c0000 c0000 c0000`` (numbered on from the first)
s390x      ``Krnl GPRS: 0000 0000 0000 0000`` (four a line, sixteen in all), ``Krnl PSW : 07... 00...``
"""

from __future__ import annotations

import re

_NAMES = (
    "R[A-D]X|R[SD]I|R[BS]P|R1[0-5]|R0[89]|E[A-D]X|E[SD]I|E[BS]P|CR[0234]|EFLAGS"
    "|x[12]?[0-9]|x30|pstate|r1[0-2]|r[0-9]|pc|lr|sp|fp|ip|psr"
    "|gp|tp|t[0-6]|s[0-9]|s1[01]|a[0-7]|ra|epc|status|badaddr|cause"
    "|NIP|LR|CTR|MSR|XER|CFAR|DAR|DSISR|CR"
)
_PAIR = re.compile(
    rf"\b({_NAMES}) ?: {{0,2}}(?:[0-9a-f]{{4}}:)?(?:\[<)?([0-9a-f]{{8}}(?:[0-9a-f]{{8}})?)\b", re.ASCII
)
_POWERPC = re.compile(r"^GPR(\d\d): ((?:[0-9a-f]{8,16} ?)+)", re.ASCII)
_S390_FIRST = re.compile(r"^Krnl GPRS: ((?:[0-9a-f]{16} ?)+)", re.ASCII)
_S390_MORE = re.compile(r"^ +((?:[0-9a-f]{16} ?){4})$", re.ASCII)
_S390_PSW = re.compile(r"^Krnl PSW : ([0-9a-f]{16}) ([0-9a-f]{16})", re.ASCII)
_USER = re.compile(r"^[RE]?IP: 00(?:33|23|73):", re.ASCII)


class Registers:
    """Collects the first set of kernel registers that a report prints."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self._user = False
        self._s390 = -1

    def read(self, line: str) -> None:
        """Take the registers of one line of the report."""
        if self._user or ":" not in line:
            self._continue_s390(line)
            return
        if _USER.match(line):
            # What follows is what the process had when it entered the kernel.
            self._user = True
            return
        if line.startswith("GPR") and (match := _POWERPC.match(line)):
            self._add("gpr", int(match[1]), match[2])
        elif line.startswith("Krnl ") and (match := _S390_FIRST.match(line)):
            self._s390 = self._add("r", 0, match[1])
        elif line.startswith("Krnl ") and (match := _S390_PSW.match(line)):
            self.found.setdefault("pswm", int(match[1], 16))
            self.found.setdefault("pswa", int(match[2], 16))
        else:
            for name, value in _PAIR.findall(line):
                self.found.setdefault(name.lower(), int(value, 16))

    def _continue_s390(self, line: str) -> None:
        if 0 <= self._s390 < 16 and (match := _S390_MORE.match(line)):
            self._s390 = self._add("r", self._s390, match[1])

    def _add(self, name: str, number: int, values: str) -> int:
        for value in values.split():
            self.found.setdefault(f"{name}{number}", int(value, 16))
            number += 1
        return number
