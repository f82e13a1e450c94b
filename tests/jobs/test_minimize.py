"""A reproducer is shortened in real guests: what it can do without goes, what it needs stays."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import PIPE, run

import pytest

from ktriage.errors import UserError
from ktriage.jobs.labs import open_lab
from ktriage.jobs.minimize import LOG, minimize
from ktriage.jobs.minimize_target import find_target
from ktriage.trial import load_spec

MODULE = Path(__file__).parents[1] / "modules" / "misbehave"

SPEC = f"""
[kernel]
package = "linux-image-cloud-amd64"
[module]
name = "misbehave"
source = "{MODULE}"
[guest]
%s
[run]
commands = [%s]
timeout = 20
[hunted]
titles = ["WARNING in misbehave_warn"]
"""

PROGRAM = """\
/* Warns, among other things. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	int fd = open("/proc/misbehave", O_WRONLY), i;
	char *memory = malloc(4096);

	memset(memory, 0, 4096);
	for (i = 0; i < 3; i++)
		getppid();
	if (fd >= 0)
		write(fd, "warn", 4);
	free(memory);
	return 0;
}
"""

SHORTEST = """\
/* Warns, among other things. */
#include <fcntl.h>
#include <unistd.h>

int main(void)
{
	int fd = open("/proc/misbehave", O_WRONLY);

	write(fd, "warn", 4);
}
"""


@pytest.mark.vm
def test_a_program_is_shortened_and_gone_on_with(tmp_path: Path):
    (tmp_path / "crash.c").write_text(PROGRAM)
    (tmp_path / "ktriage.toml").write_text(SPEC % ('compile = ["crash.c"]', '"crash"'))
    command = [sys.executable, "-m", "ktriage", "repro", "minimize", "ktriage.toml", "--json", "--out", "out"]
    first = run([*command, "--max-runs", "9"], cwd=tmp_path, stdout=PIPE, text=True)
    assert first.returncode == 1, first
    assert json.loads(first.stdout)["complete"] is False
    before = (tmp_path / "out" / LOG).read_bytes()
    second = run(command, cwd=tmp_path, stdout=PIPE, text=True)
    assert second.returncode == 0, second
    told = json.loads(second.stdout)
    assert (tmp_path / "crash.min.c").read_text() == SHORTEST
    assert (tmp_path / "crash.c").read_text() == PROGRAM
    assert told["lines"] == [17, 8]
    assert told["minimized_rate"] == 1
    # The runs of the first call were not made again.
    assert (tmp_path / "out" / LOG).read_bytes().startswith(before)
    runs = (tmp_path / "out" / LOG).read_text().count('"crashed"')
    assert told["runs"] <= runs < 40


@pytest.mark.vm
def test_commands_are_shortened(tmp_path: Path):
    path = tmp_path / "ktriage.toml"
    commands = '"true", "ls / > /dev/null", "echo warn > /proc/misbehave", "echo \\"no\\""'
    path.write_text(SPEC % ("", commands))
    lab = open_lab(load_spec(path), tmp_path / "trials")
    found = minimize(lab, find_target(lab.spec, path), tmp_path / "out")
    assert load_spec(Path(found.minimized)).run.commands == ("echo warn > /proc/misbehave",)
    assert load_spec(path).run.commands == lab.spec.run.commands


@pytest.mark.vm
def test_what_does_not_crash_has_nothing_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ktriage.trial.sequential.MOST_RUNS", 2)
    path = tmp_path / "ktriage.toml"
    path.write_text(SPEC % ("", '"true", "true"'))
    lab = open_lab(load_spec(path), tmp_path / "trials")
    with pytest.raises(UserError, match="did not crash in 2 runs"):
        minimize(lab, find_target(lab.spec, path), tmp_path / "out")


def test_what_is_to_be_shortened_must_be_clear(tmp_path: Path):
    path = tmp_path / "ktriage.toml"
    for name in ("a.c", "b.c", "x.c"):
        (tmp_path / name).write_text("int main(void) { return 0; }\n")
    path.write_text(SPEC % ('compile = ["a.c", "b.c"]', '"a", "b"'))
    spec = load_spec(path)
    with pytest.raises(UserError, match=r"a\.c, b\.c"):
        find_target(spec, path)
    assert find_target(spec, path, tmp_path / "b.c").place == "/bin/b"
    with pytest.raises(UserError, match="neither"):
        find_target(spec, path, tmp_path / "x.c")


def test_the_original_is_not_written_over(tmp_path: Path):
    path = tmp_path / "ktriage.toml"
    (tmp_path / "crash.c").write_text(PROGRAM)
    path.write_text(SPEC % ('compile = ["crash.c"]', '"crash"'))
    command = [sys.executable, "-m", "ktriage", "repro", "minimize", "ktriage.toml", "--output", "crash.c"]
    done = run([*command, "--out", "out"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is the original" in done.stderr
    assert (tmp_path / "crash.c").read_text() == PROGRAM


def test_a_log_of_another_reproducer_is_not_gone_on_with(tmp_path: Path):
    path = tmp_path / "ktriage.toml"
    path.write_text(SPEC % ("", '"true", "true"'))
    (tmp_path / LOG).write_text('{"original": "another"}\n')
    lab = open_lab(load_spec(path), tmp_path / "trials")
    with pytest.raises(UserError, match="another reproducer"):
        minimize(lab, find_target(lab.spec, path), tmp_path)
