"""Where traces come from: files, standard input, compressed files, trace.dat by way of trace-cmd."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO, cast

from ktriage.errors import MachineryError, UserError
from ktriage.inputs import name_of, opened, packing, unpacked

CHUNK = 4 << 20
_STEP = 1 << 18

_TRACE_DAT = b"\x17\x08\x44tracing"
"""How a trace.dat begins: trace-cmd.dat.v7(5), "INITIAL FORMAT"."""
_PERF_DATA = (b"PERFILE2", b"2ELIFREP")


def chunks(path: str) -> Iterator[bytes]:
    """Yield the trace at ``path`` ("-": standard input) as text, decompressed, in chunks.

    Raises UserError where it can't be read, where its compressed data is damaged or cut (after all that
    could be read has been yielded), or where it is binary and what reads it is not installed.
    """
    with opened(path, "trace") as file:
        stream = cast("io.BufferedReader", file)
        kind = packing(stream.peek(6))
        yield from _texts(unpacked(stream, kind, path) if kind else stream, path)


def _texts(stream: io.BufferedReader, path: str) -> Iterator[bytes]:
    head = stream.peek(16)
    if head.startswith(_TRACE_DAT):
        yield from _trace_dat(stream, path)
        return
    if head.startswith(_PERF_DATA):
        raise UserError(f"{name_of(path)}: perf's own file", hint="give what `perf script` prints of it")
    while chunk := stream.read1(CHUNK):
        yield chunk


def _trace_dat(stream: IO[bytes], path: str) -> Iterator[bytes]:
    """Yield what ``trace-cmd report`` makes of a trace.dat."""
    if shutil.which("trace-cmd") is None:
        raise UserError(
            f"{name_of(path)}: a trace.dat, and trace-cmd is not installed",
            hint="give `trace-cmd report`'s text",
        )
    with tempfile.NamedTemporaryFile(prefix="ktriage-trace-", suffix=".dat") as copy:
        file = path
        # What was unpacked, or came by standard input, trace-cmd can't open by its name.
        if path == "-" or not isinstance(getattr(stream, "raw", None), io.FileIO):
            shutil.copyfileobj(stream, copy)
            copy.flush()
            file = copy.name
        yield from _report(file, path)


def _report(file: str, path: str) -> Iterator[bytes]:
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            ["trace-cmd", "report", "-t", "-i", file], stdout=subprocess.PIPE, stderr=complaints
        ) as process,
    ):
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read(_STEP):
                yield chunk
        finally:
            process.stdout.close()
            code = process.wait()
        if code:
            complaints.seek(0)
            said = complaints.read(2000).decode(errors="replace").strip().splitlines()
            raise UserError(f"{name_of(path)}: trace-cmd can't read it ({said[-1] if said else code})")
    if process.returncode is None:  # pragma: no cover
        raise MachineryError("trace-cmd did not end")
