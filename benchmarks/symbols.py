#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""How long source lines take: ktriage as a whole process, and the kernel's own scripts/decode_stacktrace.sh.

usage: symbols.py [--package NAME | --vmlinux FILE] [--script FILE] [-n RUNS] [--frames N] [--seed N]
                  [--keep LOG]

The report is made from the kernel itself: a way through its calls, so many functions deep, each frame with
its function's own size and the offset that a call in it returns to. Both read it with a warm page cache.
Without ``--script`` it is taken from Debian's linux-source package of 6.1, fetched once (142 MB).

Every frame on which the two differ is printed, with what ``addr2line -i`` says of the call itself: the
script of Linux 6.1 looks up the address that a call returns to, which is often another line. It is therefore
also asked for the same report with the addresses of the calls.
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import capstone
from elftools.elf.elffile import ELFFile

from ktriage.kernel import packaged_kernel
from ktriage.kernel.tree import packaged_source
from ktriage.symbols.symbolize import tree_path

GOAL_SECONDS, GOAL_RATIO = 0.3, 40
MOST_TRIED = 2000
"""So many functions are entered on the way from one start before another is tried."""
HEAD = """\
BUG: kernel NULL pointer dereference, address: 0000000000000010
#PF: supervisor read access in kernel mode
#PF: error_code(0x0000) - not-present page
Oops: 0000 [#1] PREEMPT SMP PTI
CPU: 0 PID: 1 Comm: bench Not tainted 6.1.0 #1
"""
_ENTRY = re.compile(r"^(?:RIP: 0010:|\s*)([\w.$]+)\+0x([0-9a-f]+)/0x[0-9a-f]+")
_DECODED = re.compile(r"^(?:RIP: 0010:)?([\w.$]+) \(([^)]*(?:\(discriminator \d+\)[^)]*)*)\)")
# Calls that are no frame: what tracing, mitigations and the ends of functions call.
_NO_FRAME = re.compile(r"^(?:__fentry__|mcount|__x86_|__warn_thunk|__stack_chk_fail|__sanitizer|__SCT__)")

Lines = list[str]
"""Where one frame is: ``file:line`` of the calls inlined into it, innermost first, then its own."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame as a report prints it: ``exact`` says that the offset is the instruction's own."""

    function: str
    offset: int
    size: int
    exact: bool

    def __str__(self) -> str:
        return f"{self.function}+{self.offset:#x}/{self.size:#x}"


