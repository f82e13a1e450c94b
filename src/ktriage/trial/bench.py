"""A bench for trials: one reproducer on one kernel, the guest prepared once, any number of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ktriage.errors import UserError
from ktriage.kernel import Kernel
from ktriage.machine import End, Guest, GuestSpec, Plan, Program, prepare, run
from ktriage.machine.run import nothing
from ktriage.trial.judge import LOAD_STEP, judge
from ktriage.trial.outcome import Outcome
from ktriage.trial.recording import START, STOP, Recording
from ktriage.trial.spec import Spec
from ktriage.words import OutcomeKind

Progress = Callable[[str], None]


def named_kernel(spec: Spec) -> Kernel:
    """Return the kernel that a specification names by its files; raises UserError where one is missing."""
    table = spec.kernel
    if table.image is None:
        raise UserError("the specification names a package, not files")
    paths = {name: getattr(table, name) for name in ("image", "modules", "headers", "vmlinux")}
    found = {name: spec.path(text) if text else None for name, text in paths.items()}
    for name, path in found.items():
        if path is not None and not path.exists():
            raise UserError(f"[kernel] {name}: no such file: {path}")
    image = found["image"]
    assert image is not None
    modules = found["modules"]
    release = table.release or (modules.name if modules else image.name)
    return Kernel(image, release, modules, found["headers"], found["vmlinux"])


OWN_CMDLINE = "pci=noacpi"
"""On emulated processors ACPI takes long to say how the interrupts of PCI are wired, with checkers built in
half a minute; the wiring is known without it."""


def cmdline_of(spec: Spec) -> str:
    """Return what is added to the kernel's command line: of kernels of one's own, more than is asked for."""
    asked = spec.kernel.cmdline
    if spec.kernel.tree is None:
        return asked
    leaks = any("memory leak" in title for title in spec.hunted.titles)
    return " ".join(filter(None, (OWN_CMDLINE, "" if leaks else "kmemleak=off", asked)))


@dataclass(frozen=True, slots=True)
class Bench:
    """A prepared guest and what to do in it; made by ``set_up``."""

    spec: Spec
    kernel: Kernel
    guest: Guest
    recording: Recording | None = None

    def trial(self, directory: Path, *, module: Path | None = None, vmcore: str | None = None) -> Outcome:
        """Run the reproducer once with ``module`` and keep all of it in ``directory``, which is made.

        ``vmcore`` says when to keep the guest's memory (``never``, ``hung``, ``crashed``), in place of the
        specification. The outcome is on disk when this returns. Raises OSError where it can't be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        keep = vmcore or self.spec.run.vmcore
        plan = self._plan(module)
        left = run(
            self.guest,
            plan,
            directory,
            timeout=self.spec.run.timeout,
            vmcore=lambda end: keep == "crashed" or (keep == "hung" and end is End.TIMED_OUT),
            autopsy=self.recording.autopsy if self.recording else nothing,
        )
        outcome = replace(judge(self.spec, left), directory=str(directory))
        if self.recording is not None:
            outcome = replace(outcome, refs=self.recording.finish(left, directory, plan.files))
        if left.vmcore and outcome.kind in (OutcomeKind.OK, OutcomeKind.INFRA):
            left.vmcore.unlink()
            outcome = replace(outcome, vmcore=None)
        outcome.save(directory)
        return outcome

    def _plan(self, module: Path | None) -> Plan:
        lines: list[str] = []
        files: dict[str, bytes | Path] = {}
        if self.recording is not None:
            files |= self.recording.files()
            lines.append(f"must {START}")
        table = self.spec.module
        if table is not None and module is not None:
            files[f"ktriage/{table.name}.ko"] = module
            if table.load:
                files[f"ktriage/{LOAD_STEP}"] = (
                    f"insmod /ktriage/{table.name}.ko {table.parameters}\n".encode()
                )
                lines.append(f"must {LOAD_STEP}")
        for target, source in self.spec.guest.files.items():
            files[target.lstrip("/")] = self.spec.path(source)
        lines.append("file modules-before /proc/modules")
        exports = f"export MODULE=/ktriage/{table.name}.ko\n" if table else ""
        for number, command in enumerate(self.spec.run.commands):
            files[f"ktriage/run-{number}"] = f"{exports}{command}\n".encode()
            lines.append(f"step run-{number}")
        if self.spec.run.settle:
            files["ktriage/settle"] = f"sleep {self.spec.run.settle}\n".encode()
            lines.append("step settle")
        if self.recording is not None:
            lines.append(f"step {STOP}")
        lines.append("file modules-after /proc/modules")
        return Plan(tuple(lines), files)


def set_up(spec: Spec, kernel: Kernel, *, restore: bool = True, progress: Progress = lambda _: None) -> Bench:
    """Prepare the guest of a specification on ``kernel``.

    With ``restore`` (the default) the guest is booted once and restored for each trial, else it is booted
    for each. Raises UserError where the specification names what is not there, BootFailedError where the
    kernel does not come up.
    """
    for target, source in spec.guest.files.items():
        if not spec.path(source).is_file():
            raise UserError(f"[guest] files: {target}: no such file: {spec.path(source)}")
    guest = prepare(
        GuestSpec(
            kernel=kernel.image,
            modules=kernel.modules,
            drivers=spec.guest.drivers,
            programs=tuple(Program(spec.path(source)) for source in spec.guest.compile),
            memory_mib=spec.guest.memory_mib,
            cpus=spec.guest.cpus,
            cmdline=cmdline_of(spec),
            accel=spec.guest.accel,
            boot_timeout=spec.guest.boot_timeout,
            trace=spec.refs is not None,
        ),
        restore=restore,
        progress=progress,
    )
    if spec.refs is None:
        return Bench(spec, kernel, guest)
    recording = Recording(spec.refs.wanted(), guest, kernel.vmlinux)
    recording.tell(progress)
    return Bench(spec, kernel, guest, recording)
