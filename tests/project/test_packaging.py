"""What is handed out: a wheel and an sdist with all that ktriage needs, built without network."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import ktriage

ROOT = Path(__file__).parents[2]
SHARE = f"ktriage-{ktriage.__version__}.data/data/share/"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Return a folder with a wheel and an sdist, made with what is installed here."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> dict[str, bytes]:
    """Return the wheel's files."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tracked(*below: str) -> set[str]:
    names = subprocess.run(["git", "ls-files", "--", *below], cwd=ROOT, capture_output=True, text=True)
    if names.returncode:
        pytest.skip("not in a checkout")
    return {name for name in names.stdout.splitlines() if (ROOT / name).exists()}


def test_a_wheel_has_every_file_of_the_package(wheel):
    # Templates, style sheets, migrations, C sources, py.typed: whatever git keeps is there.
    files = {name.removeprefix("src/") for name in tracked("src/ktriage")}
    assert {"ktriage/py.typed", "ktriage/machine/init.c", "ktriage/web/static/web.css"} <= files
    assert files <= set(wheel)
    assert not [name for name in wheel if "__pycache__" in name]


def test_a_wheel_has_what_the_demos_need(wheel):
    files = tracked("examples/ulp-refcount", "examples/kernel-tree")
    assert {f"ktriage/{name}" for name in files} <= set(wheel)


def test_a_wheel_has_the_manual_page_and_the_completions(wheel):
    page = wheel[SHARE + "man/man1/ktriage.1"].decode()
    assert page.startswith(f'.TH KTRIAGE 1 "" "ktriage {ktriage.__version__}"')
    for command in ("ktriage report", "ktriage bisect run", "ktriage dump show"):
        assert f".SS {command}\n" in page
    assert "\\fB\\-\\-confidence C\\fR\nstop when this sure (default: 0.998)" in page
    assert wheel[SHARE + "bash-completion/completions/ktriage"].rstrip().endswith(b"ktriage")
    assert wheel[SHARE + "zsh/site-functions/_ktriage"].startswith(b"#compdef ktriage\n")


def test_man_takes_the_page_without_a_warning(wheel, tmp_path):
    page = tmp_path / "ktriage.1"
    page.write_bytes(wheel[SHARE + "man/man1/ktriage.1"])
    try:
        done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("man is not installed")
    assert done.stderr == ""
    assert "bisect run" in done.stdout


def test_the_version_is_stated_once(wheel):
    (name,) = (name for name in wheel if name.endswith(".dist-info/METADATA"))
    assert message_from_bytes(wheel[name])["Version"] == ktriage.__version__
    assert ktriage.__version__ not in (ROOT / "pyproject.toml").read_text()


def test_the_files_beside_the_package_need_the_standard_library_only():
    # Whoever builds a wheel has hatchling and shtab, but nothing that ktriage runs with.
    code = "import sys; sys.path.insert(0, sys.argv[1]); from ktriage.cli.completion import manual; manual()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, ROOT / "src"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_sdist_builds_the_same_wheel_and_has_the_tests(built, wheel, tmp_path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=source,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(again) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == wheel
    assert {"Makefile", "mkdocs.yml", "hatch_build.py"} <= {file.name for file in source.iterdir()}
    assert (source / "tests" / "project" / "test_packaging.py").exists()
