"""Bisection logs in the forms of their tools, written for these tests, and where real ones lie."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from numpy.random import Generator

REAL = Path(os.environ.get("KTRIAGE_SEEDS", Path(__file__).parents[3] / "shared" / "seeds"))


def real_log(prefix: str) -> Path:
    """Return the path of a real log, or skip the test where it is not on this machine."""
    found = sorted(REAL.glob(f"{prefix}*.txt"))
    if not found:
        pytest.skip(f"no real bisection log {prefix}* in {REAL} (KTRIAGE_SEEDS names another place)")
    return found[0]


def commit(letter: str) -> str:
    """Return a hash made of one digit."""
    return letter * 40


def lines_of(letter: str, *lines: str, sign: str | None = None, how: str = "gcc") -> str:
    """Return the lines of a test as syzkaller prints them."""
    head = [f"testing commit {commit(letter)} {how}", "compiler: gcc (Debian 12.2.0-14) 12.2.0"]
    return "\n".join([*head, f"kernel signature: {sign or letter * 64}", *lines]) + "\n"


def runs(*results: str) -> str:
    """Return a line a run."""
    return "\n".join(f"run #{i}: {result}" for i, result in enumerate(results))


def asked(left: int, letter: str, title: str) -> str:
    """Return what git prints before a revision is tested."""
    steps = f"(roughly {max(0, left).bit_length()} steps)"
    plural = "" if left == 1 else "s"
    return (
        f"Bisecting: {left} revision{plural} left to test after this {steps}\n[{commit(letter)}] {title}\n\n"
    )


HUNG = "crashed: INFO: task hung in foo_wait"
LOCKS = "crashed: BUG: too many lock keys!"

# The form of 2023 and later. The bug is younger than v9.2; an unrelated crash fires before it.
WRONG = (
    "ci-host starts bisection 2025-07-09 13:22:22.5 +0000 UTC m=+182.3\n"
    f"bisecting cause commit starting from {commit('a')}\n"
    f"building syzkaller on {commit('9')}\n"
    f"ensuring issue is reproducible on original commit {commit('a')}\n\n"
    + lines_of("a", runs(*[HUNG] * 9, "crashed: INFO: task hung in bar_wait", *[HUNG] * 9), sign="0a")
    + "representative crash: INFO: task hung in foo_wait, types: [HANG]\n"
    "check whether we can drop unnecessary instrumentation\n"
    "disabling configs for [KASAN UBSAN], they are not needed\n"
    + lines_of("a", f"all runs: {HUNG}", sign="0b")
    + "the bug reproduces without the instrumentation\n"
    "kconfig minimization: base=4063 full=8176 leaves diff=2136\n"
    "split chunks (needed=false): <2136>\n"
    "split chunk #0 of len 2136 into 5 parts\n"
    "testing without sub-chunk 1/5\n"
    + lines_of("a", "all runs: OK", "false negative chance: 0.000", sign="0c")
    + "minimized to 427 configs; suspects: [FOO BAR]\n"
    "picked [v9.2 v9.1] out of 30 release tags\n"
    "testing release v9.2\n"
    + lines_of("b", runs(LOCKS, "OK", LOCKS, *["OK"] * 7))
    + "representative crash: BUG: too many lock keys!, types: [UNKNOWN]\n"
    "testing release v9.1\n"
    + lines_of("c", "all runs: OK", "false negative chance: 0.001")
    + f"# git bisect start {commit('b')} {commit('c')}\n"
    + asked(4, "d", "Merge tag 'x-1' of git://example.org/x")
    + lines_of(
        "d", runs("ignore: lost connection to test machine", *["OK"] * 9), "false negative chance: 0.001"
    )
    + f"# git bisect good {commit('d')}\n"
    + asked(2, "e", "y: print later")
    + lines_of("e", runs("OK", "OK", *[LOCKS] * 7, "OK"))
    + f"# git bisect bad {commit('e')}\n"
    + asked(0, "f", "y: do not check twice")
    + lines_of("f", "all runs: OK", "false negative chance: 0.001")
    + f"# git bisect good {commit('f')}\n"
    f"{commit('e')} is the first bad commit\n"
    f"commit {commit('e')}\n"
    "Author: Jörg Ö. <jo@example.org>\n"
    "Date:   Mon Dec 9 12:23:46 2024 +0106\n\n"
    "    y: print later\n\n"
    "    A message may quote such a log:\n"
    "    run #7: crashed: BUG: quoted\n"
    f"    # git bisect bad {commit('d')}\n\n"
    " kernel/y/internal.h | 6 ++++++\n"
    " 1 file changed, 6 insertions(+)\n\n"
    "accumulated error probability: 0.12\n"
    f"culprit signature: {'e' * 64}\n"
    f"parent  signature: {'f' * 64}\n"
    "reproducer is flaky (0.20 repro chance estimate)\n"
    "revisions tested: 8, total time: 4h22m12.5s (build: 1h29m11.25s, test: 500ms)\n"
    f"first bad commit: {commit('e')} y: print later\n"
    'recipients (to): ["jo@example.org" "pm@example.org"]\n'
    'recipients (cc): ["linux-kernel@vger.kernel.org"]\n'
    "crash: BUG: too many lock keys!\n"
    "BUG: too many lock keys!\n"
    "run #3: crashed: this is the console's, not the log's\n"
)

UAF = "crashed: KASAN: use-after-free Read in foo"

FIX = (
    f"bisecting fixing commit since {commit('a')}\n"
    f"building syzkaller on {commit('9')}\n"
    f"ensuring issue is reproducible on original commit {commit('a')}\n\n"
    + lines_of("a", f"all runs: {UAF}")
    + f"testing current HEAD {commit('b')}\n"
    + lines_of("b", "all runs: OK", "false negative chance: 0.000")
    + f"# git bisect start {commit('b')} {commit('a')}\n"
    + asked(7, "c", "one")
    + "determine whether the revision contains the guilty commit\n"
    f"revision {commit('a')} crashed and is reachable\n"
    + lines_of("c", runs(*[UAF] * 8, "OK", "OK"))
    + f"# git bisect good {commit('c')}\n"
    + asked(3, "d", "two")
    + "determine whether the revision contains the guilty commit\n"
    f"checking the merge base {commit('1')}\n"
    "no existing result, test the revision\n"
    + lines_of("1", "all runs: OK")
    + "the bug was not introduced yet; pretend that kernel crashed\n"
    f"# git bisect good {commit('d')}\n"
    + asked(1, "e", "foo: hold a reference while it is read")
    + lines_of("e", "all runs: OK")
    + f"# git bisect bad {commit('e')}\n"
    + asked(0, "f", "three")
    + lines_of("f", runs(*[UAF] * 10))
    + f"# git bisect good {commit('f')}\n"
    f"{commit('e')} is the first bad commit\n"
    "accumulated error probability: 0.00\n"
    "revisions tested: 7, total time: 2h0m0s (build: 1h0m0s, test: 1h0m0s)\n"
    f"first good commit: {commit('e')} foo: hold a reference while it is read\n"
    'recipients (to): ["a@example.org"]\n'
    "recipients (cc): []\n"
)

GIT = f"""# bad: [{commit("a")}] Linux 9.2
# good: [{commit("b")}] Linux 9.1
git bisect start 'v9.2' 'v9.1'
# good: [{commit("c")}] one
git bisect good {commit("c")}
# skip: [{commit("d")}] two
git bisect skip {commit("d")}
# bad: [{commit("e")}] three
git bisect bad {commit("e")}
# first bad commit: [{commit("e")}] three
"""


class Bisected:
    """A repository whose history is bisected by git, with a log of it in syzkaller's form."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.commits: list[str] = []
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "A Developer")
        self.git("config", "user.email", "dev@example.org")

    def git(self, *arguments: str) -> str:
        """Run git and return what it prints."""
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def grow(self, count: int, file: str = "file") -> None:
        """Make some commits."""
        for _ in range(count):
            number = len(self.commits)
            (self.path / file).write_text(f"{number}\n")
            self.git("add", "-A")
            self.git("commit", "-q", "-m", f"change {number}")
            self.commits.append(self.git("rev-parse", "HEAD"))

    def merge(self, count: int) -> None:
        """Make some commits on a branch beside the last one, and merge them."""
        main = self.git("rev-parse", "HEAD")
        self.git("checkout", "-q", "-b", f"side{len(self.commits)}", main)
        self.grow(count, "side")
        side = self.git("rev-parse", "HEAD")
        self.git("checkout", "-q", "main")
        self.grow(count, "file")
        self.git("merge", "-q", "--no-ff", "-m", f"merge {len(self.commits)}", side)
        self.commits.append(self.git("rev-parse", "HEAD"))

    def has(self, culprit: str, revision: str) -> bool:
        """Return whether a revision has the commit."""
        argv = ["git", "-C", str(self.path), "merge-base", "--is-ancestor", culprit, revision]
        return subprocess.run(argv, check=False).returncode == 0

    def log(self, culprit: str, results: list[str], clean: list[str], *, fix: bool = False) -> str:
        """Bisect and return the log: ``results`` are the runs with the bug, ``clean`` those without.

        ``culprit`` brings the bug, or with ``fix`` ends it.
        """
        new, old = self.commits[-1], self.commits[0]
        first, second = (old, new) if fix else (new, old)
        begin = "bisecting fixing commit since" if fix else "bisecting cause commit starting from"
        lines = [f"{begin} {first}", f"testing commit {first} with gcc (GCC) 8.1.0", runs(*results)]
        lines.append(f"testing current HEAD {new}" if fix else "testing release v0")
        lines += [f"testing commit {second} with gcc (GCC) 8.1.0", runs(*clean)]
        lines += [f"# git bisect start {new} {old}", self.git("bisect", "start", new, old)]
        for _ in range(50):
            now = self.git("rev-parse", "HEAD")
            has = self.has(culprit, now)
            lines += [f"testing commit {now} with gcc (GCC) 8.1.0", runs(*(results if has != fix else clean))]
            word = "bad" if has else "good"
            said = self.git("bisect", word)
            lines += [f"# git bisect {word} {now}", said]
            if "is the first bad commit" in said:
                break
        self.git("bisect", "reset")
        subject = self.git("log", "-1", "--format=%s", culprit)
        what = "good" if fix else "bad"
        lines += ["revisions tested: 1, total time: 1s", f"first {what} commit: {culprit} {subject}"]
        return "\n".join(lines) + "\n"


