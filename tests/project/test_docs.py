"""The documentation: it builds without network, its links lead somewhere, its commands exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ktriage.cli import COMMANDS, full_parser, main
from ktriage.jobs.repro import Rate
from ktriage.trial import Outcome, Spec
from ktriage.words import OutcomeKind

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md")),
         *sorted((ROOT / "examples").glob("*/README.md"))]  # fmt: skip
TUTORIALS = ROOT / "docs" / "tutorials"
CHECKED = re.compile(r"ktriage (report|refs read|bisect (audit|status|replay|log)) ")
"""Commands that need no guest: what a tutorial says that they print is held against what they print."""


def offline() -> list[str]:
    """Return what a command is put behind to have no network, where this user may do that."""
    words = ["unshare", "--map-root-user", "--net"]
    if shutil.which(words[0]) is None:
        return []
    return [] if subprocess.run([*words, "true"], capture_output=True, check=False).returncode else words


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the site, built without network: what its build or its pages would fetch is not there."""
    pytest.importorskip("mkdocs")
    target = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [*offline(), sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", target],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def test_the_site_is_built_from_the_code(site):
    assert "find_fault" in (site / "api.html").read_text()
    reference = (site / "reference" / "cli.html").read_text()
    for command in COMMANDS:
        assert f'id="ktriage-{command}"' in reference, command
    assert "--timeout-is" in reference


def test_pages_ask_nobody_else_for_anything(site):
    outside = r"[\"']?(?:https?:)?//[^\"' >]+"
    loads = r"rel=[\"']?(?:stylesheet|preconnect|preload|prefetch|dns-prefetch|modulepreload|icon|manifest)"
    fetched = re.compile(
        rf"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc={outside}"
        rf"|<link\b(?=[^>]*\b{loads})[^>]*\bhref={outside}"
    )
    for page in site.rglob("*.html"):
        found = fetched.findall(page.read_text())
        assert not found, (page.name, found)
        assert 'class="mermaid"' not in page.read_text(), "Material fetches what draws it"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text()), sheet.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            made = (page.parent / target).resolve() == ROOT / "docs" / "reference" / "cli.md"
            assert made or (page.parent / target).exists(), target


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


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```toml\n" in page.read_text()], ids=lambda page: page.stem
)
def test_specifications_are_such(page):
    for text in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        Spec.model_validate(tomllib.loads(text))


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*-*.md")), ids=lambda page: page.stem)
def test_tutorials_print_what_they_say(page, tmp_path, monkeypatch, capsys):
    shutil.copytree(TUTORIALS / "files" / page.stem, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "bisection.jsonl"
    if log.name in page.read_text():
        shutil.copy(TUTORIALS / "files" / "count-below-zero" / log.name, log)
        make_history(tmp_path / "ulp_tally")
        log.write_text(log.read_text().replace("/home/me/", f"{tmp_path}/"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    checked = 0
    for command, said in sessions(page.read_text()):
        if not CHECKED.match(command) or "|" in command:
            continue
        assert main(shlex.split(command)[1:]) == 0, command
        printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        wanted = "\n".join(".*" if line == "..." else re.escape(line) for line in said)
        assert re.fullmatch(wanted, "\n".join(printed).rstrip("\n"), re.DOTALL), (
            f"{command} printed\n" + "\n".join(printed)
        )
        checked += 1
    assert checked


def test_the_pictures_of_bisections_are_drawn(tmp_path):
    script = ROOT / "scripts" / "make-plots"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    drawn = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.svg"))
    assert len(drawn) == 4
    for path in drawn:
        made = ElementTree.parse(tmp_path / path).getroot()
        assert len(made) > 10, path
        # What is simulated has a seed: but for the last digit, it is the picture that is kept.
        assert abs(len(made) - len(ElementTree.parse(ROOT / "docs" / path).getroot())) < len(made) / 10, path


def test_the_examples_in_python_run(tmp_path, monkeypatch, capsys):
    shutil.copytree(TUTORIALS / "files" / "count-below-zero", tmp_path, dirs_exist_ok=True)
    make_history(tmp_path / "ulp_tally")
    monkeypatch.chdir(tmp_path)
    logs, bisection = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL
    )
    exec(logs, {})
    assert capsys.readouterr().out == (
        "WARNING in module_put in ulp-storm blamed on kernel/module/main.c\n"
        "ulp_tally -1 ['tcp_cleanup_ulp']\n"
    )
    exec(bisection, {})
    assert capsys.readouterr().out.startswith("culprit 105e4efd03a375f3e4a4b3752f1ced9f118de10b 0.99")


def make_history(folder: Path) -> None:
    """Make the repository of the tutorials' module."""
    make = ROOT / "examples" / "ulp-refcount" / "make_history.py"
    subprocess.run([sys.executable, make, folder], capture_output=True, check=True)


def sessions(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a page's sessions, each with the lines that the page says it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```\n(\$ .*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.rstrip("\n").splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line.strip() if line.strip() == "..." else line.rstrip())
    return [(command, said) for command, said in found if said]


JSON = (ROOT / "docs" / "reference" / "json.md").read_text()


def documented(heading: str) -> set[str]:
    """Return the fields that the table below a heading of the page on JSON has."""
    table = JSON.split(f"# {heading}\n")[1].split("\n#")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def in_a_row(command: str, kind: str) -> set[str]:
    """Return the fields that a row of the page's tables of objects has, without what is said in brackets."""
    (row,) = re.findall(rf"^\| [^|]*`{command}`[^|]* \| `{kind}` \| (.*) \|$", JSON, re.MULTILINE)
    bare = row.partition(": ")[2] or row
    while "(" in bare:
        bare = re.sub(r" ?\([^()]*\)", "", bare)
    return {"kind", *re.findall(r"`(\w+)`", bare)}


def test_json_is_what_its_page_says(tmp_path, monkeypatch, capsys):
    files = TUTORIALS / "files"
    shutil.copytree(files / "count-below-zero", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def printed(line: str) -> list[dict[str, Any]]:
        main(shlex.split(line))
        return [json.loads(text) for text in capsys.readouterr().out.splitlines()]

    (crash,) = printed("report --json console.log")
    assert set(crash) == documented("`crash`")
    (account,) = printed("refs read --json --tree trace.txt.zst")
    assert set(account) == documented("ktriage refs")
    (answer,) = printed("bisect status --json bisection.jsonl")
    assert set(answer) == documented("the answer")
    log = [json.loads(line) for line in Path("bisection.jsonl").read_text().splitlines()]
    assert set(next(one for one in log if one["record"] == "run")) == documented("a run of a bisection")
    assert set(next(one for one in log if one["record"] == "belief")) == documented("a belief")
    one, end = printed("import --json --case case.db console.log")
    assert set(one) == in_a_row("import", "imported")
    assert set(end) == {"kind", "logs", "known", "unreadable", "crashing", "bugs", "new", "seconds"}
    (bug,) = printed("case list --json --case case.db")
    assert set(bug) == in_a_row("case list", "bug")
    (pruned,) = printed("prune --json --case case.db")
    assert set(pruned) == in_a_row("prune", "pruned")
    outcome = Outcome(OutcomeKind.OK).to_json()
    assert {"run", *outcome} == documented("a run")
    assert {field.name for field in fields(Rate)} == documented("all runs")
