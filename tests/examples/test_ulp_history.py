"""The example's history: the same everywhere, and what its series file says of it is true."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ktriage.jobs.demo import example_folder, make_repository
from ktriage.jobs.lab import Lab
from ktriage.jobs.labs import open_lab
from ktriage.jobs.repro import measure_rate
from ktriage.kernel import Kernel, RevisionSources, build_module
from ktriage.trial import load_spec
from ktriage.words import OutcomeKind

EXAMPLE = example_folder("ulp-refcount")
TIP = "97169502f38d3401cdf16c287a4c2f1e0ee6c16d"
"""The last commit's hash; a change to any patch changes it."""

MARKS = {"no-build", "dies-at-load", "flaky-from", "flaky-until", "culprit", "same-module"}


class Made(SimpleNamespace):
    """The history as a repository, with what git says about it."""

    repo: Path
    good: str
    bad: str
    culprit: str

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self.repo), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def between(self, *options: str) -> list[str]:
        return self.git("rev-list", *options, f"{self.good}..{self.bad}").split()

    def is_ancestor(self, old: str, new: str) -> bool:
        command = ["git", "-C", str(self.repo), "merge-base", "--is-ancestor", old, new]
        return subprocess.run(command).returncode == 0

    def marked(self) -> Iterator[tuple[str, str]]:
        """Yield mark and commit of each marked patch, found by its subject."""
        commits = {}
        for line in self.git("log", "--format=%H %s", self.bad).splitlines():
            commit, subject = line.split(" ", 1)
            assert subject not in commits.values(), "subjects must tell commits apart"
            commits[commit] = subject
        by_subject = {subject: commit for commit, subject in commits.items()}
        for line in (EXAMPLE / "history" / "series").read_text().splitlines():
            words = line.split("#")[0].split()
            if words and words[0].endswith(".patch") and len(words) > 1:
                text = (EXAMPLE / "history" / words[0]).read_text()
                subject = re.search(r"^Subject: \[PATCH\] (.*(?:\n .*)*)$", text, re.MULTILINE)
                assert subject
                yield words[1], by_subject[subject[1].replace("\n ", " ")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the history, made anew."""
    repo = tmp_path_factory.mktemp("ulp") / "repo"
    return Made(repo=repo, **make_repository(EXAMPLE, repo))


def test_every_machine_makes_the_same_commits(made: Made, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n name = Somebody Else\n email = else@example.com\n[core]\n autocrlf = true\n"
        "[commit]\n gpgsign = true\n[am]\n keepcr = true\n[init]\n defaultBranch = other\n"
    )
    env = {
        **os.environ,
        "HOME": str(home),
        "TZ": "Asia/Tokyo",
        "GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z",
        "GIT_DIR": str(tmp_path / "elsewhere"),
    }
    again = tmp_path / "again"
    command = [sys.executable, str(EXAMPLE / "make_history.py"), str(again)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert made.bad == TIP
    assert TIP in done.stdout
    assert made.git("rev-parse", "HEAD") == TIP
    assert made.git("status", "--porcelain") == ""


def test_the_history_is_as_long_and_as_branched_as_it_should(made: Made) -> None:
    assert len(made.between()) >= 30
    assert len(made.between("--merges")) >= 3
    assert made.is_ancestor(made.good, made.bad)
    assert made.is_ancestor(made.culprit, made.bad)
    assert not made.is_ancestor(made.culprit, made.good)
    assert made.culprit not in made.between("--first-parent"), "the culprit is on a side branch"


def test_marks(made: Made) -> None:
    marks = list(made.marked())
    assert {mark for mark, _ in marks} == MARKS
    count = {mark: sum(other == mark for other, _ in marks) for mark in MARKS}
    assert count["no-build"] == 2
    assert count["dies-at-load"] == count["culprit"] == count["flaky-from"] == count["flaky-until"] == 1
    by_mark = {mark: commit for mark, commit in marks if mark != "same-module"}
    assert by_mark["culprit"] == made.culprit
    assert made.is_ancestor(by_mark["flaky-from"], by_mark["flaky-until"])
    # The other bug is there on both sides of the hunted one.
    assert made.is_ancestor(by_mark["flaky-from"], made.culprit)
    assert made.is_ancestor(made.culprit, by_mark["flaky-until"])
    in_range = set(made.between())
    assert all(commit in in_range for mark, commit in marks if mark != "same-module")


def test_commits_marked_same_module_change_nothing_that_is_compiled(made: Made) -> None:
    for mark, commit in made.marked():
        files = made.git("diff-tree", "-r", "--root", "--no-commit-id", "--name-only", commit).splitlines()
        built = [name for name in files if re.fullmatch(r"[^/]+\.[ch]|Kbuild|Makefile", name)]
        assert bool(built) == (mark != "same-module"), (commit, files)


def test_fixes_lines_name_commits_that_exist(made: Made) -> None:
    found = 0
    for line in made.git("log", "--format=%b", made.bad).splitlines():
        if fixes := re.fullmatch(r'Fixes: ([0-9a-f]{12}) \("(.*)"\)', line):
            assert made.git("log", "-1", "--format=%s", fixes[1]) == fixes[2]
            found += 1
        else:
            assert not line.startswith("Fixes")
    assert found >= 5


def test_people_are_invented(made: Made) -> None:
    text = made.git("log", "--format=%ae%n%ce%n%b", made.bad)
    addresses = set(re.findall(r"[\w.+-]+@[\w.-]+", text))
    assert len(addresses) >= 5
    assert all(address.endswith(("@example.org", "@example.com")) for address in addresses)


def test_a_destination_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for place in (tmp_path, tmp_path / "thesis.tex"):
        command = [sys.executable, str(EXAMPLE / "make_history.py"), str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert str(place) in done.stderr
        assert (tmp_path / "thesis.tex").exists()


def builds(made: Made, kernel: Kernel, commit: str) -> bool:
    build = build_module(RevisionSources(made.repo, commit), kernel=kernel, name="ulp_tally")
    return build.module is not None


@pytest.mark.vm
def test_what_should_not_build_does_not_and_its_neighbours_do(made: Made, kernel: Kernel) -> None:
    lines = made.git("rev-list", "--children", made.bad).splitlines()
    children = {line.split()[0]: line.split()[1:] for line in lines}
    for mark, commit in made.marked():
        if mark == "no-build":
            assert not builds(made, kernel, commit)
            assert builds(made, kernel, made.git("rev-parse", f"{commit}^"))
            assert all(builds(made, kernel, child) for child in children[commit])
    for commit in (made.good, made.culprit, made.bad):
        assert builds(made, kernel, commit)


@pytest.mark.vm
@pytest.mark.matrix
def test_every_revision_builds_or_not_as_marked(made: Made, kernel: Kernel) -> None:
    broken = {commit for mark, commit in made.marked() if mark == "no-build"}
    for commit in [made.good, *made.between("--reverse")]:
        assert builds(made, kernel, commit) == (commit not in broken), commit


@pytest.fixture(scope="module")
def lab(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Return where trials of the example's revisions are run."""
    spec = load_spec(EXAMPLE / "ktriage.toml")
    return open_lab(spec, tmp_path_factory.mktemp("trials"), repo=made.repo)


@pytest.mark.vm
def test_the_culprit_brings_the_crash_in(made: Made, lab: Lab) -> None:
    before = measure_rate(lab, 6, commit=made.git("rev-parse", f"{made.culprit}^"))
    assert set(before.outcomes) <= {"ok", "other-crash"}
    assert set(before.titles) <= {"WARNING in tally_check"}
    # At a crash rate of 0.3, the lowest that is promised, 1 in 1200 would not see it.
    for number in range(20):
        outcome, _ = lab.trial(f"culprit-{number}", made.culprit)
        if outcome.hunted:
            break
    assert outcome.kind == OutcomeKind.CRASHED


@pytest.mark.vm
def test_the_revision_that_dies_at_load_does(made: Made, lab: Lab) -> None:
    commit = dict(made.marked())["dies-at-load"]
    outcome, _ = lab.trial("load", commit)
    assert outcome.kind == OutcomeKind.BOOT_FAILED
    assert outcome.title == "BUG: unable to handle kernel NULL pointer dereference in tally_check"


def test_the_storm_compiles_without_a_warning_and_refuses_nonsense(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc on this machine")
    source = EXAMPLE / "repro" / "ulp-storm.c"
    storm = tmp_path / "ulp-storm"
    command = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(storm), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for wrong in (["-c", "0"], ["-k", "many"], ["-t", "-1"], ["-x"]):
        done = subprocess.run([str(storm), *wrong], capture_output=True, text=True)
        assert done.returncode == 2, wrong
