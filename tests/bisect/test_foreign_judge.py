"""Foreign bisections weighed again: places, beliefs, coincidences, doubts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from foreign_logs import FIX, GIT, HUNG, WRONG, Bisected, asked, commit, lines_of, real_log, runs

from ktriage.bisect.foreign import read_foreign
from ktriage.bisect.foreign_types import ForeignRevision, ForeignRun
from ktriage.bisect.judge import believe, weigh
from ktriage.bisect.judge_doubts import doubts
from ktriage.bisect.judge_evidence import evidence, title_likeness
from ktriage.bisect.judge_places import chain, in_repository
from ktriage.bisect.judge_runs import coincidence
from ktriage.bisect.judge_types import Facts
from ktriage.errors import UserError
from ktriage.history.repository import Repository
from ktriage.words import OutcomeKind


def weighed(text, **options):
    log = read_foreign(text.encode() if isinstance(text, str) else text)
    return weigh(log, chain(log), **options)


def belief(text):
    return believe(weighed(text), lambda commits: dict.fromkeys(commits, ""))


def doubted(text, facts=Facts()):  # noqa: B008 (frozen)
    found = weighed(text)
    return {doubt.kind: doubt for doubt in reversed(doubts(found.log, found, facts))}


def sized(text):
    log = read_foreign(text)
    places = chain(log)
    return {(c or "")[:8]: int(s) for c, s in zip(places.commits, places.sizes, strict=True)}, places


def test_the_line_of_2018_and_how_many_commits_lie_between():
    sizes, places = sized(real_log("002").read_bytes())
    assert list(sizes) == [
        *("94710cac", "54dbe75b", "d5acba26", "7f02e1ce", "28a1f3ac", "1d0926e9", "3fe49d69", "037b0b86"),
        *("90545cdc", "d40b0116", "cbb2fb13", "e2948e5a", "2ad0d526", "2fd9944f", "f3ea4962", "28619527"),
    ]
    # From git's "N revisions left": bad with 17 left of 36 leaves 18, bad with 8 left of these 9, and so on.
    assert [sizes[x] for x in ("3fe49d69", "037b0b86", "90545cdc", "d40b0116", "cbb2fb13", "e2948e5a")] == (
        [26, 4, 1, 1, 3, 9]
    )
    assert not places.approximate


def test_a_skip_makes_the_sizes_approximate():
    _, places = sized(real_log("003").read_bytes())
    assert places.approximate
    assert commit("d") not in chain(read_foreign(GIT.encode())).place


@pytest.mark.parametrize("prefix", ["002", "003"])
def test_real_answers_are_supported(prefix):
    found = belief(real_log(prefix).read_bytes())
    assert found.claimed > 0.999
    assert found.stretches[0].commits == 1
    assert found.more, "even a sure answer has runs that would make it surer"


def test_the_misses_of_2018_fall_on_one_number():
    log = read_foreign(real_log("002").read_bytes())
    found = coincidence(log.revisions)
    assert (found.number, found.missed, len(found.revisions), found.of, found.sole) == (6, True, 4, 4, True)
    assert found.chance == pytest.approx(7 / 7**4)
    doubt = doubted(real_log("002").read_bytes())["run-number"]
    assert doubt.weight == "strong"
    assert "run #6" in doubt.text
    assert "1 in 343" in doubt.text
    assert doubt.evidence["claimed_without"] > 0.999


def test_the_infrastructure_failures_of_2020_are_told():
    found = weighed(real_log("003").read_bytes())
    told = {d.evidence["commit"][:8]: d for d in doubts(found.log, found, Facts()) if d.kind == "infra"}
    assert set(told) == {"b5aea28d", "9647c57b"}
    assert (told["b5aea28d"].evidence["telling"], told["b5aea28d"].evidence["beside"]) == (6, True)
    assert (told["9647c57b"].evidence["telling"], told["9647c57b"].evidence["beside"]) == (8, False)
    titles = [d for d in doubts(found.log, found, Facts()) if d.kind == "other-title"]
    assert {d.evidence["title"] for d in titles} == {
        "WARNING: refcount bug in xp_release_deferred",
        "BUG: unable to handle kernel NULL pointer dereference in xp_disable_drv_zc",
    }
    assert all(d.evidence["same"] > 0.5 for d in titles)
    skipped = next(d for d in doubts(found.log, found, Facts()) if d.kind == "skipped")
    assert (skipped.weight, skipped.evidence["reason"]) == ("note", "WARNING in mem_cgroup_css_alloc")


def revision(name, results):
    kinds = {"x": OutcomeKind.CRASHED, ".": OutcomeKind.OK, "?": OutcomeKind.INFRA}
    said = tuple(ForeignRun(i, kinds[c], "BUG: x" if c == "x" else None) for i, c in enumerate(results))
    return ForeignRevision(name, runs=said, verdict="bad", buggy=True)


@pytest.mark.parametrize("misses", [(1, 1, 1), (1, 2, 1), (2, 2, 1)])
def test_coincidences_against_counting_every_case(misses):
    n = 4
    tables = [[row for row in product("x.", repeat=n) if row.count(".") == k] for k in misses]
    together = total = 0
    for rows in product(*tables):
        total += 1
        together += any(all(row[i] == "." for row in rows) for i in range(n))
    worst = [revision(str(i), "." * k + "x" * (n - k)) for i, k in enumerate(misses)]
    found = coincidence(worst)
    assert len(found.revisions) == 3
    # A union over the numbers: exact for single misses, an upper bound otherwise.
    assert found.chance >= together / total - 1e-12
    assert found.chance == pytest.approx(together / total) or max(misses) > 1


def test_misses_here_and_there_are_no_pattern():
    assert coincidence([revision("a", "xxxx.x"), revision("b", "x.xxxx"), revision("c", "xxx?xx")]) is None


def test_an_unrelated_crash_that_led_astray_is_found():
    found = belief(WRONG)
    assert found.hunted == "INFO: task hung in foo_wait"
    assert found.titles["BUG: too many lock keys!"] < 0.01
    assert found.titles["INFO: task hung in bar_wait"] > 0.9
    assert found.claimed < 0.01
    best = found.stretches[0]
    assert (best.commit, best.after, best.commits) == (commit("a"), commit("b"), None)
    told = doubted(WRONG)
    assert told["belief"].weight == told["other-title-alone"].weight == "strong"
    assert {"own-estimate", "flaky", "seldom"} <= set(told)


def test_a_fix_is_the_mirror_of_a_cause():
    found = belief(FIX)
    assert found.stretches[0].commit == commit("e")
    assert found.claimed > 0.99
    assert found.crash_rate > 0.8
    text = FIX.replace(runs(*[f"{HUNG}"]), "")
    assert belief(text).more[0].commit in {commit("e"), commit("f")}
    log = read_foreign(FIX.encode())
    assert commit("1") not in chain(log).place, "a merge base without the bug says nothing of the fix"


def test_the_gain_of_a_run_is_the_fall_in_entropy():
    found = weighed(FIX)
    posterior = found.posterior
    places = range(posterior.sums.n)
    for v in places:
        posterior.look_at(v)
    view = posterior.view()
    gains, _ = posterior.gain(view)
    for v in places:
        crash = posterior.crash_chance(view, v)
        after = [posterior.view({v: runs}).entropy for runs in ((1, 0), (0, 1))]
        expected = view.entropy - crash * after[0] - (1 - crash) * after[1]
        assert gains[v] == pytest.approx(expected, abs=1e-9)
    assert max(gains) > 0
    more, length = posterior.gain(view, 10)
    assert (more > 0).any()
    assert ((length >= 1) & (length <= 10)).all()


def test_a_git_log_has_verdicts_alone():
    found = belief(GIT)
    assert found.stretches[0].commit == commit("e")
    assert found.claimed < 0.99
    assert found.assumed == 1
    assert "verdicts-only" in doubted(GIT)


def test_minimising_runs_and_ignored_ones_are_no_evidence():
    seen = evidence(read_foreign(WRONG.encode()))
    by_commit = {test.revision.commit[0]: test for test in seen.tests}
    assert len(seen.tests) == 6
    assert (by_commit["d"].ok, by_commit["d"].silent) == (9, 1)
    assert (by_commit["c"].ok, by_commit["c"].assumed) == (10, True)


def bisected(end, *more, first=HUNG):
    """A log with the good revision "b", the culprit "d" and its parent "c"."""
    return (
        f"bisecting cause commit starting from {commit('a')}\n"
        + lines_of("a", runs(*[first] * 10))
        + "testing release v9.1\n"
        + lines_of("b", runs(*["OK"] * 10))
        + f"# git bisect start {commit('a')} {commit('b')}\n"
        + asked(1, "c", "parent")
        + "".join(more)
        + f"{commit('d')} is the first bad commit\n"
        + end
        + "revisions tested: 4, total time: 1h0m0s (build: 30m0s, test: 30m0s)\n"
        + f"first bad commit: {commit('d')} the change\n"
    )


def steps(parent, named, *, parent_sign=None, named_sign=None, how="gcc"):
    return (
        lines_of("c", runs(*parent), sign=parent_sign)
        + f"# git bisect good {commit('c')}\n"
        + asked(0, "d", "the change")
        + lines_of("d", runs(*named), sign=named_sign, how=how)
        + f"# git bisect bad {commit('d')}\n"
    )


SURE = steps(["OK"] * 10, [HUNG] * 10)


def test_a_plain_bisection_has_no_strong_doubts():
    told = doubted(bisected("", SURE))
    assert [kind for kind, doubt in told.items() if doubt.weight == "strong"] == []


def test_a_merge_as_culprit():
    assert doubted(bisected("", SURE).replace("the change", "Merge tag 'x'"))["merge"].weight == "strong"


def test_culprit_and_parent_with_one_binary():
    same = f"culprit signature: {'5' * 64}\nparent  signature: {'5' * 64}\n"
    assert doubted(bisected(same, SURE))["same-binary"].weight == "strong"
    equal = steps(["OK"] * 10, [HUNG] * 10, parent_sign="55", named_sign="55")
    assert "the same kernel" in doubted(bisected("", equal))["same-binary"].text


def test_a_crash_outside_of_what_the_culprit_changes():
    stat = f"commit {commit('d')}\nAuthor: A <a@b.c>\n\n    the change\n\n net/foo/bar.c | 2 +-\n"
    far = Facts(files=("fs/ext4/inode.c",))
    near = Facts(files=("fs/ext4/inode.c", "net/foo/bar.c"))
    assert "net/foo/bar.c" in doubted(bisected(stat, SURE), far)["elsewhere"].text
    assert "elsewhere" not in doubted(bisected(stat, SURE), near)
    folder = stat.replace(" net/foo/bar.c | 2 +-", ":040000 040000 1234 5678 M\tnet")
    assert "elsewhere" not in doubted(bisected(folder, SURE), near)
    assert "elsewhere" in doubted(bisected(folder, SURE), far)


def test_few_runs_beside_the_culprit():
    rare = [HUNG, *["OK"] * 9]
    text = bisected("", steps(["OK"] * 3, rare), first=HUNG).replace(runs(*[HUNG] * 10), runs(*rare))
    told = doubted(text)
    found = weighed(text)
    beside, others = [d for d in doubts(found.log, found, Facts()) if d.kind == "few-runs"]
    assert (beside.weight, beside.evidence["commit"], beside.evidence["runs"]) == ("strong", commit("c"), 3)
    assert list(others.evidence["revisions"]) == [commit("b")]
    assert beside.evidence["chance"] > others.evidence["revisions"][commit("b")] > 0.1
    assert told["flaky-start"].weight == "strong"
    assert told["belief"].evidence["claimed"] < 0.9


def test_verdicts_against_the_runs():
    assert "never crashed" in doubted(bisected("", steps(["OK"] * 10, ["OK"] * 10)))["contradiction"].text
    assert "and crashed" in doubted(bisected("", steps([HUNG] * 10, [HUNG] * 10)))["contradiction"].text


def test_what_a_log_lacks():
    text = bisected("", SURE)
    assert "cut" in doubted(text[: text.index("revisions tested")])
    assert "cut" in doubted(text[: text.index(f"{commit('d')} is the first")])
    assert doubted(text.replace("revisions tested: 4", "revisions tested: 9"))["missing"].weight == "strong"
    gap = text.replace("run #3: OK\n", "", 1)
    assert "run #3" in doubted(gap)["missing"].text


def test_titles_that_look_alike():
    hunted = "KASAN: use-after-free Read in foo"
    assert title_likeness("general protection fault in foo", hunted, at_start=False) == 0.8
    assert title_likeness("KASAN: use-after-free Read in bar", hunted, at_start=False) == 0.6
    assert title_likeness("BUG: MAX_LOCKDEP_KEYS too low!", hunted, at_start=False) == 0.25


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    made = Bisected(tmp_path_factory.mktemp("linear") / "repo")
    made.grow(33)
    return made


@pytest.mark.parametrize("which", [5, 17, 31])
def test_in_a_linear_history_line_and_graph_agree(linear, which):
    culprit = linear.commits[which]
    text = linear.log(culprit, [HUNG, "OK", HUNG, "OK", HUNG], ["OK"] * 5)
    log = read_foreign(text.encode())
    assert log.culprit.commit == culprit
    line = weigh(log, chain(log))
    graph = weigh(log, in_repository(log, Repository(linear.path)))
    assert sum(line.places.sizes[1:]) == pytest.approx(len(linear.commits) - 1, abs=1)
    assert line.claimed == pytest.approx(graph.claimed, rel=0.05)
    assert line.claimed > 0.5
    found = believe(graph, lambda commits: dict.fromkeys(commits, ""))
    assert found.model == "graph"
    assert sum(s.probability for s in found.stretches) <= 1


@pytest.mark.parametrize("fix", [False, True])
def test_merges_are_weighed_on_the_graph(tmp_path, fix):
    made = Bisected(tmp_path / "repo")
    for _ in range(4):
        made.grow(4)
        made.merge(4)
    made.grow(4)
    culprit = made.commits[len(made.commits) // 2]
    log = read_foreign(made.log(culprit, [HUNG] * 5, ["OK"] * 5, fix=fix).encode())
    graph = weigh(log, in_repository(log, Repository(made.path)))
    assert log.culprit.commit == culprit
    assert int(np.argmax(graph.view.weights)) == graph.places.place[culprit]
    assert graph.claimed > 0.95
    assert log.kind == ("fix" if fix else "cause")
    found = believe(graph, lambda commits: dict.fromkeys(commits, ""))
    assert {more.commit for more in found.more} <= set(made.commits)


def test_a_repository_without_the_range_is_an_error(linear):
    log = read_foreign(WRONG.encode())
    with pytest.raises(UserError, match="unknown revision"):
        in_repository(log, Repository(linear.path))
