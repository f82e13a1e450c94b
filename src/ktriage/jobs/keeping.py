"""What each command finds, put into the case store on request (``--case``)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktriage.case.store import open_store
from ktriage.case.store.types import FindingKind
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ktriage.bisect.types import Log
    from ktriage.case.store import Store
    from ktriage.console import Crash

DEFAULT = "default"
"""What ``--case`` stands for where no place is named with it: the store in the XDG data folder."""
LARGEST_LOG = 64 << 20


@contextmanager
def store_at(place: str) -> Iterator[Store]:
    """Open the store that ``--case`` names while the block lasts; raises UserError as ``open_store``."""
    store = open_store(None if place == DEFAULT else place)
    try:
        yield store
    finally:
        store.close()


def keep_log(place: str, source: str, data: bytes, crashes: Sequence[Crash]) -> None:
    """Keep a console log and its crashes."""
    with store_at(place) as store:
        store.add_log(source, data, crashes)


def keep_bisection(place: str, path: Path) -> int:
    """Keep the bisection of the log at ``path`` as it stands, and return the finding's number.

    It belongs to the bug of the title that its crashes had most often, if the store has it.
    """
    from ktriage.bisect.log import read_log

    log = read_log(path)
    path = path.resolve()
    answer = log.end
    title = _title(log)
    data: dict[str, Any] = {"log": str(path), "repo": log.start.repo, "title": title, "runs": len(log.runs)}
    summary = f"bisection of {Path(log.start.repo).name}: {log.start.candidates} commits"
    if answer is not None:
        data |= {
            "verdict": answer.verdict, "culprit": answer.culprit, "subject": answer.subject,
            "probability": answer.probability, "builds": answer.builds,
        }  # fmt: skip
        if answer.culprit:
            summary = f"{answer.culprit[:12]} {answer.subject or ''} ({answer.probability:.2%})"
        else:
            summary = f"{summary}, {answer.verdict}"
    content = path.read_bytes() if answer is not None and path.stat().st_size <= LARGEST_LOG else None
    with store_at(place) as store:
        return store.add_finding(
            FindingKind.BISECTION, str(path), summary, data, bug=bug_of(store, title), content=content
        )


def keep_finding(
    place: str, kind: FindingKind, source: str, summary: str, data: dict[str, Any], *,
    title: str | None = None, content: bytes | None = None,
) -> int:  # fmt: skip
    """Keep something else that was found, with the bug of ``title`` if the store has it."""
    with store_at(place) as store:
        bug = bug_of(store, title)
        key = f"{source} {hashlib.sha256(content or json.dumps(data, sort_keys=True).encode()).hexdigest()}"
        return store.add_finding(kind, key, summary, data, bug=bug, content=content)


def keep_trials(place: str, spec: Path, folder: Path, rate: dict[str, Any]) -> int:
    """Keep how often a reproducer crashed, with the bug of the title that came most often."""
    titles = rate.get("titles") or {}
    title = max(titles, key=lambda name: titles[name]) if titles else None
    text = f"{rate.get('outcomes', {}).get('crashed', 0)} of {rate.get('runs', 0)} runs crashed"
    data = {"spec": str(spec), "folder": str(folder.resolve()), **rate}
    return keep_finding(place, FindingKind.TRIALS, str(spec), text, data, title=title)


def keep_ledger(place: str, source: str, accounts: list[dict[str, Any]]) -> int:
    """Keep what a trace of references came to."""
    wrong = [
        f"{one['object']}: {entry['function']} for {entry['holder']}"
        for one in accounts
        for entry in (*one["unmatched_puts"], *one["unmatched_gets"])
    ]
    text = "; ".join(wrong[:3]) or "nothing is wrong"
    content = json.dumps(accounts).encode()
    objects = [one["object"] for one in accounts]
    return keep_finding(place, FindingKind.LEDGER, source, text, {"objects": objects}, content=content)


def keep_dump(
    place: str, path: Path, crashes: Sequence[Crash], diagnosis: dict[str, Any], fault: dict[str, Any] | None
) -> int:
    """Keep what a dump shows, and the crashes in its log as crashes."""
    text = json.dumps({"diagnosis": diagnosis, "fault": fault}, default=str).encode()
    roots = [crash for crash in crashes if crash.cause is None]
    if roots:
        log = "".join(crash.text for crash in roots).encode(errors="replace")
        keep_log(place, str(path), log, roots)
    title = roots[0].title if roots else None
    findings = diagnosis.get("findings") or []
    summary = str(findings[0]["says"]) if findings else title or "nothing is wrong"
    data = {"vmcore": str(path.resolve())}
    return keep_finding(place, FindingKind.DUMP, str(path), summary, data, title=title, content=text)


def keep_mail(place: str, text: str, recipients: list[dict[str, Any]]) -> int:
    """Keep a draft of a mail, with the bug whose title is in its subject."""
    from email import message_from_string, policy

    subject = str(message_from_string(text, policy=policy.default)["Subject"] or "")
    title = subject.partition("] ")[2] or subject
    data = {"recipients": recipients}
    return keep_finding(
        place, FindingKind.MAIL, subject, subject, data, title=title, content=text.encode(errors="replace")
    )


def bug_of(store: Store, title: str | None) -> int | None:
    """Return the bug that a title belongs to, or None."""
    return store.bug_of_title(title) if title else None


def _title(log: Log) -> str | None:
    seen = Counter(run.title for run in log.runs if run.title and run.outcome is OutcomeKind.CRASHED)
    return seen.most_common(1)[0][0] if seen else None
