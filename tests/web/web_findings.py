"""A bug with findings of each kind, kept as the commands keep them."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

from ktriage.case.store import Store
from ktriage.case.store.types import FindingKind
from ktriage.cli import main
from ktriage.console import read_crashes
from ktriage.jobs.keeping import keep_bisection, keep_log, keep_mail, keep_trials
from ktriage.jobs.repro import summarize
from ktriage.trial import Outcome
from ktriage.words import OutcomeKind

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXAMPLE = Path(__file__).parents[2] / "examples" / "ulp-refcount"
CONSOLE = FIXTURES / "demo" / "module-put.log"
KERNEL = b"[    0.000000] Linux version 6.1.0-56-cloud-amd64 (a@b) #1\n"
TITLE = "WARNING in module_put"
MAIL = """From: Me <me@example.org>
To: Tomas <tomas@example.com>
Subject: [bisected] WARNING in module_put

Hello,

this was bisected.
"""
SOURCE = """void module_put(struct module *module)
{
\tif (module)
\t\tWARN_ON(atomic_dec_if_positive(&module->refcnt) < 0);
}
"""


def history(repo: Path, commits: int, bad: int) -> None:
    """Make a repository whose commit number ``bad`` breaks it."""
    git = ["git", "-C", str(repo), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    for number in range(commits):
        (repo / "state").write_text(f"{number} {'bad' if number >= bad else 'good'}\n")
        subprocess.run([*git, "add", "state"], check=True)
        subprocess.run([*git, "commit", "-qm", f"change {number}"], check=True)


def trials(folder: Path) -> tuple[Outcome, ...]:
    """Return what some trials came to, as they left it in their folders."""
    found = []
    kinds = (OutcomeKind.CRASHED, OutcomeKind.OK, OutcomeKind.CRASHED, OutcomeKind.INFRA)
    for number, kind in enumerate(kinds):
        place = folder / f"run-{number:04}"
        place.mkdir(parents=True)
        crashed = kind is OutcomeKind.CRASHED
        log = KERNEL + CONSOLE.read_bytes() + b"%d\n" % number
        (place / "console.log").write_bytes(log if crashed else b"")
        outcome = Outcome(
            kind, title=TITLE if crashed else None, hunted=crashed, directory=str(place), seconds={"run": 1.5}
        )
        outcome.save(place)
        found.append(outcome)
    return tuple(found)


def place_of(store: Store) -> str:
    """Return what ``--case`` would be given for a store."""
    return str(store.engine.url.database)


def fill_findings(store: Store, folder: Path) -> int:
    """Keep a bug with findings of each kind, and return its number; what they are of goes into ``folder``."""
    for path in ("ktriage.toml", "repro"):
        copy = shutil.copytree if (EXAMPLE / path).is_dir() else shutil.copy
        copy(EXAMPLE / path, folder / path)
    shutil.copy(FIXTURES / "refs" / "ulp-underflow.txt.zst", folder)
    with chdir(folder):
        return _fill(store, place_of(store))


def _fill(store: Store, place: str) -> int:
    rate = summarize(list(trials(Path("trials"))), 12.0)
    keep_trials(
        place, Path("ktriage.toml"), Path("trials"), rate,
        revision="0123456789abcdef", kernel="6.1.0-56-cloud-amd64",
    )  # fmt: skip
    bug = store.bug_of_title(TITLE)
    assert bug is not None
    tree = Path("tree/kernel/module")
    tree.mkdir(parents=True)
    (tree / "main.c").write_text("\n" * 853 + SOURCE)
    (log,) = store.crashes(bug, limit=1)
    data = (store.blob(log.log or "") or b"") + b"symbolized\n"
    keep_log(place, "console.log", data, _symbolized(data), Path("tree"))
    trace = "ulp-underflow.txt.zst"
    assert main(["refs", "read", "--case", place, "--bug", str(bug), trace]) == 0
    for name in ("dump-resetnic", "dump-standstill", "dump-ulp"):
        content = (FIXTURES / "web" / f"{name}.json").read_bytes()
        store.add_finding(FindingKind.DUMP, name, name, {"vmcore": "vmcore"}, bug=bug, content=content)
    history(Path("repo"), 8, 5)
    command = ["bisect", "run", "--repo", "repo", "--good", "HEAD~7", "--bad", "HEAD", "--log", "b.jsonl",
               "--", "grep", "-q", "good", "state"]  # fmt: skip
    assert main(command) == 0
    keep_bisection(place, Path("b.jsonl"), bug)
    keep_mail(place, MAIL, [{"field": "to", "name": "Tomas", "address": "tomas@example.com",
                             "reasons": ["wrote the commit"]}])  # fmt: skip
    return bug


def _symbolized(data: bytes) -> list[Any]:
    """Return the crashes of a log with the place of the first frame filled in."""
    return [
        replace(
            crash,
            stack=tuple(
                replace(frame, file="kernel/module/main.c", line=857)
                if frame.function == "module_put"
                else frame
                for frame in crash.stack
            ),
        )
        for crash in read_crashes(data)
    ]


def poisoned(store: Store, bug: int, text: str) -> None:
    """Put ``text`` into every string of every finding of a bug, but for the words that a form knows."""
    known = {str(kind) for kind in OutcomeKind}
    for finding in store.findings(bug):
        data = store.blob(finding.blob or "") or b""
        content = f"{text} {data.decode()}".encode()
        if finding.kind is FindingKind.BISECTION:
            document = json.loads(data)
            document["change"] = _poison(document["change"], text, known | {document["change"]["hash"]})
            content = json.dumps(document).encode()
        elif finding.kind not in (FindingKind.MAIL, FindingKind.REPRODUCER):
            keep = known if finding.kind is not FindingKind.SOURCE else {"kernel/module/main.c"}
            content = json.dumps(_poison(json.loads(data), text, keep)).encode()
        store.add_finding(
            finding.kind, f"poisoned {finding.id}", f"{text} {finding.summary}",
            _poison(finding.data, text, known), bug=bug, content=content,
        )  # fmt: skip


def _poison(value: Any, text: str, keep: set[str], name: str = "") -> Any:
    if isinstance(value, str):
        return value if value in keep or name == "kernel" else f"{text}{value}"
    if isinstance(value, dict):
        return {(key if key.isidentifier() else text + key) if key not in keep else key:
                _poison(part, text, keep, key) for key, part in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [_poison(part, text, keep) for part in value]
    return value
