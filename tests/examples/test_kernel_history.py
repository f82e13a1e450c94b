"""The history of the kernel's example: it fits Debian's source, is the same everywhere, and holds the bug."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ktriage.cache import cache_root
from ktriage.jobs.demo import example_folder
from ktriage.trial import load_spec

EXAMPLE = example_folder("kernel-tree")
SEEDS = range(8)


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("kernel_tree_history", EXAMPLE / "make_history.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return as much of Debian's source as the patches touch: the whole takes half a minute to import."""
    whole = next(cache_root().glob("source/linux-source-6.1_*/linux-source-6.1"), None)
    if whole is None:
        pytest.skip("Debian's linux-source-6.1 is not in the cache")
    folder = tmp_path_factory.mktemp("source")
    names = {"Makefile", "MAINTAINERS"}
    for patch in (EXAMPLE / "history").glob("*.patch"):
        names.update(re.findall(r"^--- a/(.*)$", patch.read_text(encoding="utf-8"), re.MULTILINE))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole / name, folder / name)
    return folder


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("bug", ["underflow", "uaf"])
def test_history(maker: ModuleType, source: Path, tmp_path: Path, bug: str):
    made = maker.make_history(tmp_path / "repo", source, bug=bug)
    repo = tmp_path / "repo"
    assert made["skipped"] == []
    assert made["commits"] >= 40
    between = f"{made['good']}..{made['bad']}"
    assert made["culprit"] in git(repo, "rev-list", between).split()
    assert len(git(repo, "rev-list", "--merges", between).split()) >= 8
    messages = git(repo, "log", "--format=%B", between)
    assert not re.search(r"@[\w-]+@", messages), "a commit that is named by its patch"
    for name in re.findall(r"^Fixes: ([0-9a-f]{12}) ", messages, re.MULTILINE):
        git(repo, "merge-base", "--is-ancestor", name, made["bad"])
    assert messages.count("Signed-off-by:") >= 40
    # Made once more, everything is the same.
    assert maker.make_history(tmp_path / "again", source, bug=bug) == made
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(maker.HistoryError):
        maker.make_history(tmp_path / "taken", source)


def test_seeds_move_the_culprit(maker: ModuleType):
    series = maker.read_series()
    places = set()
    for seed in SEEDS:
        topics = maker.plan(series, "underflow", seed)
        names = [patch.name for topic in topics for patch in topic.patches]
        assert sorted(names) == sorted(
            [patch.name for topic in series.topics for patch in topic.patches]
            + [series.bugs["underflow"].name]
        )
        at = names.index(series.bugs["underflow"].name)
        places.add(at)
        for topic in topics:
            if series.bugs["underflow"] in topic.patches:
                before = topic.patches[: topic.patches.index(series.bugs["underflow"])]
                assert not before or before[-1].builds
    assert len(places) >= 5


def test_specifications_are_right():
    for name in ("ktriage.toml", "ktriage-uaf.toml"):
        spec = load_spec(EXAMPLE / name)
        assert all(spec.path(source).is_file() for source in spec.guest.compile)


def test_reproducers_compile_without_a_warning(tmp_path: Path):
    for source in (EXAMPLE / "repro").glob("*.c"):
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", tmp_path / source.stem, source],
            check=True,
        )


def test_a_socket_keeps_its_name_on_a_kernel_without_the_bug(tmp_path: Path):
    program = tmp_path / "unix-name"
    subprocess.run(["gcc", "-O2", "-o", program, EXAMPLE / "repro" / "unix-name.c"], check=True)
    assert subprocess.run([program], capture_output=True, text=True).stdout.endswith("still there\n")
