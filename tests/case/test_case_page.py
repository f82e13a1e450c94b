from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from case_sample import CULPRIT, SUBJECTS, commit_hash, sample_case, sample_crash, sample_log

from ktriage.case.bisection import from_log
from ktriage.case.page import history_rows, render_page
from ktriage.case.plot import MOST_ROWS, belief_map, entropy
from ktriage.case.types import Bisection, CaseFile, Commit, Run, fixed_cost
from ktriage.words import OutcomeKind

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Strict(HTMLParser):
    """Notes unbalanced tags, whatever may load or run, and all ids and links within the page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.bad: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"script", "iframe", "object", "embed", "link", "img", "form", "base"}:
            self.bad.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in {"href", "src", "xlink:href"} and not value.startswith("#")):
                self.bad.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value[1:])
            if name in {"aria-labelledby", "aria-describedby"}:
                self.links += value.split()

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"</{tag}>")

    def handle_data(self, data):
        self.words.append(data)


def parse(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert parser.bad == []
    assert len(parser.ids) == len(set(parser.ids))
    assert set(parser.links) <= set(parser.ids)
    return parser


def test_page_is_whole_and_alone():
    page = render_page(sample_case())
    said = " ".join(parse(page).words)
    for words in (
        SUBJECTS[CULPRIT],
        commit_hash(CULPRIT)[:12],
        "below zero",
        "ulp stands at -1",
        "[bisected]",
    ):
        assert words in said
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_nothing_from_a_log_becomes_markup():
    nasty = '"><script>x</script>\x1b[31m\u202e</svg></title>'
    crash = replace(sample_crash(), title=nasty, text=nasty, comm=nasty, taint=nasty)
    case = sample_case()
    change = replace(case.culprit, subject=nasty, message=nasty, diff=nasty, author=nasty)
    bisection = replace(
        case.bisection, commits=tuple(replace(c, subject=nasty) for c in case.bisection.commits)
    )
    page = render_page(
        replace(case, title=nasty, crash=crash, culprit=change, bisection=bisection, mail=nasty, kernel=nasty)
    )
    parse(page)
    assert "<script" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\u241b[31m" in page


@pytest.mark.parametrize(
    "field", ["bisection", "culprit", "crash", "modules_before", "modules_after", "vmcore", "mail"]
)
def test_a_case_without_one_thing_still_renders(field):
    parse(render_page(sample_case(**{field: None})))


def test_an_empty_case_renders():
    parse(render_page(CaseFile("nothing yet")))


def test_what_became_of_the_culprit_is_said():
    case = sample_case()
    fix = Commit("f" * 40, "ulp: mend it", "Mend R", "2026-05-06T00:00:00+00:00")
    for later, words in (
        ((("fixes", fix),), "fixed by ffffffffffff ulp: mend it"),
        ((), "neither reverted nor fixed"),
    ):
        said = " ".join(
            " ".join(
                parse(render_page(replace(case, culprit=replace(case.culprit, later=later)))).words
            ).split()
        )
        assert words in said
    assert "Since then" not in render_page(case)


def test_no_culprit_is_said():
    bisection = replace(
        sample_case().bisection, verdict="not-in-range", reason="It crashes on the good revision."
    )
    said = " ".join(parse(render_page(sample_case(bisection=bisection, culprit=None))).words)
    assert "Not in range" in said
    assert "It crashes on the good revision." in said
    assert "sure that this is it" not in said


def test_log_is_read_into_runs_and_beliefs():
    log = sample_log()
    bisection = from_log(log)
    assert len(bisection.runs) == len(bisection.beliefs) == len(bisection.entropies) == len(log.runs)
    assert bisection.candidates()[0].hash == commit_hash(CULPRIT)
    assert bisection.entropies[-1] < 0.1
    assert entropy(bisection.beliefs[-1], len(SUBJECTS)) == pytest.approx(bisection.entropies[-1], abs=1e-9)
    assert ("its parent", "did not crash") in bisection.verification


def test_an_interrupted_log_is_read():
    log = sample_log()
    bisection = from_log(replace(log, records=log.records[:9]))
    assert bisection.verdict == "inconclusive"
    parse(render_page(CaseFile("x", bisection=bisection)))


def test_map_places_every_run_in_its_row():
    bisection = sample_case().bisection
    drawn = belief_map(bisection)
    assert len(drawn.glyphs) == len(bisection.runs)
    top = {row.commit.hash: row.y for row in drawn.rows}
    for glyph in drawn.glyphs:
        assert top[glyph.run.commit] < glyph.y < top[glyph.run.commit] + 20
        assert drawn.left < glyph.x < drawn.right
    for cell in drawn.cells:
        assert drawn.left <= cell.x
        assert cell.x + cell.width <= drawn.right + 1e-6
        assert 0 < cell.shade <= 1


def test_a_long_range_is_drawn_in_few_rows():
    commits = tuple(
        Commit(f"{i:040x}", f"commit {i}", probability=0.9 if i == 7000 else 1e-5) for i in range(16000)
    )
    runs = tuple(Run(n, f"{n * 53:040x}", OutcomeKind.OK) for n in range(1, 300))
    bisection = Bisection("culprit", commits, runs, beliefs=({commits[7000].hash: 0.9},) * 299)
    drawn = belief_map(bisection)
    assert len(drawn.rows) <= 2 * MOST_ROWS + 1
    assert sum(row.count for row in drawn.rows) == 16000
    assert any(row.culprit for row in drawn.rows)
    page = render_page(CaseFile("long", bisection=bisection))
    parse(page)
    assert len(page) < 1_000_000


def test_history_counts_outcomes_by_revision():
    commits = (Commit("a" * 40, "one"), Commit("b" * 40, "two", probability=1.0))
    kinds = [OutcomeKind.OK, OutcomeKind.CRASHED, OutcomeKind.INFRA, OutcomeKind.OTHER_CRASH]
    runs = tuple(Run(i + 1, "b" * 40, kind, title="T" if i == 3 else None) for i, kind in enumerate(kinds))
    rows = history_rows(Bisection("culprit", commits, runs))
    assert [row.summary for row in rows] == ["1 of 3 crashed, 1 ok, 1 other-crash, 1 infra (T)"]


def test_revisions_that_build_to_the_same_are_said():
    commits = tuple(Commit(letter * 40, letter, probability=0.3) for letter in "abc")
    signatures = {"a": "x", "b": "x", "c": "y"}
    runs = tuple(
        Run(n, c.hash, OutcomeKind.OK, signature=signatures[c.subject]) for n, c in enumerate(commits, 1)
    )
    rows = {row.commit.subject: row.same for row in history_rows(Bisection("candidates", commits, runs))}
    assert rows == {"a": ("b" * 12,), "b": ("a" * 12,), "c": ()}


def test_fixed_cost_is_ten_runs_at_each_halving():
    commits = tuple(Commit(f"{i:040x}", "") for i in range(33))
    runs = (Run(1, commits[0].hash, OutcomeKind.OK, seconds=2.0, build_seconds=5.0),)
    cost = fixed_cost(Bisection("culprit", commits, runs, vms=2))
    assert (cost.revisions, cost.runs) == (6, 60)
    assert cost.seconds == pytest.approx(6 * (5 + 10 * 2 / 2))


def test_style_has_both_schemes_and_print():
    page = render_page(CaseFile("x"))
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    colours = set(re.findall(r"var\((--[a-z-]+)\)", page))
    assert colours <= set(re.findall(r"(--[a-z-]+):", page))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "grounds"),
    [
        ("ink", ["paper", "panel", "add", "del", "mark"]),
        ("soft", ["paper", "panel", "mark"]),
        ("belief-ink", ["paper", "panel"]),
        ("mark-ink", ["mark"]),
        *((outcome, ["paper", "panel"]) for outcome in ("crashed", "ok", "other", "hung", "none")),
    ],
)
def test_text_stands_out_from_its_ground(scheme, text, grounds):
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    style = render_page(CaseFile("x"))
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    for ground in grounds:
        high, low = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
