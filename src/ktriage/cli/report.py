"""ktriage report: console logs in, crashes out."""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.cli import KEEP
from ktriage.errors import UserError
from ktriage.inputs import name_of

if TYPE_CHECKING:
    from ktriage.console.reader import Reader
    from ktriage.console.types import Crash, Flood, Frame

HELP = (
    "Read console logs into crashes: every crash, named as syzbot would name it, with where it happened,"
    " what it follows from, and whether the report can be trusted. Reads plain and compressed logs, journals,"
    " pstore, netconsole and mails."
)
EXAMPLE = "journalctl -k -b -1 | ktriage report"

_IDLE_SECONDS = 1.0
_FRAMES_SHOWN = 12
_AROUND = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("logs", nargs="*", metavar="LOG", help="a console log; - or none: standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object a finding")
    parser.add_argument("--first", action="store_true", help="stop at the first crash of each log")
    parser.add_argument("--follow", action="store_true", help="keep reading a log that grows")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 where there is a crash")
    parser.add_argument("--case", metavar="PLACE", help=KEEP)
    parser.add_argument("--vmlinux", type=Path, metavar="V", help="the kernel with its debug information")
    parser.add_argument("--src", type=Path, metavar="DIR", help="show the source around each frame from here")
    parser.add_argument("--modules", type=Path, metavar="DIR", help="where the modules' debug information is")


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 1 where there is a crash and ``--exit-code`` was given, else 0."""
    if args.vmlinux is not None and not args.vmlinux.is_file():
        raise UserError(f"{args.vmlinux}: no such file", path=str(args.vmlinux))
    if args.modules is not None and not args.modules.exists():
        raise UserError(f"{args.modules}: no such file or directory", path=str(args.modules))
    if args.src is not None and not args.src.is_dir():
        raise UserError(f"{args.src}: no such directory", path=str(args.src))
    logs = args.logs or ["-"]
    if args.follow and len(logs) > 1:
        raise UserError("--follow reads one log", logs=logs)
    if args.case and (args.follow or args.first):
        raise UserError("--case keeps whole logs", hint="`ktriage watch` keeps what a log that grows brings")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    printer = _Printer(as_json=args.json, sources=args.src)
    for log in logs:
        if len(logs) > 1 and not args.json:
            printer.source(log)
        for finding in _kept(log, args) if args.case else _findings(log, follow=args.follow):
            printer.show(finding if args.case else _symbolized(finding, args))
            if args.first and printer.crashes:
                break
    return 1 if args.exit_code and printer.crashes else 0


def _symbolized(finding: Crash | Flood, args: argparse.Namespace) -> Crash | Flood:
    from ktriage.console.types import Crash

    if not isinstance(finding, Crash) or (args.vmlinux is None and args.modules is None):
        return finding
    from ktriage.symbols.symbolize import symbolize_crash

    return symbolize_crash(finding, vmlinux=args.vmlinux, modules=args.modules, note=_note)


def _note(text: str) -> None:
    sys.stderr.write(f"ktriage report: {text}\n")


def _findings(log: str, *, follow: bool) -> Iterator[Crash | Flood]:
    from ktriage.console import sources
    from ktriage.console.reader import Reader

    reader = Reader(name_of(log))
    if follow:
        yield from _followed(reader, sources.followed(log))
        return
    error: UserError | None = None
    try:
        for chunk in sources.chunks(log):
            yield from reader.feed(chunk)
    except UserError as damage:
        error = damage
    yield from reader.close()
    if error is not None:
        raise error


def _kept(log: str, args: argparse.Namespace) -> list[Crash | Flood]:
    """Read a log whole and keep it, with source lines where they are at hand; return what is in it."""
    from ktriage.console import Crash, read
    from ktriage.console.sources import chunks
    from ktriage.jobs.keeping import keep_log

    data = b"".join(chunks(log))
    findings = [_symbolized(finding, args) for finding in read(data, name_of(log))]
    crashes = [finding for finding in findings if isinstance(finding, Crash)]
    keep_log(args.case, name_of(log), data, crashes, args.src)
    return findings


def _followed(reader: Reader, chunks: Iterator[bytes]) -> Iterator[Crash | Flood]:
    """Read on as the log grows; a crash comes out when the log has been quiet for a while."""
    quiet_since = time.monotonic()
    try:
        for chunk in chunks:
            if chunk:
                yield from reader.feed(chunk)
                quiet_since = time.monotonic()
            elif reader.waiting and time.monotonic() - quiet_since > _IDLE_SECONDS:
                yield from reader.flush()
    except KeyboardInterrupt:
        yield from reader.close()
        raise
    yield from reader.close()


class _Printer:
    """Prints findings as JSON Lines, or for a person to read."""

    def __init__(self, *, as_json: bool, sources: Path | None) -> None:
        self.crashes = 0
        self._json = as_json
        self._sources = sources
        self._bold, self._plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")

    def source(self, log: str) -> None:
        """Say which log comes next."""
        sys.stdout.write(f"{log}:\n")

    def show(self, finding: Crash | Flood) -> None:
        """Print one finding."""
        from ktriage.console.types import Crash

        self.crashes += isinstance(finding, Crash)
        if self._json:
            sys.stdout.write(json.dumps(finding.to_json()) + "\n")
        elif isinstance(finding, Crash):
            sys.stdout.write(self._crash(finding))
        else:
            sys.stdout.write(self._flood(finding))
        sys.stdout.flush()

    def _flood(self, flood: Flood) -> str:
        rate = f", {flood.rate:.1f} a second" if flood.rate else ""
        when = (
            f", from {flood.first:.3f} s to {flood.last:.3f} s"
            if flood.first is not None and flood.last
            else ""
        )
        return f"{self._bold}flood: {flood.title}{self._plain}\n    {flood.count} times{rate}{when}\n\n"

    def _crash(self, crash: Crash) -> str:
        facts = [f"{crash.source}, line {crash.line}"]
        if crash.cause is not None:
            facts.append(f"follows from crash {crash.cause + 1}")
        if crash.corrupted:
            facts.append(f"can't be trusted: {crash.corrupted}")
        facts += _machine(crash)
        facts += [f"blamed on {crash.guilty_file}"] if crash.guilty_file else []
        facts += _count(crash)
        facts += [f"{word}: {value}" for word, value in _locks(crash)]
        facts += _access(crash)
        for frame in _shown(crash):
            facts.append(f"  {_frame(frame)}")
            facts += _around(frame, self._sources)
        facts += _quoted(crash)
        body = "".join(f"    {_printable(fact)}\n" for fact in facts)
        return f"{self._bold}{self.crashes}. {crash.title}{self._plain}\n{body}\n"


def _printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: names in a log may be anything."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _machine(crash: Crash) -> list[str]:
    who = []
    if crash.comm is not None:
        who.append(f"in {crash.comm}" + (f" (pid {crash.pid})" if crash.pid is not None else ""))
    if crash.cpu is not None:
        who.append(f"on CPU {crash.cpu}")
    if crash.kernel is not None:
        who.append(f"Linux {crash.kernel}")
    facts = [", ".join(who)] if who else []
    facts += [f"hardware: {crash.hardware}"] if crash.hardware else []
    facts += [f"before: {word}" for word in crash.taints]
    return facts


def _count(crash: Crash) -> list[str]:
    counted = crash.refcount
    if counted is None:
        return []
    of = f" of {counted.object}" if counted.object else ""
    value = f", now {counted.count}" if counted.count is not None else ""
    return [f"reference count{of}: {counted.kind}{value}"] + [
        f"    {holder.count} held from {holder.stack[0].function if holder.stack else 'an unknown place'}"
        for holder in counted.holders
    ]


def _locks(crash: Crash) -> Iterator[tuple[str, str]]:
    wanted = {lock.address for lock in crash.locks if lock.wanted}
    for lock in crash.locks:
        if crash.type == "HANG" and lock.address not in wanted:
            continue  # the locks of everybody else
        who = f"{lock.task}/{lock.pid}" if lock.task else "nobody"
        yield ("wants" if lock.wanted else "holds"), f"{who}: {lock.name} in {lock.function}"


def _access(crash: Crash) -> list[str]:
    """Say which instruction faulted, and on what."""
    if not crash.code or not any(title.startswith("bad-access in") for title in crash.alt_titles):
        return []
    from ktriage.symbols.code import read_code

    code = read_code(crash)
    if code is None or code.trapped is None:
        return []
    return [f"trapped: {code.trapped.text}" + (f" ({code.access})" if code.access else "")]


def _quoted(crash: Crash) -> list[str]:
    """Return who allocated and who freed the object, a line each."""
    from ktriage.console.quoted import quoted

    return [str(one) for one in quoted(crash)]


def _around(frame: Frame, sources: Path | None) -> list[str]:
    """Return the source lines around a frame, if they are at hand."""
    if sources is None:
        return []
    from ktriage.symbols.source import frame_source

    lines = frame_source(sources, frame, _AROUND)
    return [f"    {'>' if line.here else ' '}{line.number:6} {line.text}" for line in lines]


def _shown(crash: Crash) -> list[Frame]:
    return [frame for frame in crash.stack if frame.reliable and frame.context != "origin"][:_FRAMES_SHOWN]


def _frame(frame: Frame) -> str:
    from ktriage.console.rust import demangled

    offset = (
        f"+{frame.offset:#x}/{frame.size:#x}" if frame.offset is not None and frame.size is not None else ""
    )
    module = f" [{frame.module}]" if frame.module else ""
    place = f" {frame.file}:{frame.line}" if frame.file else ""
    return f"{demangled(frame.function)}{offset}{module}{place}" + (" [inline]" if frame.inline else "")
