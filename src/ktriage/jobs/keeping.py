"""What each command finds, put into the case store on request (``--case``).

A finding's blob is a JSON document with all that a page shows of it; ``case.findings`` has its form and reads
it again. Texts are kept as they are: mails, reproducers that were brought in.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.case.store import open_store
from ktriage.case.store.better import better
from ktriage.case.store.types import FindingKind
from ktriage.console import read_crashes
from ktriage.errors import KtriageError
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ktriage.bisect.types import Log
    from ktriage.case.store import Store
    from ktriage.console import Crash
    from ktriage.dump.audit import Audit
    from ktriage.dump.diagnosis import Diagnosis
    from ktriage.dump.fault import Fault
    from ktriage.dump.types import Summary
    from ktriage.jobs.minimize import Minimized
    from ktriage.jobs.repro import Rate
    from ktriage.refs.read import Reading
    from ktriage.refs.series import Series
    from ktriage.refs.types import Account

DEFAULT = "default"
"""What ``--case`` stands for where no place is named with it: the store in the XDG data folder."""
LARGEST_LOG = 64 << 20
LARGEST_TEXT = 256 << 10
"""Bytes that are kept of a reproducer's file."""
MOST_CONSOLES = 40
"""Runs that crashed whose consoles are kept: as many as a bug keeps of its crashes."""
MOST_OBJECTS = 50
MOST_ENTRIES = 100
"""Objects of a ledger or a dump that are kept, and entries of each: what is wrong comes first."""
MOST_POINTS = 400
"""Points that are kept of a count over time: a picture has no room for more."""
AROUND = 4
"""Source lines that are kept on each side of a frame's."""


@contextmanager
def store_at(place: str) -> Iterator[Store]:
    """Open the store that ``--case`` names while the block lasts; raises UserError as ``open_store``."""
    store = open_store(None if place == DEFAULT else place)
    try:
        yield store
    finally:
        store.close()


def keep_log(
    place: str, source: str, data: bytes, crashes: Sequence[Crash], tree: Path | None = None
) -> None:
    """Keep a console log and its crashes; with ``tree``, the sources, also the lines around their frames.

    Of a log that is there already, crashes that tell more now take the place of the kept ones.
    """
    with store_at(place) as store:
        if store.add_log(source, data, crashes).known:
            better(store, data, crashes)
        if tree is not None:
            _keep_source(store, crashes, tree)


def _keep_source(store: Store, crashes: Iterable[Crash], tree: Path) -> None:
    """Keep the lines around the frames of crashes, with the kernel that they are of."""
    from ktriage.symbols.source import frame_source

    for crash in crashes:
        frames = [
            {"file": frame.file, "line": frame.line, "lines": [[one.number, one.text] for one in lines]}
            for frame in crash.stack
            if (lines := frame_source(tree, frame, AROUND))
        ]
        bug = bug_of(store, crash.title) if frames else None
        if bug is None:
            continue
        document = {"kernel": crash.kernel, "frames": frames[:MOST_ENTRIES]}
        _add(store, FindingKind.SOURCE, f"{bug} {crash.kernel}", f"lines of {tree}", {"tree": str(tree)},
             bug, document)  # fmt: skip


def keep_bisection(place: str, path: Path, bug: int | None = None) -> int:
    """Keep the bisection of the log at ``path`` as it stands, and return the finding's number.

    It belongs to the bug of the title that its crashes had most often. What the runs that crashed had on
    their consoles is kept with it, and once it has ended the culprit's diff, so that nothing of it is needed
    any more but the store.
    """
    from ktriage.bisect.log import read_log

    log = read_log(path)
    path = path.resolve()
    answer = log.end
    title = _title(log)
    data: dict[str, Any] = {"log": str(path), "repo": log.start.repo, "title": title, "runs": len(log.runs)}
    summary = f"bisection of {Path(log.start.repo).name}: {log.start.candidates} commits"
    content = None
    if answer is not None:
        data |= {
            "verdict": answer.verdict, "culprit": answer.culprit, "subject": answer.subject,
            "probability": answer.probability, "builds": answer.builds,
        }  # fmt: skip
        if answer.culprit:
            summary = f"{answer.culprit[:12]} {answer.subject or ''} ({answer.probability:.2%})"
        else:
            summary = f"{summary}, {answer.verdict}"
        if path.stat().st_size <= LARGEST_LOG:
            text = path.read_text(encoding="utf-8", errors="replace")
            content = _document({"log": text, "change": _change(log)})
    with store_at(place) as store:
        if answer is not None:
            _keep_consoles(store, [run.where for run in log.runs if run.title and run.where])
        return store.add_finding(
            FindingKind.BISECTION, str(path), summary, data, content=content,
            bug=bug if bug is not None else bug_of(store, title),
        )  # fmt: skip


