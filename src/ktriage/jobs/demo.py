"""The main job on examples that come along: a real kernel dies, and the commit that did it is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ktriage
from ktriage.bisect.log import read_log
from ktriage.bisect.types import Answer, Observer, Options
from ktriage.cache import digest
from ktriage.errors import MachineryError, UserError
from ktriage.jobs.bisect_vms import bisect_in_vms, reopen
from ktriage.jobs.conclude import Conclusion, conclude

MARK = "ktriage-demo"
"""A file that says that a folder is a demo's, to be made anew."""
HISTORY, REPO = "history.json", "repo"
"""What was made of an example, and where: kept for the next time, for a kernel's tree takes a minute."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Example:
    """A folder below examples/ with a history to make and a specification; ``what`` says what it is about.

    ``arguments`` are those of its make_history.py.
    """

    name: str
    what: str
    spec: str = "ktriage.toml"
    arguments: tuple[str, ...] = ()


EXAMPLES = {
    "module": Example("ulp-refcount", "a kernel module with a lost reference in it"),
    "kernel": Example("kernel-tree", "a kernel with a lost reference in it"),
    "kernel-uaf": Example(
        "kernel-tree", "a kernel with a use after free in it", "ktriage-uaf.toml", ("--bug", "uaf")
    ),
}
EXAMPLE = EXAMPLES["module"].name


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo found; ``right`` says whether it is the commit that was planted."""

    answer: Answer
    conclusion: Conclusion
    right: bool


def example_folder(name: str = EXAMPLE) -> Path:
    """Return the folder of an example: in the package where installed, else in the source tree."""
    package = Path(ktriage.__file__).parent
    for folder in (package / "examples" / name, package.parents[1] / "examples" / name):
        if folder.is_dir():
            return folder
    raise UserError(f"the example {name} is not installed", hint="run the demo from a checkout")


def make_repository(example: Path, target: Path, arguments: tuple[str, ...] = ()) -> dict[str, str]:
    """Make the example's git repository in ``target``; return its ``good``, ``bad`` and ``culprit``."""
    done = subprocess.run(
        [sys.executable, str(example / "make_history.py"), str(target), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MachineryError(f"the example's history was not made: {done.stderr.strip().splitlines()[-1]}")
    history: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return history


def _history(directory: Path, folder: Path, example: Example, progress: Progress) -> dict[str, str]:
    """Return the ends of an example's history, made where it is not there from last time.

    Whatever else an earlier demo left in ``directory`` goes; raises UserError for what no demo left.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    stamp = digest(*example.arguments, *files)
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARK).exists():
            raise UserError(f"{directory} holds something that no demo made", hint="name another with --out")
        kept = _kept(directory, stamp)
        for path in directory.iterdir():
            if path.is_dir() and not (kept and path.name == REPO):
                shutil.rmtree(path)
            elif path.is_file() and path.name != MARK:
                path.unlink()
        if kept:
            (directory / HISTORY).write_text(json.dumps({"stamp": stamp, "history": kept}))
            return kept
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).touch()
    progress(f"making the history of {example.what}")
    history = make_repository(folder, directory / REPO, example.arguments)
    (directory / HISTORY).write_text(json.dumps({"stamp": stamp, "history": history}))
    return history


def _kept(directory: Path, stamp: str) -> dict[str, str] | None:
    """Return the history that an earlier demo made, if it is the one that is asked for."""
    try:
        kept = json.loads((directory / HISTORY).read_text())
    except (OSError, ValueError):
        return None
    history: dict[str, str] = kept.get("history", {})
    return history if kept.get("stamp") == stamp and (directory / REPO).is_dir() else None


def run_demo(
    directory: Path,
    *,
    options: Options,
    example: Example = EXAMPLES["module"],
    debuginfo: bool = False,
    observer: Observer | None = None,
    progress: Progress = lambda _: None,
) -> Demo:
    """Make an example's history, bisect it in VMs, and conclude; everything is kept in ``directory``.

    A folder that an earlier demo made is made anew; raises UserError for one that holds something else.
    """
    directory = directory.resolve()
    folder = example_folder(example.name)
    history = _history(directory, folder, example, progress)
    answer, lab = bisect_in_vms(
        folder / example.spec,
        repo=directory / REPO,
        good=history["good"],
        bad=history["bad"],
        directory=directory,
        options=options,
        observer=observer,
        progress=progress,
    )
    log = read_log(directory / "bisection.jsonl")
    if debuginfo:
        lab = reopen(log, debuginfo=True, progress=progress)
    conclusion = conclude(lab, log, directory, progress=progress)
    return Demo(answer, conclusion, answer.culprit == history["culprit"])
