"""The report ``summary`` of ``ktriage dump show``: what the dump shows, why that is so, what it is of."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from ktriage.console.types import Crash
    from ktriage.dump.core import Vmcore
    from ktriage.dump.diagnosis import Diagnosis, Finding
    from ktriage.dump.types import Summary

MOST_EVIDENCE = 3
"""Lines of evidence below findings that are not the first; their own report has all."""


def show_summary(core: Vmcore, args: argparse.Namespace, show: Callable[..., None]) -> None:
    """Print the diagnosis, the dump's facts, the bad access and the crashes in its log."""
    from ktriage.dump.diagnosis import attempt, diagnose
    from ktriage.dump.fault import find_fault
    from ktriage.dump.files import CoreFiles
    from ktriage.dump.summary import summarize
    from ktriage.symbols.symbolize import Symbolizer

    summary, crashes, _ = summarize(core)
    fault = attempt(core, "the bad access", lambda: find_fault(core, crashes), None)
    diagnosis = diagnose(core, summary, crashes, fault.sentence if fault else None)
    if crashes:
        symbolizer = Symbolizer(files=CoreFiles(core))
        crashes = [replace(symbolizer.crash(crash), source=summary.path) for crash in crashes]
        core.notes += symbolizer.notes
    if args.case or args.kept:
        _keep(core, args, crashes, {"diagnosis": diagnosis, "fault": fault, "summary": summary})
    if args.json:
        for item in (diagnosis.to_json(), summary.to_json()):
            sys.stdout.write(json.dumps(item) + "\n")
        for item in (*([fault.to_json()] if fault else []), *(crash.to_json() for crash in crashes)):
            sys.stdout.write(json.dumps(item) + "\n")
        return
    show(*_findings(diagnosis, summary, _unread(core)), "", *_facts(summary, diagnosis))
    if fault is not None:
        from ktriage.cli.dump_fault import render_fault

        told = any(fault.sentence in finding.evidence for finding in diagnosis.findings)
        show("", render_fault(fault, told=told))
    for part in _crashes(crashes, args):
        show("", part)


def _keep(core: Vmcore, args: argparse.Namespace, crashes: list[Crash], found: dict[str, Any]) -> None:
    """Keep what was found, with the audit, in a case store, or in a file for who has one."""
    from ktriage.dump.audit import audit
    from ktriage.dump.audit_ledger import read_ledger
    from ktriage.dump.diagnosis import attempt
    from ktriage.jobs.keeping import keep_dump

    ledger = read_ledger(args.ledger) if args.ledger else None
    found["audit"] = attempt(core, "audit", lambda: audit(core, ledger), None)
    if args.kept:
        args.kept.write_bytes(pickle.dumps({"crashes": crashes, **found}))
    else:
        keep_dump(args.case, core.path, crashes, **found, tree=args.src, bug=args.bug)


def _unread(core: Vmcore) -> int:
    """Return how many notes say that something could not be read, or not to its end."""
    about_files = ("debug information", "build id", "no file")
    return sum(not any(words in note for words in about_files) for note in core.notes)


def _findings(diagnosis: Diagnosis, summary: Summary, unread: int) -> Iterator[RenderableType]:
    from ktriage.case.text import clean

    if not diagnosis.findings:
        yield Text(_nothing(summary, unread), "bold yellow" if unread else "bold")
    for index, finding in enumerate(diagnosis.findings):
        words = Text(clean(finding.says), "bold red" if index == 0 else "")
        yield words if index == 0 else Text("also: ", "dim").append_text(words)
        yield from _evidence(finding, None if index == 0 else MOST_EVIDENCE)


def _nothing(summary: Summary, unread: int) -> str:
    from ktriage.case.text import plural

    if unread:
        return f"nothing can be told: {plural(unread, 'part')} of the dump could not be read, as said below"
    crashed = "" if summary.panic else "no panic, "
    return (
        f"nothing found: {crashed}no task stuck, no work or timer in freed memory or of a module that is gone"
    )


def _evidence(finding: Finding, most: int | None) -> Iterator[RenderableType]:
    from ktriage.case.text import clean

    for line in finding.evidence[:most]:
        yield Padding(Text(clean(line), "dim"), (0, 0, 0, 2))
    if most is not None and len(finding.evidence) > most:
        more = len(finding.evidence) - most
        yield Padding(Text(f"and {more} more: `{finding.kind}` has them", "dim"), (0, 0, 0, 2))


def _facts(summary: Summary, diagnosis: Diagnosis) -> Iterator[Text]:
    from ktriage.case.text import clean, duration, plural, size

    panic = summary.panic or "none: the kernel was dumped while it ran"
    cpus, tasks = plural(summary.cpus, "CPU"), plural(summary.tasks, "task")
    for name, value in (
        ("kernel", f"Linux {summary.release} {summary.machine}, {summary.version}"),
        ("host", summary.hostname),
        ("up", duration(summary.seconds) if summary.seconds is not None else "unknown"),
        ("machine", f"{cpus}, {size(summary.memory)}, {tasks}"),
        ("taints", summary.taints.strip() or "none"),
        ("panic", panic),
        ("", f"{diagnosis.asked}: the task that panicked is not to blame" if diagnosis.asked else ""),
    ):
        if not name and not value:
            continue
        yield Text(f"{name:<8} ", "dim").append(clean(value), "default")


def _crashes(crashes: list[Crash], args: argparse.Namespace) -> Iterator[RenderableType]:
    from ktriage.case.terminal import render_crash

    groups: dict[object, list[Crash]] = {}
    for crash in crashes:
        groups.setdefault((crash.title, crash.stack), []).append(crash)
    for same in groups.values():
        yield render_crash(same[0], len(same), args.src)
    if not crashes:
        yield Text("no crash in the kernel's log")
