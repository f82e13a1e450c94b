"""The runner for any command: it runs in a worktree of the revision, and its exit code is the outcome.

The meaning of exit codes is that of ``git bisect run`` (git-bisect(1), "Bisect run"): 0 is good, 125 cannot
be tested, 1 to 124, 126 and 127 are bad, and from 128 on, or by a signal, the command has failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ktriage.bisect.types import RunResult
from ktriage.bisect.watchdog import Watchdog, kill_marked
from ktriage.errors import UserError
from ktriage.history.git import clean_environment
from ktriage.history.worktrees import Worktrees
from ktriage.words import OutcomeKind

if TYPE_CHECKING:
    from contextlib import ExitStack
    from typing import Any

    from ktriage.history.repository import Repository

CANNOT_TEST = 125
_SIGNAL = 128


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a time-out and a signal say of the revision."""

    timeout: float | None = None
    timeout_is: Literal["bad", "infra"] = "infra"
    signal_is: Literal["stop", "bad", "infra"] = "stop"


@dataclass(slots=True)
class CommandRunner:
    """Runs ``command`` at revisions, on threads.

    Without a ``build`` command, each job has one worktree that goes from revision to revision, and files
    that git does not know stay, as with git bisect run. With one, each revision has a worktree of its own,
    built once; when jobs run the same revision at once, they work in copies of it. ``output`` is the folder
    that gets a folder for each run.
    """

    command: tuple[str, ...]
    worktrees: Worktrees
    watchdog: Watchdog
    output: Path
    build: str | None = None
    meaning: Meaning = field(default_factory=Meaning)
    jobs: int = 1
    _lock: threading.Condition = field(init=False, default_factory=threading.Condition)
    _idle: dict[Path, tuple[str, tuple[str, ...]]] = field(init=False, default_factory=dict)
    _built: dict[tuple[str, tuple[str, ...]], _Build] = field(init=False, default_factory=dict)
    _running: set[int] = field(init=False, default_factory=set)
    _era: int = field(init=False, default=0)
    _count: int = field(init=False, default=0)

    def __call__(self, commit: str, patches: tuple[str, ...], attempt: str) -> RunResult:
        """Run the command once."""
        where = self.output / attempt
        where.mkdir(parents=True, exist_ok=True)
        era = self._era
        extra = {"KTRIAGE_REVISION": commit, "KTRIAGE_ATTEMPT": attempt}
        key = (commit, patches)
        seconds = 0.0
        if self.build is not None:
            build = self._build(key, where, extra, era)
            if not build.works:
                kind = OutcomeKind.INFRA if build.killed else OutcomeKind.BUILD_FAILED
                return RunResult(kind, 0.0, build.take(), note=build.note, where=str(where))
            seconds = build.take()
        try:
            path = self._worktree(key)
        except UserError as error:
            return RunResult(OutcomeKind.BUILD_FAILED, note=error.message, where=str(where))
        try:
            began = time.monotonic()
            code = self._run(self.command, path, where / "output", extra, era, self.meaning.timeout)
            took = time.monotonic() - began
        finally:
            with self._lock:
                self._idle[path] = key
        if era != self._era:
            return RunResult(OutcomeKind.INFRA, took, seconds, note="cancelled", where=str(where))
        outcome, note = self._outcome(code)
        return RunResult(outcome, took, seconds, note=note, where=str(where))

    def cancel(self) -> None:
        """Kill what is running, and what has been called but not started; later calls are not touched."""
        with self._lock:
            self._era += 1
            for pid in self._running:
                _kill(pid)

    def _outcome(self, code: int | None) -> tuple[OutcomeKind, str]:
        """Return what an exit code means; None is a time-out, negative codes are signals."""
        if code is None:
            bad = self.meaning.timeout_is == "bad"
            return (
                OutcomeKind.CRASHED if bad else OutcomeKind.INFRA,
                f"no end after {self.meaning.timeout:g} s",
            )
        if code == 0:
            return OutcomeKind.OK, "exit code 0"
        if code == CANNOT_TEST:
            return OutcomeKind.BUILD_FAILED, "exit code 125"
        if 0 < code < _SIGNAL:
            return OutcomeKind.CRASHED, f"exit code {code}"
        note = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        match self.meaning.signal_is:
            case "bad":
                return OutcomeKind.CRASHED, note
            case "infra":
                return OutcomeKind.INFRA, note
            case _:
                raise UserError(
                    f"{self.command[0]}: {note}, which stops a bisection",
                    hint="--signal-is bad or infra says what it means otherwise",
                    code=code,
                )

    def _run(
        self,
        argv: tuple[str, ...],
        path: Path,
        output: Path,
        extra: dict[str, str],
        era: int,
        timeout: float | None = None,
    ) -> int | None:
        """Run a command and return its exit code, None if it had to be killed after ``timeout``."""
        env = clean_environment() | self.watchdog.environment | extra
        with output.open("wb") as file, self._lock:
            if era != self._era:
                return -signal.SIGKILL
            try:
                process = subprocess.Popen(
                    argv,
                    cwd=path,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except (FileNotFoundError, PermissionError) as error:
                file.write(f"{argv[0]}: {error.strerror}\n".encode())
                return 127 if isinstance(error, FileNotFoundError) else 126
            self._running.add(process.pid)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(process.pid)
            # What it started in groups of its own, too.
            kill_marked(self.watchdog.session, f"KTRIAGE_ATTEMPT={extra['KTRIAGE_ATTEMPT']}")
            return None
        finally:
            _kill(process.pid)
            process.wait()
            with self._lock:
                self._running.discard(process.pid)

    def _worktree(self, key: tuple[str, tuple[str, ...]]) -> Path:
        """Return a worktree that no other run uses, at the revision."""
        with self._lock:
            path = next((path for path, at in self._idle.items() if at == key), None)
            if path is None and self.build is None:
                path = next(iter(self._idle), None)
            at = self._idle.pop(path) if path is not None else None
        if path is not None:
            if at != key:
                self._switch(path, key)
            return path
        if self.build is not None and (self.jobs > 1 or key in self._built):
            pristine = self._built[key].path
            if self.jobs == 1:
                return pristine
            return self.worktrees.copy(pristine, self._name(key))
        return self._add(key)

    def _switch(self, path: Path, key: tuple[str, tuple[str, ...]]) -> None:
        """Take off what was put on top of the revision that is there, and go to another one."""
        try:
            self.worktrees.switch(path, key[0])
            self._patch(path, key)
        except BaseException:
            # Whatever state it is in, a switch to another revision mends it.
            with self._lock:
                self._idle[path] = ("", ())
            raise

    def _add(self, key: tuple[str, tuple[str, ...]]) -> Path:
        path = self.worktrees.add(self._name(key), key[0])
        try:
            self._patch(path, key)
        except UserError:
            self.worktrees.remove(path)
            raise
        return path

    def _patch(self, path: Path, key: tuple[str, tuple[str, ...]]) -> None:
        for patch in key[1]:
            self.worktrees.apply(path, patch)

    def _name(self, key: tuple[str, tuple[str, ...]]) -> str:
        with self._lock:
            self._count += 1
            return f"{self._count:03d}-{key[0][:12]}"

    def _build(
        self, key: tuple[str, tuple[str, ...]], where: Path, extra: dict[str, str], era: int
    ) -> _Build:
        """Build a revision unless that was done; one that is being built now is waited for."""
        assert self.build is not None
        with self._lock:
            build = self._built.get(key)
            mine = build is None
            if build is None:
                build = self._built[key] = _Build()
            while not mine and not build.done:
                self._lock.wait()
        if not mine:
            return build
        try:
            try:
                build.path = self._add(key)
            except UserError as error:
                build.note = error.message
                return build
            began = time.monotonic()
            code = self._run(("/bin/sh", "-c", self.build), build.path, where / "build", extra, era)
            build.seconds = max(time.monotonic() - began, 1e-6)
            build.works = code == 0
            build.note = f"the build ended with {code}"
            build.killed = code is None or code < 0
        finally:
            with self._lock:
                build.done = True
                if build.killed:
                    # That says nothing of the revision: it is built again.
                    self._built.pop(key, None)
                self._lock.notify_all()
        return build


def open_runner(
    stack: ExitStack, repository: Repository, call: dict[str, Any], output: Path, jobs: int
) -> CommandRunner:
    """Return the runner of a bisection's command; ``stack`` closes what it needs. ``call`` is the log's."""
    worktrees = stack.enter_context(Worktrees(repository))
    clean = (sys.executable, "-m", "ktriage.history.worktrees", str(repository.path))
    return CommandRunner(
        command=tuple(call["command"]),
        worktrees=worktrees,
        watchdog=stack.enter_context(Watchdog(clean)),
        output=output,
        build=call["build"],
        meaning=Meaning(call["timeout"], call["timeout_is"], call["signal_is"]),
        jobs=jobs,
    )


@dataclass(slots=True)
class _Build:
    """A revision's build: one thread makes it, others wait until it is ``done``."""

    path: Path = field(default_factory=Path)
    done: bool = False
    works: bool = False
    killed: bool = False
    seconds: float = 0.0
    note: str = "the build did not come to an end"

    def take(self) -> float:
        """Return the build's time to the run that it is charged to, and 0 to all others."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def _kill(group: int) -> None:
    """Kill a process group, if it is still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
