"""The command line's frame: lazy, one line and exit code 2 for what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ktriage import cli

HEAVY = ("numpy", "scipy", "drgn", "pydantic", "rich", "qemu", "jinja2", "hyperscan", "elftools", "asyncio")


def ktriage(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ktriage", *arguments], capture_output=True, text=True, **options
    )


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    done = ktriage("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f"  {name} " in done.stdout
    code = (
        "import sys; from ktriage.cli import build_parser; build_parser(None).format_help();"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert set(HEAVY) & set(loaded) == set()


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = ktriage(command, "--help")
    assert done.returncode == 0
    assert f"ktriage {command}" in done.stdout.partition("\nexample:\n")[2]
    assert done.stderr == ""


def test_no_arguments_show_the_help() -> None:
    done = ktriage()
    assert done.returncode == 0
    assert "commands:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "ktriage: there is no command 'frobnicate' (ktriage --help lists them)\n"),
        (["--frobnicate"], "ktriage: unrecognized arguments: --frobnicate (see ktriage --help)\n"),
        (["repro", "run"], "ktriage repro run: the following arguments are required: SPEC"),
        (["repro", "run", "x", "-n", "0"], "ktriage repro run: argument -n/--runs: '0' is no number above 0"),
        (
            ["repro", "run", "/nonexistent/ktriage.toml"],
            "ktriage repro: /nonexistent/ktriage.toml: No such file",
        ),
        (["repro", "run", "/"], "ktriage repro: /: Is a directory"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = ktriage(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_version() -> None:
    assert ktriage("--version").stdout.startswith("ktriage 0.")


def test_completion_and_the_man_page(capsys, tmp_path):
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "ktriage.bash"
    script.write_text(capsys.readouterr().out)
    line = f"source {script}; COMP_WORDS=(ktriage rep); COMP_CWORD=1; _shtab_ktriage; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"report", "repro"}
    assert cli.main(["completion", "man"]) == 0
    page = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f".SS ktriage {command}\n" in page
        assert f"\nktriage {command} " in page.replace("\\-", "-")
