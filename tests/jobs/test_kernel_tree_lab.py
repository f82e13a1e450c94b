"""A laboratory that builds its kernel at each revision: what with, and what is said where it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktriage.bisect.types import Options
from ktriage.errors import UserError
from ktriage.jobs.bisect_vms import bisect_in_vms
from ktriage.jobs.labs import open_lab
from ktriage.jobs.tree_lab import TreeLab, recipe_of
from ktriage.trial import load_spec
from ktriage.words import OutcomeKind

SPEC = """\
[kernel]
tree = "."
options = ["CONFIG_A=y"]
jobs = 1
{more}
[run]
commands = ["true"]
[hunted]
titles = ["{title}"]
"""
INIT = "int answer = %s;\nvoid _start(void) { for (;;) answer++; }\n"


@pytest.fixture
def lab(small_kernel, tmp_path: Path):
    """Return a function that opens a lab with more lines in [kernel]."""

    def go(more: str = "", title: str = "WARNING in x", *, repo: bool = True) -> TreeLab:
        path = tmp_path / "ktriage.toml"
        path.write_text(SPEC.format(more=more, title=title))
        made = open_lab(load_spec(path), tmp_path / "trials", repo=small_kernel.path if repo else None)
        assert isinstance(made, TreeLab)
        return made

    return go


def test_the_first_compiler_that_holds_is_taken(small_kernel, lab) -> None:
    first = small_kernel.git("rev-parse", "HEAD")
    second = small_kernel.commit("second", {})
    third = small_kernel.commit("third", {})
    small_kernel.git("checkout", "-q", "-b", "side", first)
    side = small_kernel.commit("side", {"net/side.c": ""})
    made = lab(
        f"""
