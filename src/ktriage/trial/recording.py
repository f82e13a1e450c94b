"""References recorded in a guest while a reproducer runs."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import zstandard

from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.machine import Guest, GuestRun, Plan, run
from ktriage.machine.vm import Vm
from ktriage.refs import Account, read_traces
from ktriage.refs.record_events import PLACED, Wanted, Write, events, heading, placed, writes
from ktriage.refs.record_layout import LIST, NAMES, Layout, Walk, plain, read_layout
from ktriage.refs.record_stream import Sent, read_sent, symbols_of, trace_text
from ktriage.refs.record_symbols import read_kallsyms
from ktriage.trial.layout import dwarf_layout
from ktriage.trial.outcome import Refs

CONFIG = "ktriage/trace"
START, STOP = "trace-start", "trace-stop"
TRACE = "trace.txt.zst"
LEDGER = "ledger.jsonl"
INSTANCE = GROUP = "ktriage"
FORMATS = "/sys/kernel/tracing/events"

KALLSYMS, BTF, LAYOUT = "kallsyms", "btf", "layout.json"
ONCE = {KALLSYMS: "/proc/kallsyms", BTF: "/sys/kernel/btf/vmlinux"}
"""What is the same whenever a saved guest is restored, and asked for once."""
TELL_SECONDS = 120.0


def configuration(what: Wanted, *, clock: str, layout: Layout | None) -> bytes:
    """Return the configuration of the guest's tracer (machine/tracer.c).

    Where the guest's ``layout`` is known, its kernel records where modules are put; else the tracer, which
    costs more, has to look when one is loaded.
    """
    steps = writes(what, GROUP, clock=clock, life=True)
    names = [*events(what, GROUP, life=True), "ftrace/kernel_stack"]
    first = next(i for i, step in enumerate(steps) if step.path.startswith("events/"))
    definition = placed(GROUP, layout) if layout else None
    if definition is not None:
        names.append(f"{GROUP}/{PLACED}")
        steps.append(Write(f"events/{GROUP}/{PLACED}/enable", "1"))
        steps.insert(first, Write("/sys/kernel/tracing/kprobe_events", definition, append=True))
        first += 1
    # The formats of kprobes are there once they are made, and that is before anything is enabled.
    lines = [_line(step) for step in steps]
    lines[first:first] = [f"send {name} {FORMATS}/{name}/format" for name in names]
    if definition is None:
        lines.insert(0, "listen for modules")
    return _text(lines)


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


TELL = [f"send {name} {path}" for name, path in ONCE.items()]


def _line(step: Write) -> str:
    return f"{'append' if step.append else 'write'} {step.path} {step.text}"


@dataclass(frozen=True)
class Recording:
    """What is recorded in each run of one guest.

    ``vmlinux`` has the debug information of the guest's kernel, if any: it stands in for BTF.
    """

    what: Wanted
    guest: Guest
    vmlinux: Path | None = None

    @cached_property
    def place(self) -> Path | None:
        """Where what the saved guest tells of itself is kept: beside its state, as long as that."""
        return self.guest.state.parent / "told" if self.guest.state else None

    def tell(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Have a saved guest tell what is the same in each run, where it has not done so yet."""
        if self.place is None or self.place.is_dir():
            return
        progress("asking the guest for its symbols, once")
        files = self._steps(_text(TELL))
        with tempfile.TemporaryDirectory(prefix="ktriage-tell-") as folder:
            left = run(
                self.guest, Plan((f"must {START}", f"step {STOP}"), files), Path(folder), timeout=TELL_SECONDS
            )
        sent = read_sent(left.trace)
        _check(left, sent)
        if not sent.ended:
            raise MachineryError(f"the guest did not tell its symbols: {left.detail}")
        self._keep(sent)

    @staticmethod
    def _steps(config: bytes) -> dict[str, bytes | Path]:
        return {
            CONFIG: config,
            f"ktriage/{START}": b"tracer start\n",
            f"ktriage/{STOP}": b"tracer stop\n",
        }

    def files(self) -> dict[str, bytes | Path]:
        """Return what the guest needs to record."""
        clock = "local" if self.guest.hardware.cpus == 1 else "global"
        if self.place is None:
            layout = self._offsets(Sent())
            return self._steps(_text(TELL) + configuration(self.what, clock=clock, layout=layout))
        return self._steps(configuration(self.what, clock=clock, layout=self._layout(Sent())))

    async def autopsy(self, vm: Vm, trace: bytes) -> bytes:
        """Return what a guest that came to no end had recorded and not sent, out of its memory.

        It is nothing where neither BTF nor DWARF says where that is, or its memory can't be read.
        """
        sent = read_sent(trace)
        layout = self._layout(sent)
        if layout is None:
            return b""
        try:
            await vm.execute("stop")
            walk = Walk(vm.memory, layout)
            pages = await walk.pages(INSTANCE, self.guest.hardware.cpus)
            names = await walk.names()
        except (LookupError, KtriageError):
            return b""
        told = "".join(f"{pid} {comm}\n" for pid, comm in names.items()).encode()
        tail = b"".join(b"tail %d %d %d\n" % (cpu, read, len(page)) + page for cpu, read, page in pages)
        return tail + b"file names %d\n" % len(told) + told

    def finish(self, left: GuestRun, directory: Path, files: dict[str, bytes | Path]) -> Refs | None:
        """Write a run's trace and ledger to ``directory``; None where the guest recorded nothing.

        ``files`` are those that the guest was given: the modules among them have the symbols of their
        functions. Raises UserError where the guest could not record what was asked for.
        """
        sent, rest = read_sent(left.trace), read_sent(left.remains)
        _check(left, sent)
        if not sent.files:
            return None
        sent.pages += rest.pages
        sent.names |= rest.names
        symbols = symbols_of(self._kallsyms(sent), sent, dict(_modules(files)))
        path = directory / TRACE
        with path.open("wb") as out, zstandard.ZstdCompressor().stream_writer(out) as packed:
            packed.write(heading(self.what, GROUP).encode())
            for text in trace_text(sent, symbols, life=self.what.module is not None):
                packed.write(text.encode())
        return _ledger(path, complete=sent.ended, rescued=bool(rest.pages))

    def _kallsyms(self, sent: Sent) -> bytes:
        if self.place is None:
            return sent.files.get(KALLSYMS, b"")
        return (self.place / KALLSYMS).read_bytes()

    def _layout(self, sent: Sent) -> Layout | None:
        if self.place is not None:
            return plain(json.loads((self.place / LAYOUT).read_text()))
        return self._layout_of(sent)

    def _layout_of(self, sent: Sent) -> Layout | None:
        """Return a layout with the addresses that this guest told."""
        layout = self._offsets(sent)
        values, _ = read_kallsyms(sent.files.get(KALLSYMS, b""))
        known = layout is not None and LIST in values and NAMES in values
        return layout | {name: values[name] for name in (LIST, NAMES)} if layout and known else None

    def _offsets(self, sent: Sent) -> Layout | None:
        """Return a layout without addresses."""
        layout = read_layout(sent.files.get(BTF, b""))
        return layout or (dwarf_layout(self.vmlinux) if self.vmlinux else None)

    def _keep(self, sent: Sent) -> None:
        assert self.place is not None
        draft = Path(tempfile.mkdtemp(dir=self.place.parent, prefix=".told-"))
        try:
            (draft / KALLSYMS).write_bytes(sent.files[KALLSYMS])
            (draft / LAYOUT).write_text(json.dumps(self._layout_of(sent)))
            draft.rename(self.place)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not self.place.is_dir():
                raise MachineryError(f"{self.place}: {error.strerror}") from error


