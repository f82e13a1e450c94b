"""Fuzz the reading of code bytes and registers, and of what is written back into a report.

usage: fuzz/code_line.py [--cpu-minutes N] [--max-mb N] [LIBFUZZER-OPTION]... [INPUT]...

An input is a report's text: what the console's reader makes of its registers and its ``Code:`` line goes
through ``ktriage.symbols.code``. Where no crash is found in it, its first line is the code, and every other
``NAME: HEX`` a register.
"""

from __future__ import annotations

import re

import atheris

with atheris.instrument_imports(include=["ktriage"]):
    from ktriage.console import read_crashes
    from ktriage.console.types import Crash, Frame
    from ktriage.symbols.code import read_code
    from ktriage.symbols.report import annotated_text
    from ktriage.symbols.symbolize import build_ids, exact_frames, plain_name, tree_path

from console_log import logs
from harness import fuzz

WORDS = (
    "BUG: unable to handle page fault for address: ",
    "general protection fault",
    "KFENCE: ",
    "Code: ",
    "<0f> 0b",
    "<48> 8b 80 90 01 00 00",
    "80 3c 02 00",
    "48 c1 e8 03",
    "(d4210000)",
    "RIP: 0010:f+0x1/0x2",
    "RAX: dffffc0000000000",
    "RDX: 0000000000000007",
    "pstate: 60400005",
    "psr: 60000013",
    "x0 : 0000000000000000",
    "EAX: 00000000",
    " [mod 0123456789abcdef0123456789abcdef01234567]",
    "[inline]",
)
_REGISTER = re.compile(r"\b([A-Za-z][A-Za-z0-9]{0,7}): ?([0-9a-f]{1,16})\b", re.ASCII)


def _made(text: str) -> Crash:
    """Return a crash of the text as it is, so that more of the code is reached than by whole reports."""
    registers = {name.lower(): int(value, 16) for name, value in _REGISTER.findall(text)}
    frame = Frame("f", 1, 2, None, "a.c", 3)
    return Crash(
        "", 0, 0, 1, "t", code=text.partition("\n")[0], registers=registers, stack=(frame,), text=text
    )


def target(data: bytes) -> None:
    """Read the code of every crash, and write lines into its text."""
    text = data.decode("latin-1")
    for crash in read_crashes(data) or [_made(text)]:
        code = read_code(crash)
        if code is not None:
            assert sum(instruction.trapped for instruction in code.instructions) <= 1
            assert all(instruction.text for instruction in code.instructions)
            assert code.access is None or (str(code.access) and 0 <= code.access.address < 1 << 64)
        assert annotated_text(crash).count("\n") >= crash.text.count("\n")
        exact_frames(crash.text)
        build_ids(crash.text)
        for frame in crash.stack:
            plain_name(frame.function)
            tree_path(frame.file or "")


if __name__ == "__main__":
    fuzz("code_line", target, [log for log in logs() if b"Code: " in log], WORDS)
