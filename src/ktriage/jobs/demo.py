"""The main job on the example that comes along: a real kernel dies, and the commit that did it is found."""

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
from ktriage.errors import MachineryError, UserError
from ktriage.jobs.bisect_vms import bisect_in_vms, reopen
from ktriage.jobs.conclude import Conclusion, conclude

EXAMPLE = "ulp-refcount"
MARK = "ktriage-demo"
"""A file that says that a folder is a demo's, to be made anew."""

Progress = Callable[[str], None]


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


def make_repository(example: Path, target: Path) -> dict[str, str]:
    """Make the example's git repository in ``target``; return its ``good``, ``bad`` and ``culprit``."""
    done = subprocess.run(
        [sys.executable, str(example / "make_history.py"), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MachineryError(f"the example's history was not made: {done.stderr.strip().splitlines()[-1]}")
    history: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return history


def run_demo(
    directory: Path,
    *,
    options: Options,
    debuginfo: bool = False,
    observer: Observer | None = None,
    progress: Progress = lambda _: None,
) -> Demo:
    """Make the example's history, bisect it in VMs, and conclude; everything is kept in ``directory``.

    A folder that an earlier demo made is made anew; raises UserError for one that holds something else.
    """
    directory = directory.resolve()
    if directory.exists() and any(directory.iterdir()):
        if not (directory / MARK).exists():
            raise UserError(f"{directory} holds something that no demo made", hint="name another with --out")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).touch()
    example = example_folder()
    progress("making the history of a kernel module with a lost reference in it")
    history = make_repository(example, directory / "repo")
    answer, lab = bisect_in_vms(
        example / "ktriage.toml",
        repo=directory / "repo",
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
