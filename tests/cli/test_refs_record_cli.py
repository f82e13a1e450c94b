"""``ktriage refs record``: what can't be recorded is said in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest


def record(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ktriage", "refs", "record", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to record"),
        (("--get", "kobject_get"), "get and put come together"),
        (("--get", "kobject get", "--put", "kobject_put"), "is no [MODULE:]FUNCTION"),
        (("--get", "a:9", "--put", "b"), "a:9: the argument is 1 to 6, or ret"),
        (("--module", "a/b"), "'a/b' is no module's name"),
        (("--module", "ktriage_has_no_such_module"), "no module ktriage_has_no_such_module is loaded"),
        (("--get", "a", "--put", "b", "--seconds", "-1"), "--seconds: a number above 0"),
        (("--spec", "/nowhere/ktriage.toml"), "No such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = record(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr


def test_a_specification_with_half_a_pair_names_the_line(tmp_path) -> None:
    spec = tmp_path / "ktriage.toml"
    spec.write_text(
        '[kernel]\npackage = "linux-image-cloud-amd64"\n[run]\ncommands = ["true"]\n'
        '[hunted]\nhang = true\n[refs]\nget = "thing_get"\n'
    )
    done = record("--spec", str(spec))
    assert done.returncode == 2
    assert f"{spec}:7: refs: get and put come together" in done.stderr
