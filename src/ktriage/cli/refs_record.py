"""``ktriage refs record``: record who takes and drops references."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ktriage.refs.record import Progress, Recorded
    from ktriage.refs.record_events import Wanted

HELP = (
    "Record references taken and dropped: a module's uses, or any pair of kernel functions, "
    "on the running kernel until ctrl-C, or in a guest."
)
EXAMPLE = "ktriage refs record --get get_device --put put_device -o trace.txt.zst"
OUT = Path("refs-trace.txt.zst")
TICK = 0.25
"""Progress is shown in the first of the ticks of a second."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ktriage refs record``."""
    function = "[MODULE:]FUNCTION[:ARGUMENT[+OFFSET]]"
    parser.epilog = f"example:\n  {EXAMPLE}"
    parser.add_argument("--module", metavar="NAME", help="a module whose uses are counted")
    parser.add_argument(
        "--get", metavar=function, action="append", default=[], help="a function that takes a reference"
    )
    parser.add_argument("--put", metavar=function, action="append", default=[], help="one that drops it")
    parser.add_argument("--wait", action="store_true", help="the module is to be loaded only later")
    parser.add_argument("--no-stacks", action="store_true", help="do not record call paths")
    parser.add_argument("--buffer", type=int, default=8192, metavar="KB", help="buffer of each CPU (8192)")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help=f"the trace; .zst packs it, -: standard output ({OUT}); with --spec: a folder"
        " for the runs, each with its trace (ktriage-out/refs)",
    )
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so long")
    parser.add_argument("--json", action="store_true", help="print the ledger as JSON Lines")
    parser.add_argument("--spec", type=Path, metavar="FILE", help="record in a guest: a ktriage.toml")
    parser.add_argument("--repo", type=Path, metavar="DIR", help="with --spec: git repository of the module")
    parser.add_argument("--rev", metavar="REV", help="with --spec: its revision (HEAD)")
    parser.add_argument(
        "-n", "--runs", type=int, default=1, metavar="N", help="with --spec: until it crashes, at most N (1)"
    )
    parser.add_argument("command", nargs="*", metavar="-- COMMAND", help="record while this runs")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage refs record``."""
    if args.spec is not None:
        return _in_guest(args)
    from ktriage.errors import UserError
    from ktriage.refs.record import check, record
    from ktriage.refs.record_events import wanted

    what = wanted(
        args.module, tuple(args.get), tuple(args.put), stacks=not args.no_stacks, buffer_kb=args.buffer
    )
    if args.seconds is not None and args.seconds <= 0:
        raise UserError("--seconds: a number above 0")
    check(what, expected=args.wait)
    out = args.out or str(OUT)
    with _sink(out) as sink, _until(args) as ended:
        _say(f"recording {_named(what)}; ctrl-C ends it")
        done = record(what, sink, watch=lambda progress: _show(progress) or ended(progress.seconds))
    _end(done, out)
    return 0 if out == "-" else _read(out, args.json)


def _named(what: Wanted) -> str:
    probes = ", ".join(probe.symbol for probe in (*what.get, *what.put))
    return " and ".join(name for name in (what.module and f"the uses of {what.module}", probes) if name)


@contextmanager
def _sink(out: str) -> Iterator[Callable[[bytes], None]]:
    if out == "-":
        yield _stdout
        return
    with Path(out).open("wb") as file:
        if not out.endswith(".zst"):
            yield lambda piece: void(file.write(piece))
            return
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(file) as packed:
            yield lambda piece: void(packed.write(piece))


def void(_: object) -> None:
    """Drop a value."""


def _stdout(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@contextmanager
def _until(args: argparse.Namespace) -> Iterator[Callable[[float], bool]]:
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    children: list[subprocess.Popen[bytes]] = []

    def ended(seconds: float) -> bool:
        # The first call comes when the recording is on.
        if args.command and not children:
            children.append(subprocess.Popen(args.command))
        late = args.seconds is not None and seconds >= args.seconds
        return bool(asked) or late or any(child.poll() is not None for child in children)

    try:
        yield ended
    finally:
        for child in children:
            child.terminate()
            child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _show(progress: Progress) -> bool:
    if sys.stderr.isatty() and progress.seconds % 1 < TICK:
        sys.stderr.write(
            f"\r{progress.seconds:7.1f} s  {progress.events} events  {progress.size >> 10} KiB  "
        )
        sys.stderr.flush()
    return False


def _end(done: Recorded, out: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    lost = f", {done.lost} lost: a larger --buffer keeps more" if done.lost else ""
    _say(f"{done.events} events in {done.seconds:.1f} s{lost}; the trace is {out}")


def _read(out: str, as_json: bool) -> int:
    from ktriage.cli import Parser, refs
    from ktriage.errors import UserError

    parser = Parser()
    refs.configure(parser)
    try:
        return refs.run(parser.parse_args(["read", *(["--json"] if as_json else []), "--", out]))
    except UserError as error:
        if "no trace events" not in error.message:
            raise
        _say("nothing was counted meanwhile")
        return 0


def _in_guest(args: argparse.Namespace) -> int:
    from ktriage.jobs.record import record_in_guest
    from ktriage.trial import load_spec

    out = Path(args.out) if args.out else Path("ktriage-out/refs")
    outcome = record_in_guest(
        load_spec(args.spec),
        out,
        module=args.module,
        get=tuple(args.get),
        put=tuple(args.put),
        stacks=not args.no_stacks,
        repo=args.repo or (Path() if args.rev else None),
        rev=args.rev,
        runs=max(args.runs, 1),
        progress=_say,
    )
    _say(f"{outcome.kind}: {outcome.title or outcome.detail}")
    if outcome.refs is None:
        _say("nothing was recorded")
        return 2
    if not outcome.refs.complete:
        _say(
            "the guest came to no end; what it had not sent was "
            + ("read out of its memory" if outcome.refs.rescued else "lost")
        )
    _say(f"the trace is {outcome.refs.trace}")
    return _read(outcome.refs.trace, args.json)
