"""A real kernel tree, from the specification to the commit: configured, built, booted, bisected.

The first build takes minutes. The repository lies at a place of its own in the cache, so that later calls
find its checkout and build folder and build what changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from ktriage.bisect.log import read_log
from ktriage.cache import cached
from ktriage.jobs.labs import open_lab
from ktriage.jobs.tree_lab import TreeLab
from ktriage.kernel.config import RECORDING, parse_config
from ktriage.kernel.tree import packaged_source
from ktriage.refs import read_traces
from ktriage.trial import load_spec
from ktriage.words import OutcomeKind

pytestmark = [pytest.mark.matrix, pytest.mark.vm, pytest.mark.timeout(7200)]

SPEC = """\
[kernel]
tree = "."
options = ["CONFIG_TLS=y"]
{more}
[guest]
compile = ["pipe.c"]
{guest}
[run]
commands = ["pipe"]
timeout = 20
[hunted]
titles = ["WARNING in pipe_set_size", "WARNING in pipe_fcntl"]
"""
PROGRAM = """\
#define _GNU_SOURCE
#include <fcntl.h>
#include <unistd.h>
int main(void)
{
	int fds[2];

	return pipe(fds) || fcntl(fds[1], F_SETPIPE_SZ, 8192) < 0;
}
"""
WHO = {
    "GIT_AUTHOR_NAME": "A Developer",
    "GIT_AUTHOR_EMAIL": "dev@example.org",
    "GIT_COMMITTER_NAME": "A Developer",
    "GIT_COMMITTER_EMAIL": "dev@example.org",
    "GIT_AUTHOR_DATE": "1767600000 +0000",
    "GIT_COMMITTER_DATE": "1767600000 +0000",
}
HERE = Path(__file__).parent
PANIC = "echo c > /proc/sysrq-trigger"
CULPRIT = "pipe: warn of small pipes"


@dataclass(frozen=True)
class Tree:
    """The repository with its history; ``commits`` by subject."""

    path: Path
    commits: dict[str, str]

    @property
    def ends(self) -> tuple[str, str]:
        """Return good and bad."""
        return self.commits["good"], self.commits["mm: comment"]


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(repo), "-c", "gc.auto=0", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **WHO},
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def tree() -> Tree:
    """Return the packaged source as a repository, with a few commits on top; the same ones each time."""

    def make(folder: Path) -> None:
        source = packaged_source()
        git(folder, "init", "-q", "-b", "main")
        git(folder, "--work-tree", str(source), "add", "-Af", ".")
        git(folder, "commit", "-q", "-m", "good")
        git(folder, "reset", "-q", "--hard")

    repo = cached("history", "tests-linux-6.1", make)
    git(repo, "checkout", "-q", "-f", "-B", "test", git(repo, "rev-list", "--max-parents=0", "main"))
    commits = {"good": git(repo, "rev-parse", "HEAD")}

    def commit(subject: str, name: str, old: str, new: str) -> None:
        path = repo / name
        text = path.read_text()
        assert re.search(old, text, re.MULTILINE)
        path.write_text(re.sub(old, lambda _: new, text, count=1, flags=re.MULTILINE))
        git(repo, "commit", "-q", "-a", "-m", subject)
        commits[subject] = git(repo, "rev-parse", "HEAD")

    size, statfs = r"^static long pipe_set_size\(", r"^int vfs_statfs\("
    commit(
        "pipe: comment",
        "fs/pipe.c",
        size,
        "/* Called with the\n * lock held.\n */\nstatic long pipe_set_size(",
    )
    commit("statfs: comment", "fs/statfs.c", statfs, "/* as asked */\nint vfs_statfs(")
    commit("pipe: broken", "fs/pipe.c", size, "int broken = nothing_like_it;\nstatic long pipe_set_size(")
    commit("pipe: mended", "fs/pipe.c", r"^int broken = nothing_like_it;\n", "")
    commit(
        CULPRIT,
        "fs/pipe.c",
        r"size = round_pipe_size\(arg\);",
        "size = round_pipe_size(arg);\n\tWARN_ON(size == 8192);",
    )
    commit("statfs: words", "fs/statfs.c", "as asked", "as it was asked")
    commit("doc: more", "Documentation/admin-guide/sysrq.rst", r"\A", ".. more\n\n")
    commit("init: message", "init/do_mounts.c", '"VFS: Mounted root', '"VFS: Mounted the root')
    commit("mm: comment", "mm/util.c", r"\Z", "/* end */\n")
    return Tree(repo, commits)


@pytest.fixture
def spec(tmp_path: Path):
    """Return a function that writes the specification, with more lines in [kernel] and [guest]."""

    def write(more: str = "", guest: str = "") -> Path:
        (tmp_path / "pipe.c").write_text(PROGRAM)
        path = tmp_path / "ktriage.toml"
        path.write_text(SPEC.format(more=more, guest=guest))
        return path

    return write


def open_tree(path: Path, tree: Tree, **options) -> TreeLab:
    lab = open_lab(load_spec(path), path.parent / "trials", repo=tree.path, **options)
    assert isinstance(lab, TreeLab)
    return lab


def test_a_bisection_finds_the_commit(tree: Tree, spec, tmp_path: Path) -> None:
    log = tmp_path / "bisection.jsonl"
    good, bad = tree.ends
    command = [sys.executable, "-m", "ktriage", "bisect", "run", "--spec", str(spec()), "--log", str(log)]
    command += ["--repo", str(tree.path), "--good", good, "--bad", bad, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["culprit"] == tree.commits[CULPRIT]
    assert answer["probability"] >= 0.99
    assert answer["verification"]["passed"]
    runs = read_log(log).runs
    for run in runs:
        kept = json.loads((Path(run.where) / "outcome.json").read_text())
        assert kept["built"]["release"].startswith("6.1.") or run.outcome == "build-failed"
        assert "gcc" in kept["built"]["compiler"]
        assert kept["built"]["signature"] == run.signature
    assert git(tree.path, "worktree", "list").count("\n") == 0
    again = log.with_name("again.jsonl")
    began = time.monotonic()
    done = subprocess.run(
        [str(again) if word == str(log) else word for word in command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # Every kernel is there: nothing is built.
    assert sum(run.build_seconds for run in read_log(again).runs) == 0, time.monotonic() - began


def test_what_changes_nothing_has_the_same_signature(tree: Tree, spec) -> None:
    lab = open_tree(spec(), tree)
    signatures = {name: lab.build(commit).signature for name, commit in tree.commits.items()}
    same = [name for name, signature in signatures.items() if signature == signatures["good"]]
    assert same == ["good", "pipe: comment", "statfs: comment", "pipe: mended"]
    assert signatures["pipe: broken"] is None
    assert len({signatures[name] for name in (CULPRIT, "statfs: words", "doc: more")}) == 1
    assert signatures["init: message"] == signatures["mm: comment"] != signatures[CULPRIT]


def test_only_what_changed_is_built(tree: Tree, spec) -> None:
    lab = open_tree(spec(), tree)
    lab.build(tree.commits["mm: comment"])
    git(tree.path, "checkout", "-q", "--detach", tree.commits["mm: comment"])
    with (tree.path / "fs/statfs.c").open("a") as file:
        file.write(f"/* {time.time_ns()} */\n")
    git(tree.path, "commit", "-q", "-a", "-m", "never seen before")
    built = lab.build(git(tree.path, "rev-parse", "HEAD"))
    assert built.fresh
    made = set(re.findall(r"^  CC +(\S+)", built.log.read_text(), re.MULTILINE))
    # init/version.o is made anew with each vmlinux.
    assert "fs/statfs.o" in made
    assert len(made) <= 4, made
    assert built.signature == lab.build(tree.commits["mm: comment"]).signature


def test_a_module_of_the_trees_own(tree: Tree, spec, tmp_path: Path) -> None:
    path = spec('fragments = ["m.config"]', 'drivers = ["tls"]')
    (tmp_path / "m.config").write_text("CONFIG_TLS=m\n")
    path.write_text(path.read_text().replace('options = ["CONFIG_TLS=y"]', ""))
    path.write_text(
        path.read_text().replace('commands = ["pipe"]', 'commands = ["grep -q ^tls /proc/modules"]')
    )
    lab = open_tree(path, tree)
    outcome, built = lab.trial("it", tree.commits["good"])
    assert outcome.kind is OutcomeKind.OK, outcome.detail
    assert built.kernel and built.kernel.modules
    assert [module.name for module in built.kernel.modules.rglob("*.ko")] == ["tls.ko"]


def refs_spec(write, folder: Path) -> Path:
    """Write a specification that records pipes, for the references' kernel without what recording takes."""
    fragment = (HERE.parent / "fixtures/refs/kernel.config").read_text().splitlines()
    needed = parse_config(RECORDING)
    lines = [line for line in fragment if not needed.keys() & parse_config(line).keys()]
    (folder / "refs.config").write_text("\n".join(lines))
    path: Path = write('fragments = ["refs.config"]')
    text = path.read_text().replace('tree = "."', f'tree = "{packaged_source()}"')
    text = text.replace('options = ["CONFIG_TLS=y"]\n', "").replace('"pipe"]', f'"pipe", "pipe; {PANIC}"]')
    text = text.replace("WARNING in pipe_fcntl", "kernel panic: sysrq triggered crash")
    path.write_text(text + '[refs]\nget = "alloc_pipe_info:ret"\nput = "free_pipe_info:1"\n')
    return path