def _change(log: Log) -> dict[str, Any] | None:
    """Return the culprit as its repository tells of it, None where there is none or it is gone."""
    from ktriage.history.repository import Repository
    from ktriage.jobs.change import read_change

    start, culprit = log.start, log.end.culprit if log.end else None
    if culprit is None:
        return None
    try:
        tip = start.good if start.kind == "fix" else start.bad
        return asdict(read_change(Repository(Path(start.repo)), culprit, tip))
    except KtriageError:
        return None


def _keep_consoles(store: Store, directories: Iterable[str]) -> None:
    """Keep the consoles of trials that crashed, as far as they are there."""
    for directory in list(directories)[:MOST_CONSOLES]:
        path = Path(directory) / "console.log"
        try:
            data, when = path.read_bytes(), path.stat().st_mtime
        except OSError:
            continue
        if crashes := read_crashes(data, str(path)) if len(data) <= LARGEST_LOG else []:
            store.add_log(str(path), data, crashes, when=when)


def keep_finding(
    place: str, kind: FindingKind, source: str, summary: str, data: dict[str, Any], *,
    title: str | None = None, content: bytes | None = None, bug: int | None = None,
) -> int:  # fmt: skip
    """Keep something else that was found, with ``bug`` or the bug of ``title`` if the store has it."""
    with store_at(place) as store:
        return _keep(store, kind, source, summary, data, bug or bug_of(store, title), content)


def _add(
    store: Store, kind: FindingKind, source: str, summary: str, data: dict[str, Any], bug: int | None,
    document: dict[str, Any],
) -> int:  # fmt: skip
    return _keep(store, kind, source, summary, data, bug, _document(document))


def _keep(
    store: Store, kind: FindingKind, source: str, summary: str, data: dict[str, Any], bug: int | None,
    content: bytes | None,
) -> int:  # fmt: skip
    key = f"{source} {hashlib.sha256(content or json.dumps(data, sort_keys=True).encode()).hexdigest()}"
    return store.add_finding(kind, key, summary, data, bug=bug, content=content)


def _document(data: dict[str, Any]) -> bytes:
    # Bytes of a diff or a dump that are no UTF-8 stand in it as halves of surrogate pairs: no JSON has those.
    return json.dumps(data, default=str, ensure_ascii=False).encode(errors="replace")


def keep_trials(
    place: str, spec: Path, folder: Path, rate: Rate, *,
    revision: str | None = None, kernel: str | None = None, bug: int | None = None,
) -> int:  # fmt: skip
    """Keep how often a reproducer crashed and what it is, with what the runs had on their consoles.

    It belongs to ``bug``, or to the bug of the hunted title that came most often.
    """
    runs = list(_runs(rate.directories))
    hunted = Counter(run["title"] for run in runs if run["outcome"] == OutcomeKind.CRASHED and run["title"])
    crashed = rate.outcomes.get(str(OutcomeKind.CRASHED), 0)
    data = {
        "spec": str(spec), "folder": str(folder.resolve()), "revision": revision, "kernel": kernel,
        "runs": rate.runs, "outcomes": rate.outcomes, "rate": rate.rate, "interval": list(rate.interval),
        "titles": rate.titles,
    }  # fmt: skip
    document = {
        **data, **_reproducer(spec), "trials": runs, "seconds": rate.seconds, "per_minute": rate.per_minute,
        "run_seconds": rate.run_seconds, "crash_seconds": rate.crash_seconds,
    }  # fmt: skip
    with store_at(place) as store:
        _keep_consoles(store, [run["directory"] for run in runs if run["title"]])
        known = (bug_of(store, title) for title, _ in hunted.most_common())
        bug = bug if bug is not None else next((one for one in known if one is not None), None)
        text = f"{crashed} of {rate.runs} runs crashed"
        return _add(store, FindingKind.TRIALS, str(spec), text, data, bug, document)


