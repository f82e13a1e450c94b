"""The documentation: it builds without network, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ktriage.cli import COMMANDS, full_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "examples").glob("*/README.md"))]  # fmt: skip


def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text()
    assert "find_fault" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def commands(text: str) -> list[str]:
    """Return the command lines of ktriage in a page's blocks of code."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)
    joined = "".join(blocks).replace("\\\n", " ")
    return re.findall(r"^\s*(?:\$ )?(ktriage [a-z]+ .*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_those_that_there_are(page, capsys):
    parser = full_parser()
    for line in commands(page.read_text()):
        if "..." in line or "[" in line:
            continue
        words = shlex.split(line.split("|")[0].split(" #")[0])[1:]
        words = words[: next((at for at, word in enumerate(words) if word[0] in "><&;"), len(words))]
        assert words[0] in COMMANDS, line
        try:
            parser.parse_args(words)
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")
