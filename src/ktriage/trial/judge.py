"""From what a guest left behind to an outcome."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ktriage.console import Crash, read_crashes
from ktriage.machine import End, GuestRun
from ktriage.trial.outcome import Outcome
from ktriage.trial.spec import Spec
from ktriage.words import OutcomeKind

UNEXPECTED_REBOOT = "unexpected kernel reboot"
LOAD_STEP = "load"


def module_counts(text: str) -> dict[str, int]:
    """Return the use count of each module in a /proc/modules text; unloadable ones have none (``-``)."""
    counts = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and re.fullmatch(r"-?\d+", fields[2]):
            counts[fields[0]] = int(fields[2])
    return counts


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What speaks for the hunted crash, and the crash that it is."""

    lines: tuple[str, ...]
    crash: Crash | None
    title: str | None


def judge(spec: Spec, run: GuestRun) -> Outcome:
    """Return the outcome of a run.

    The hunted crash counts wherever it shows, next to others too. A hang is what neither ended nor crashed.
    A reproducer that ended with an exit code that it should not, and no crash, has tested nothing.
    """
    console = run.console if run.provoked is None else run.console[: run.provoked]
    crashes = [crash for crash in read_crashes(console, source="console.log") if not crash.suppressed]
    after = _text(run, "modules-after")
    found = _hunted(spec, console, crashes, after)
    common = Outcome(
        kind=OutcomeKind.OK,
        titles=tuple(dict.fromkeys(crash.title for crash in crashes)),
        modules_before=_text(run, "modules-before"),
        modules_after=after,
        vmcore=str(run.vmcore) if run.vmcore else None,
        seconds={
            "start": run.start_seconds,
            "run": run.run_seconds,
            "dump": run.dump_seconds,
            "guest": sum(step.seconds or 0.0 for step in run.steps if step.name.startswith("run-")),
        },
    )
    return _with(common, *_decide(spec, run, crashes, found))


def _with(common: Outcome, kind: OutcomeKind, detail: str, crash: Crash | None, found: _Evidence) -> Outcome:
    crashed = kind is OutcomeKind.CRASHED
    return replace(
        common,
        kind=kind,
        hunted=crashed or (kind is OutcomeKind.HUNG and bool(found.lines)),
        title=found.title if crashed else (crash.title if crash else None),
        crash=found.crash if crashed else crash,
        detail=detail,
        evidence=found.lines,
    )


def _text(run: GuestRun, name: str) -> str | None:
    data = run.files.get(name)
    return data.decode(errors="replace") if data is not None else None


def _hunted(spec: Spec, console: bytes, crashes: list[Crash], modules_after: str | None) -> _Evidence:
    lines: list[str] = []
    match: Crash | None = None
    for crash in crashes:
        titles = {crash.title, *crash.alt_titles} & set(spec.hunted.titles)
        if titles:
            lines.append(f"console: {crash.title}")
            match = match or crash
    for pattern in spec.hunted.patterns:
        if hit := re.search(pattern.encode(), console):
            lines.append(f"console: {hit[0][:200].decode(errors='replace')}")
            start = hit.start()
            match = match or next((crash for crash in crashes if crash.start <= start < crash.end), None)
    title = match.title if match else None
    counts = module_counts(modules_after or "")
    for name in spec.hunted.module_count_below_zero:
        if counts.get(name, 0) < 0:
            lines.append(f"/proc/modules: {name} is used by {counts[name]}")
            title = title or f"module count of {name} below zero"
    return _Evidence(tuple(dict.fromkeys(lines)), match, title or (lines[0] if lines else None))


def _decide(
    spec: Spec, run: GuestRun, crashes: list[Crash], found: _Evidence
) -> tuple[OutcomeKind, str, Crash | None, _Evidence]:
    first = crashes[0] if crashes else None
    if run.end is End.MACHINE_FAILED:
        return OutcomeKind.INFRA, run.detail, None, found
    if run.end is End.NOT_UP and not found.lines:
        return OutcomeKind.BOOT_FAILED, run.detail, first, found
    if found.lines:
        return OutcomeKind.CRASHED, "; ".join(found.lines), found.crash, found
    loading = next((step for step in run.steps if step.name == LOAD_STEP and step.code != 0), None)
    if loading is not None and (loading.code is not None or first or run.end is not End.TIMED_OUT):
        why = first.title if first else f"insmod ended with {loading.code}"
        return OutcomeKind.BOOT_FAILED, f"the module did not load: {why}", first, found
    if first is not None:
        return OutcomeKind.OTHER_CRASH, first.title, first, found
    if run.end is End.SHUT_DOWN:
        crash = Crash(source="console.log", start=0, end=0, line=1, title=UNEXPECTED_REBOOT, type="REBOOT")
        return OutcomeKind.OTHER_CRASH, run.detail, crash, found
    if run.end is End.TIMED_OUT:
        hang = _Evidence((f"the guest hung: {run.detail}",), None, None) if spec.hunted.hang else found
        return OutcomeKind.HUNG, run.detail, None, hang
    if run.end is End.PANICKED:
        return OutcomeKind.OTHER_CRASH, "a panic whose report could not be read", None, found
    return (*_quiet(spec, run), None, found)


def _quiet(spec: Spec, run: GuestRun) -> tuple[OutcomeKind, str]:
    for step in run.steps:
        if step.name.startswith("run-") and step.code not in spec.run.exit_codes:
            return (
                OutcomeKind.INFRA,
                f"the reproducer did not do its work: {step.name} ended with {step.code}",
            )
    if run.warnings:
        return OutcomeKind.INFRA, f"the guest: {run.warnings[0]}"
    return OutcomeKind.OK, "no crash"