def _runs(directories: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield what each trial came to, in the order of their names."""
    for directory in sorted(directories):
        try:
            outcome = json.loads((Path(directory) / "outcome.json").read_bytes())
        except (OSError, ValueError):
            continue
        yield {
            "directory": directory,
            "outcome": outcome.get("kind"),
            "title": outcome.get("title"),
            "seconds": (outcome.get("seconds") or {}).get("run"),
        }


def _reproducer(path: Path) -> dict[str, Any]:
    """Return a reproducer's commands and the texts of its files."""
    from ktriage.trial.spec import load_spec

    spec = load_spec(path)
    named = [*spec.guest.compile, *spec.guest.files.values()]
    files = {name: text for name in named if (text := _text(spec.path(name))) is not None}
    hunted = {name: value for name, value in spec.hunted.model_dump(mode="json").items() if value}
    return {
        "commands": list(spec.run.commands),
        "hunted": hunted,
        "specification": _text(path) or "",
        "files": files,
    }


def _text(path: Path) -> str | None:
    """Return a text file's beginning, None where it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT)
    except OSError:
        return None
    return None if b"\0" in data else data.decode("utf-8", errors="replace")


def keep_minimized(
    place: str, spec: Path, found: Minimized, title: str | None, bug: int | None = None
) -> int:
    """Keep a reproducer that was made shorter, with its rate, at ``bug`` or the bug of ``title``."""
    path = Path(found.minimized)
    data = {
        "name": path.name, "source": str(path.resolve()), "spec": str(spec), "lines": list(found.lines),
        "rate": found.minimized_rate, "interval": list(found.minimized_interval),
        "original_rate": found.rate, "original_interval": list(found.interval), "complete": found.complete,
    }  # fmt: skip
    text = f"{path.name}: {found.lines[1]} lines of {found.lines[0]}"
    content = (_text(path) or "").encode()
    return keep_finding(
        place, FindingKind.REPRODUCER, str(path.resolve()), text, data, title=title, bug=bug, content=content
    )


def keep_ledger(
    place: str, source: str, reading: Reading, accounts: Sequence[Account], bug: int | None = None
) -> int:
    """Keep what a trace of references came to, the counts over time with it if they were read."""
    numbers = {(c.kind, c.name): number for number, c in enumerate(reading.ledger.names.objects)}
    documents = []
    for account in accounts[:MOST_OBJECTS]:
        series = reading.ledger.series.get(numbers[account.kind, account.object])
        points = _points(series) if series is not None else None
        documents.append({**_cut(account.to_json()), "series": points})
    wrong = [
        f"{one.object}: {entry.function} for {entry.holder}"
        for one in accounts
        for entry in (*one.unmatched_puts, *one.unmatched_gets)
    ]
    text = "; ".join(wrong[:3]) or "nothing is wrong"
    data = {"source": source, "objects": [one.object for one in accounts[:MOST_OBJECTS]]}
    with store_at(place) as store:
        document = {"source": source, "total": len(accounts), "accounts": documents}
        return _add(store, FindingKind.LEDGER, source, text, data, bug, document)


def _cut(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return JSON with its lists cut to ``MOST_ENTRIES``."""
    if isinstance(value, dict):
        return {name: _cut(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(part) for part in value[:MOST_ENTRIES]]
    return value


def _points(series: Series) -> list[list[int]]:
    """Return a count over time: of each stretch its end in ns, and the least, largest and last count."""
    columns = [part.tolist() for part in (series.times, series.least, series.most, series.last)]
    size = -(-len(columns[0]) // MOST_POINTS) or 1
    points = []
    for start in range(0, len(columns[0]), size):
        times, least, most, last = (column[start : start + size] for column in columns)
        points.append([times[-1], min(least), max(most), last[-1]])
    return points


def keep_dump(
    place: str, path: Path, crashes: Sequence[Crash], diagnosis: Diagnosis, fault: Fault | None, *,
    summary: Summary | None = None, audit: Audit | None = None, tree: Path | None = None,
    bug: int | None = None,
) -> int:  # fmt: skip
    """Keep what a dump shows, and the crashes in its log as crashes.

    It belongs to ``bug``, or to the bug of the first of these crashes.
    """
    roots = [crash for crash in crashes if crash.cause is None]
    if roots:
        log = "".join(crash.text for crash in roots).encode(errors="replace")
        keep_log(place, str(path), log, roots, tree)
    title = roots[0].title if roots else None
    text = diagnosis.findings[0].says if diagnosis.findings else title or "nothing is wrong"
    document = {"path": str(path.resolve()), **dump_document(diagnosis, fault, summary, audit)}
    with store_at(place) as store:
        data = {"vmcore": str(path.resolve())}
        bug = bug if bug is not None else bug_of(store, title)
        return _add(store, FindingKind.DUMP, str(path), text, data, bug, document)


def dump_document(
    diagnosis: Diagnosis, fault: Fault | None, summary: Summary | None, audit: Audit | None
) -> dict[str, Any]:
    """Return what is kept of a dump: what is wrong whole, of the rest how much there is."""
    waits, works = diagnosis.waits, diagnosis.works
    printed = list(audit.to_json()) if audit is not None else []
    told = [one for one in printed if one.get("verdict") not in ("exact", "none", "busy")]
    document = {
        "diagnosis": diagnosis.to_json(),
        "fault": fault.to_json() if fault else None,
        "summary": summary.to_json() if summary else None,
        "audited": audit is not None,
        "modules": [one for one in told if one["kind"] == "module-audit"],
        "module_count": sum(one["kind"] == "module-audit" for one in printed),
        "dangling": [one for one in told if one["kind"] == "dangling"],
        "objects": [one for one in told if one["kind"] == "object-audit"],
        "census": [one for one in told if one["kind"] == "object-census"],
        "roots": [root.to_json() for root in waits.roots],
        "waits": [wait.to_json() for wait in waits.waits],
        "held": [[name, str(holder), holder.dead] for name, holder in waits.held],
        "asleep": waits.asleep,
        "stalled": [pool.to_json() for pool in works.stalled],
        "callbacks": [callback.to_json() for callback in works.wrong],
        "callback_count": len(works.callbacks),
        "teardowns": [teardown.to_json() for teardown in diagnosis.teardowns],
    }
    cut: dict[str, Any] = _cut(document)
    return cut


def keep_mail(
    place: str, text: str, recipients: list[dict[str, Any]], *,
    title: str | None = None, bug: int | None = None,
) -> int:  # fmt: skip
    """Keep a draft of a mail, with ``bug`` or the bug whose title it or its subject has."""
    from email import message_from_string, policy

    subject = str(message_from_string(text, policy=policy.default)["Subject"] or "")
    title = title or subject.partition("] ")[2] or subject
    data = {"recipients": recipients}
    return keep_finding(
        place, FindingKind.MAIL, subject, subject, data,
        title=title, bug=bug, content=text.encode(errors="replace"),
    )  # fmt: skip


def bug_of(store: Store, title: str | None) -> int | None:
    """Return the bug that a title belongs to, or None."""
    return store.bug_of_title(title) if title else None


def _title(log: Log) -> str | None:
    """Return the title that a bisection's crashes had most often; before the first, the one it hunts."""
    seen = Counter(run.title for run in log.runs if run.title and run.outcome == OutcomeKind.CRASHED)
    if seen:
        return seen.most_common(1)[0][0]
    path = Path(str(log.start.call.get("spec") or ""))
    try:
        hunted: list[str] = tomllib.loads(path.read_text(encoding="utf-8"))["hunted"]["titles"]
        return str(hunted[0])
    except (OSError, ValueError, LookupError, TypeError):
        return None