[[kernel.compiler]]
name = "gcc-11"
since = "{second}"
until = "main"
[[kernel.compiler]]
name = "gcc-12"
since = "{second}"
"""
    )
    assert [made.compiler(commit) for commit in (first, second, third, side)] == [
        "gcc",
        "gcc-11",
        "gcc-12",
        "gcc",
    ]
    assert lab('compiler = "gcc-12"').compiler(first) == "gcc-12"


def test_a_patch_is_applied_where_it_is_meant_for(small_kernel, lab, tmp_path: Path) -> None:
    good = small_kernel.git("rev-parse", "HEAD")
    broken = small_kernel.commit("broken", {"init.c": INIT % "undeclared"})
    mended = small_kernel.commit("mended", {"init.c": INIT % "42"})
    (tmp_path / "fix.patch").write_text(small_kernel.git("diff", broken, mended) + "\n")
    made = lab(f'[[kernel.patch]]\nfile = "fix.patch"\nsince = "{broken}"\nuntil = "{mended}"')
    builds = [made.build(commit) for commit in (good, broken, mended)]
    assert [build.error for build in builds] == [None] * 3
    assert [len(build.used["patches"]) for build in builds] == [0, 1, 0]
    assert len({build.signature for build in builds}) == 1
    without = lab().build(broken)
    assert without.error and "undeclared" in without.error


def test_a_revision_that_does_not_build(small_kernel, lab) -> None:
    broken = small_kernel.commit("broken", {"init.c": INIT % "undeclared"})
    made = lab()
    outcome, build = made.trial("it", broken)
    assert outcome.kind is OutcomeKind.BUILD_FAILED
    assert outcome.detail.startswith("init.c:1:14: error: 'undeclared' undeclared")
    assert outcome.evidence[0] == outcome.detail
    kept = json.loads((made.directory / "it" / "outcome.json").read_text())
    assert kept["built"]["config"] == build.used["config"]
    assert "gcc" in kept["built"]["compiler"]
    assert "undeclared" in (made.directory / "it" / "build.log").read_text()
    result = made(broken, (), "0001")
    assert result.outcome is OutcomeKind.BUILD_FAILED
    assert result.note == outcome.detail
    assert result.build_seconds == 0


def test_a_range_that_does_not_build_at_all(small_kernel, lab, tmp_path: Path) -> None:
    good = small_kernel.commit("broken", {"init.c": INIT % "undeclared"})
    bad = small_kernel.commit("broken still", {"more.c": "int other;\n"})
    lab()
    with pytest.raises(UserError) as caught:
        bisect_in_vms(
            tmp_path / "ktriage.toml",
            repo=small_kernel.path,
            good=good,
            bad=bad,
            directory=tmp_path / "out",
            options=Options(),
        )
    assert caught.value.message.startswith("neither the bad nor the good revision builds: init.c:1:14: error")
    assert caught.value.hint and Path(caught.value.hint.split()[-1], "build.log").is_file()
    assert not (tmp_path / "out" / "bisection.jsonl").exists()


def test_what_only_some_revisions_can_be_configured_for(small_kernel, lab) -> None:
    drop = "\nolddefconfig: drop\ndrop:\n\tsed -i /CONFIG_A/d $(KCONFIG_CONFIG)\n"
    makefile = (small_kernel.path / "Makefile").read_text()
    drops = small_kernel.commit("drops", {"Makefile": makefile + drop})
    with pytest.raises(UserError, match="A=y became n: its dependencies are met"):
        lab().trial("it", drops)
    result = lab()(drops, (), "0001")
    assert result.outcome is OutcomeKind.BUILD_FAILED
    assert result.note and "A=y became n" in result.note


def test_what_is_asked_for_by_the_title_and_by_the_table(lab, tmp_path: Path) -> None:
    made = lab("debuginfo = true", "KASAN: slab-out-of-bounds Read in f")
    needs = "".join(made.recipe.config.needs)
    assert "CONFIG_KASAN=y\n" in needs
    assert "CONFIG_DEBUG_INFO=y\n" in needs
    assert "CONFIG_SERIAL_8250_SHARE_IRQ=y\n" in needs
    assert "CONFIG_VT is not set" in "".join(made.recipe.config.wishes)
    (tmp_path / "base").write_text("CONFIG_VT=y\n")
    (tmp_path / "net.config").write_text("CONFIG_NET=y\n# CONFIG_A is not set\n")
    config = recipe_of(lab('config = "base"\nfragments = ["net.config"]').spec).config
    assert config.base == tmp_path / "base"
    assert config.fragments == ("CONFIG_NET=y\n# CONFIG_A is not set\n", "CONFIG_A=y\n")
    assert "CONFIG_VT" not in "".join(config.wishes)


def test_what_recording_needs(lab, tmp_path: Path) -> None:
    refs = '[refs]\nget = "f"\nput = "g"'
    wanted = {"CONFIG_VIRTIO_CONSOLE=y", "CONFIG_KPROBE_EVENTS=y"}
    assert not wanted & set("".join(lab().recipe.config.needs).split())
    assert wanted <= set("".join(lab(refs).recipe.config.needs).split())
    (tmp_path / "odd.config").write_text("# CONFIG_KPROBES is not set\nCONFIG_VIRTIO_CONSOLE=m")
    message = r"\[refs\] can't be recorded with CONFIG_VIRTIO_CONSOLE=m, CONFIG_KPROBES=n"
    with pytest.raises(UserError, match=message):
        lab(f'fragments = ["odd.config"]\n{refs}')


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('config = "nothing.config"', r"\[kernel\] config: .*nothing.config: No such file"),
        (
            'fragments = ["wrong.config"]',
            r"\[kernel\] fragments: .*wrong.config: line 2 of a kernel configuration",
        ),
        ('[[kernel.patch]]\nfile = "x.patch"', r"\[\[kernel.patch\]\] file: .*x.patch: No such file"),
        ('[[kernel.compiler]]\nname = "gcc"\nsince = "v9"', "unknown revision 'v9'"),
        ('compiler = "nonesuch-gcc"', "no compiler nonesuch-gcc"),
    ],
)
def test_what_is_wrong_is_said(small_kernel, lab, tmp_path: Path, more: str, message: str) -> None:
    (tmp_path / "wrong.config").write_text("CONFIG_A=y\nA\n")
    with pytest.raises(UserError, match=message) as caught:
        lab(more).build(small_kernel.git("rev-parse", "HEAD"))
    assert "\n" not in str(caught.value)


def test_a_module_on_a_tree_as_it_stands(small_kernel, tmp_path: Path) -> None:
    path = tmp_path / "ktriage.toml"
    text = SPEC.format(more="", title="WARNING in x").replace('"."', f'"{small_kernel.path}"')
    path.write_text(f'{text}[module]\nname = "hello"\n')
    (small_kernel.path / "init.c").write_text(INIT % "undeclared")
    with pytest.raises(UserError, match=r"the kernel does not build: init.c:1:14: error: .*build\.log"):
        open_lab(load_spec(path), tmp_path / "trials")
    path.write_text(path.read_text() + '[[kernel.compiler]]\nname = "gcc"\nsince = "HEAD"\n')
    with pytest.raises(UserError, match=r"with \[module\] revisions are its own: no kernel\.patch"):
        load_spec(path)


def test_ranges_and_patches_need_a_repository(lab, tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_text("")
    for more in ('[[kernel.patch]]\nfile = "x.patch"', '[[kernel.compiler]]\nname = "gcc"\nsince = "HEAD"'):
        with pytest.raises(UserError, match="--repo"):
            lab(more, repo=False)