def name(v: int) -> str:
    """Return the hash of commit v of a made-up linear history."""
    return f"{v + 1:040x}"


def fixed_rule(rng: Generator, n: int, p: float, q: float, stray: float = 0.0) -> tuple[str, int, int] | None:
    """Bisect a linear history of n commits as syzbot did from 2019 to 2022: 10 runs, any crash is bad.

    The hunted crash comes with ``p`` from the culprit on and with ``q`` before; in a tenth of the history, an
    unrelated one comes with ``stray``. Returns the log, the culprit and the answer, or None where the ends
    are not bad and good, or where the newest revision shows the other crash more often.
    """
    culprit = int(rng.integers(1, n))
    begin = int(rng.integers(0, n))

    def one(v: int) -> str:
        if begin <= v < begin + n // 10 and rng.random() < stray:
            return "crashed: WARNING in elsewhere"
        return "crashed: BUG: hunted" if rng.random() < (p if v >= culprit else q) else "OK"

    def test(v: int) -> tuple[bool, str]:
        said = [one(v) for _ in range(10)]
        body = f"all runs: {said[0]}" if len(set(said)) == 1 else runs(*said)
        return any(x != "OK" for x in said), f"testing commit {name(v)} with gcc (GCC) 8.1.0\n{body}\n"

    (new_bad, newest), (old_bad, oldest) = test(n - 1), test(0)
    if not new_bad or old_bad or newest.count("hunted") <= newest.count("elsewhere"):
        return None
    lines = [f"bisecting cause commit starting from {name(n - 1)}\n", newest, "testing release v1\n", oldest]
    lines.append(f"# git bisect start {name(n - 1)} {name(0)}\n")
    low, high = 0, n - 1
    while high - low > 1:
        middle = (low + high) // 2
        bad, said = test(middle)
        lines.append(f"Bisecting: {high - middle - 1} revisions left to test after this (roughly 1 step)\n")
        lines += [
            f"[{name(middle)}] change\n",
            said,
            f"# git bisect {'bad' if bad else 'good'} {name(middle)}\n",
        ]
        low, high = (low, middle) if bad else (middle, high)
    lines += [f"{name(high)} is the first bad commit\n", "revisions tested: 1, total time: 1s\n"]
    lines.append(f"first bad commit: {name(high)} change\n")
    return "".join(lines), culprit, high