class Text:
    """The code of a kernel: its functions as kallsyms has them, and whom they call."""

    def __init__(self, vmlinux: Path) -> None:
        with vmlinux.open("rb") as file:
            section = ELFFile(file).get_section_by_name(".text")
            if section is None:
                sys.exit(f"{vmlinux}: no .text in it")
            self._start: int = section["sh_addr"]
            self._code: bytes = section.data()
        end = self._start + len(self._code)
        said = subprocess.run(["nm", "-n", vmlinux], check=True, capture_output=True, text=True).stdout
        self._names: dict[int, str] = {}
        for line in said.splitlines():
            address, kind, name = line.split(" ", 2)
            if kind in "tTwW" and self._start <= int(address, 16) < end:
                self._names.setdefault(int(address, 16), name)
        self.starts = list(self._names)
        self.known = next(start for start, name in self._names.items() if name == "schedule")
        self._engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

    def size(self, start: int) -> int:
        """Return the bytes to the next function: kallsyms does not know where one ends."""
        place = bisect_right(self.starts, start)
        end = self.starts[place] if place < len(self.starts) else self._start + len(self._code)
        return int(end - start)

    def calls(self, start: int) -> Iterator[tuple[int, int]]:
        """Yield (offset that is returned to, function called) of the direct calls in a function."""
        code = self._code[start - self._start : start - self._start + self.size(start)]
        for address, size, mnemonic, operands in self._engine.disasm_lite(code, start):
            if mnemonic == "call" and operands.startswith("0x"):
                called = int(operands, 16)
                if called in self._names and not _NO_FRAME.match(self._names[called]):
                    yield address + size - start, called

    def instruction(self, start: int) -> int:
        """Return the offset of an instruction in the middle of a function."""
        code = self._code[start - self._start : start - self._start + self.size(start)]
        offsets: list[int] = [address - start for address, *_ in self._engine.disasm_lite(code, start)]
        return offsets[len(offsets) // 2]

    def name(self, start: int) -> str:
        """Return the name of the function that begins at an address."""
        return self._names[start]

    def start(self, entry: Entry) -> int:
        """Return the address of an entry's function, the first of its name that has the size."""
        return next(s for s in self.starts if self._names[s] == entry.function and self.size(s) == entry.size)

    def way(self, depth: int, chance: random.Random) -> list[Entry]:
        """Return a stack of ``depth`` frames, innermost first, in which each function does call the next."""
        while True:
            at = chance.choice(self.starts)
            way: list[tuple[int, int]] = []  # (function, where its call returns to), outermost first
            seen, untried = {at}, [self._shuffled(at, chance)]
            while untried and len(way) < depth - 1 and len(seen) < MOST_TRIED:
                offset, called = next(untried[-1], (0, 0))
                if not called:
                    untried.pop()
                    at = way.pop()[0] if way else 0
                elif called not in seen:
                    seen.add(called)
                    way.append((at, offset))
                    untried.append(self._shuffled(called, chance))
                    at = called
            if len(way) == depth - 1:
                stack = [Entry(self.name(at), self.instruction(at), self.size(at), exact=True)]
                return stack + [Entry(self.name(f), o, self.size(f), exact=False) for f, o in reversed(way)]

    def _shuffled(self, start: int, chance: random.Random) -> Iterator[tuple[int, int]]:
        calls = list(self.calls(start))
        chance.shuffle(calls)
        return iter(calls)


def report(stack: list[Entry]) -> str:
    """Return the report as the console would have it."""
    first, *calls = stack
    lines = [*HEAD.splitlines(), f"RIP: 0010:{first}", "Call Trace:", " <TASK>"]
    lines += [f" {entry}" for entry in calls] + [" </TASK>", "---[ end trace 0000000000000000 ]---"]
    return "".join(f"[   12.345678] {line}\n" for line in lines)


def timed(work: Callable[[], object], runs: int) -> list[tuple[float, float]]:
    """Return wall-clock and processor seconds of ``runs`` runs of other processes."""
    found = []
    for _ in range(runs):
        began, used = time.perf_counter(), _children()
        work()
        found.append((time.perf_counter() - began, _children() - used))
    return found


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ours(vmlinux: Path | None, log: Path) -> str:
    """Return what ``ktriage report --json`` prints."""
    symbols = ["--vmlinux", str(vmlinux)] if vmlinux else []
    command = [sys.executable, "-m", "ktriage", "report", "--json", *symbols, str(log)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def theirs(script: Path, vmlinux: Path, log: Path) -> str:
    """Return what decode_stacktrace.sh prints."""
    with log.open() as file:
        return subprocess.run(
            ["bash", str(script), str(vmlinux)], stdin=file, capture_output=True, text=True, check=True
        ).stdout


def our_lines(printed: str) -> list[Lines]:
    """Return the lines of each frame, in order."""
    frames: list[Lines] = []
    inlined: Lines = []
    for frame in json.loads(printed.splitlines()[0])["stack"]:
        if frame["file"]:
            inlined.append(f"{posixpath.normpath(frame['file'])}:{frame['line']}")
        if not frame["inline"]:
            frames.append(inlined)
            inlined = []
    return frames


def their_lines(printed: str) -> list[Lines]:
    """Return the lines of each frame, in order, with paths as in the tree."""
    frames: list[Lines] = []
    for line in printed.splitlines():
        text = line.partition("] ")[2].strip()
        decoded = _DECODED.match(text)
        if decoded:
            frames.append(_places(decoded[2]))
        elif _ENTRY.match(text):
            frames.append([])
    return frames


def _places(text: str) -> Lines:
    places = re.findall(r"(\S+):(\d+|\?)", text)
    return [f"{posixpath.normpath(tree_path(path))}:{line}" for path, line in places]


def addr2line(vmlinux: Path, addresses: list[int], known: int) -> list[Lines]:
    """Return the lines of addresses as binutils has them.

    ``known`` is the address of schedule(), whose file tells where the tree was built.
    """
    said = subprocess.run(
        ["addr2line", "-a", "-i", "-e", vmlinux, hex(known), *map(hex, addresses)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    first, *rest = [part.partition("\n")[2] for part in said.split("0x")[1:]]
    built = first.strip().rpartition("\n")[2].partition("kernel/sched/core.c")[0]
    return [_places(part.replace(built, "")) for part in rest]


def compare(stack: list[Entry], text: Text, vmlinux: Path, found: dict[str, list[Lines]]) -> None:
    """Print the frames on which the two differ, and how often each is what addr2line says of the call."""
    right = found["addr2line -i of the call"] = addr2line(
        vmlinux, [text.start(entry) + entry.offset - (not entry.exact) for entry in stack], text.known
    )
    for number, entry in enumerate(stack):
        said = {who: " ".join(lines[number]) or "(none)" for who, lines in found.items()}
        if len(set(said.values())) > 1:
            print(f"  {entry}")
            print("".join(f"    {who:<28} {places}\n" for who, places in said.items()), end="")
    for who, lines in found.items():
        if lines is not right:
            same = sum(map(list.__eq__, lines, right))
            print(f"{who:<36} {same} of {len(stack)} frames as addr2line -i has the call")


def row(what: str, runs: list[tuple[float, float]], more: str = "") -> None:
    """Print one line of the table."""
    walls, cpus = zip(*runs, strict=True)
    spread = f"{min(walls):.3f} to {max(walls):.3f}, {len(runs)} runs; {median(cpus):.3f} s of processor"
    print(f"{what:<36} median {median(walls):7.3f} s  ({spread}) {more}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", default="linux-image-cloud-amd64", metavar="NAME")
    parser.add_argument("--vmlinux", type=Path, metavar="FILE")
    parser.add_argument("--script", type=Path, metavar="FILE")
    parser.add_argument("-n", type=int, default=9, metavar="RUNS")
    parser.add_argument("--frames", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="LOG", help="write the report that was made here")
    args = parser.parse_args()
    vmlinux: Path = args.vmlinux or Path(packaged_kernel(args.package, debuginfo=True).vmlinux or "")
    script = args.script or packaged_source() / "scripts/decode_stacktrace.sh"
    text = Text(vmlinux)
    stack = text.way(args.frames, random.Random(args.seed))
    with tempfile.TemporaryDirectory(prefix="ktriage-bench-") as folder:
        log = args.keep or Path(folder, "report.log")
        log.write_text(report(stack))
        print(
            f"{vmlinux.name}, {vmlinux.stat().st_size / 1e6:.0f} MB; {len(stack)} frames, seed {args.seed}",
            flush=True,
        )
        at_calls = Path(folder, "calls.log")
        at_calls.write_text(report([replace(e, offset=e.offset - (not e.exact)) for e in stack]))
        found = {
            "ktriage": our_lines(ours(vmlinux, log)),
            "script": their_lines(theirs(script, vmlinux, log)),
            "script, told the calls": their_lines(theirs(script, vmlinux, at_calls)),
        }
        our = timed(lambda: ours(vmlinux, log), args.n)
        plain = timed(lambda: ours(None, log), args.n)
        their = timed(lambda: theirs(script, vmlinux, log), max(args.n // 4, 1))
        row("ktriage report", our, f"goal {GOAL_SECONDS} s")
        row("ktriage report, without lines", plain)
        wall, cpu = (median(run[i] for run in their) / median(run[i] for run in our) for i in (0, 1))
        row("decode_stacktrace.sh", their)
        print(f"the script takes {wall:.0f} times as long, {cpu:.0f} times the processor (goal {GOAL_RATIO})")
        compare(stack, text, vmlinux, found)
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