def test_references_are_recorded_even_of_a_guest_that_died(spec, tmp_path: Path) -> None:
    lab = open_lab(load_spec(refs_spec(spec, tmp_path)), tmp_path / "trials")
    outcome, _ = lab.trial("it", None)
    assert outcome.hunted, outcome.detail
    assert outcome.refs is not None
    # The kernel has no BTF: where the last events lay, its debug information told.
    assert (outcome.refs.complete, outcome.refs.rescued) == (False, True)
    accounts = read_traces([outcome.refs.trace])
    # One may lie where the other lay.
    assert sum(account.gets for account in accounts) == sum(account.puts for account in accounts) == 2
    with zstandard.open(outcome.refs.trace, "rt") as trace:
        assert trace.read().count("=> create_pipe_files+") == 2


MODULE = """\
#include <linux/module.h>
static int __init hello_init(void) { WARN_ON(%d); return 0; }
static void __exit hello_exit(void) { }
module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("GPL");
"""


@pytest.mark.parametrize("compiler", ["gcc", "LLVM=1"])
def test_a_module_with_a_history_on_a_tree_as_it_stands(repo, spec, tmp_path: Path, compiler: str) -> None:
    if compiler == "LLVM=1" and not all(map(shutil.which, ("clang", "ld.lld", "llvm-nm"))):
        pytest.skip("no clang with its linker and tools")
    path = spec(f'compiler = "{compiler}"\ndebuginfo = true')
    text = path.read_text().replace('tree = "."', f'tree = "{packaged_source()}"')
    text = text.replace('"WARNING in pipe_fcntl"', '"WARNING in hello_init"').replace('"pipe"]', '"true"]')
    path.write_text(text + '[module]\nname = "hello"\n')
    good = repo.commit("good", {"hello.c": MODULE % 0, "Makefile": "obj-m := hello.o\n"})
    culprit = repo.commit("culprit", {"hello.c": MODULE % 1})
    bad = repo.commit("bad", {"README": "It greets.\n"})
    command = [
        sys.executable,
        "-m",
        "ktriage",
        "bisect",
        "run",
        "--spec",
        str(path),
        "--repo",
        str(repo.path),
    ]
    done = subprocess.run(
        [*command, "--good", good, "--bad", bad, "--json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["culprit"] == culprit


def test_a_configuration_that_does_not_boot(tree: Tree, spec, tmp_path: Path) -> None:
    path = spec('cmdline = "init=/bin/false rdinit=/bin/false"')
    good, bad = tree.ends
    command = [
        sys.executable,
        "-m",
        "ktriage",
        "bisect",
        "run",
        "--spec",
        str(path),
        "--log",
        str(tmp_path / "l"),
    ]
    command += ["--repo", str(tree.path), "--good", good, "--bad", bad]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "neither the bad nor the good revision boots: the kernel did not boot: it panicked" in done.stderr
    assert b"Kernel panic" in next(tmp_path.rglob("console.log")).read_bytes()