def _ledger(trace: Path, *, complete: bool, rescued: bool) -> Refs:
    try:
        accounts = read_traces([str(trace)])
    except UserError:
        # Nothing was counted: no event came.
        accounts = []
    path = trace.with_name(LEDGER)
    path.write_text("".join(json.dumps(account.to_json()) + "\n" for account in accounts))
    wrong = tuple(line for account in accounts for line in complaints(account))
    return Refs(str(trace), str(path), len(accounts), wrong, complete, rescued)


def complaints(account: Account) -> list[str]:
    """Return what an account has to report, a line each."""
    sides = (("get", "put", account.unmatched_gets), ("put", "get", account.unmatched_puts))
    return [
        f"{account.object}: {one.count} {done}{'s' if one.count > 1 else ''} without a {missing} "
        f"in {one.function} by {one.holder} ({one.certainty})"
        for done, missing, found in sides
        for one in found
    ]


def _modules(files: dict[str, bytes | Path]) -> Iterator[tuple[str, bytes]]:
    for name, content in files.items():
        if name.endswith(".ko"):
            data = content.read_bytes() if isinstance(content, Path) else content
            yield Path(name).stem.replace("-", "_"), data


def _check(left: GuestRun, sent: Sent) -> None:
    """Raise UserError where the guest's tracer did not start."""
    if sent.error is not None:
        raise _refusal(sent.error)
    if not left.trace and any(step.name == START and step.code for step in left.steps):
        raise UserError(
            "[refs] can't be recorded: the guest has no virtio port to send it on",
            hint="its kernel needs CONFIG_VIRTIO_CONSOLE",
        )


def _refusal(error: str) -> UserError:
    """Return what the guest complained of, as an error."""
    if re.match(rf"\S*/instances/{INSTANCE}/: ", error):
        return UserError(f"[refs] the guest's kernel can't trace: {error}", hint="it needs CONFIG_FTRACE")
    probe = re.search(r"kprobe_events: [pr]:\S+ (\S+).*: (.*)", error)
    if probe is None or "register" not in error:
        return UserError(f"[refs] can't be recorded: {error}")
    return UserError(
        f"[refs] {probe[1]} can't be probed in the guest: it is missing, inlined or built without tracing",
        hint="the kernel's lib/ is unless CONFIG_KPROBE_EVENTS_ON_NOTRACE; name a function that calls it",
        reason=probe[2],
    )
