"""The case store, on SQLite and on PostgreSQL: one bug a title, nothing twice, nothing lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, inspect, text

from ktriage.case.store import open_store
from ktriage.case.store.check import check
from ktriage.case.store.models import Base
from ktriage.case.store.types import BugState, FindingKind
from ktriage.cli import main
from ktriage.console import read_crashes
from ktriage.errors import UserError


def add(store, log: bytes, **more):
    return store.add_log("a log", log, read_crashes(log), **more)


def test_a_title_is_one_bug_and_a_log_counts_once(store, make_log):
    first = add(store, make_log("alpha"), when=100.0)
    assert (len(first.bugs), first.new, first.known) == (1, first.bugs, False)
    again = add(store, make_log("alpha"), when=100.0)
    assert again.known
    other = add(store, make_log("alpha", number=5), when=200.0)
    assert (other.bugs, other.new) == (first.bugs, ())
    beta = add(store, make_log("beta"), when=50.0)
    assert beta.bugs != first.bugs
    bug = store.bug(first.bugs[0])
    assert (bug.crashes, bug.kept, bug.first_seen, bug.last_seen) == (2, 2, 100.0, 200.0)
    assert bug.title == "BUG: unable to handle kernel NULL pointer dereference in alpha"
    assert bug.stack[:2] == ("alpha", "caller_of_it")
    assert store.titles(bug.id)[0] == (bug.title, 2)
    assert {crashes for _, crashes in store.titles(bug.id)[1:]} == {0}
    found, total = store.bugs()
    assert (total, [b.id for b in found]) == (2, [bug.id, beta.bugs[0]])


def test_an_alternative_title_leads_to_the_same_bug(store, make_log):
    (crash,) = read_crashes(make_log("alpha"))
    first = store.add_log(
        "1", b"1", [replace(crash, title="KASAN: bad in alpha", alt_titles=("bad-access in alpha",))]
    )
    second = store.add_log(
        "2", b"2", [replace(crash, title="other in alpha", alt_titles=("bad-access in alpha",))]
    )
    third = store.add_log("3", b"3", [replace(crash, title="other in alpha", alt_titles=())])
    assert first.bugs == second.bugs == third.bugs
    assert dict(store.titles(first.bugs[0])) == {
        "KASAN: bad in alpha": 1, "other in alpha": 2, "bad-access in alpha": 0,
    }  # fmt: skip


def test_the_best_logs_are_kept_and_no_more_than_asked_for(store, make_log):
    for number in range(6):
        log = make_log("alpha", number=number)
        (crash,) = read_crashes(log)
        worse = replace(crash, corrupted="it is cut") if number < 3 else crash
        store.add_log(str(number), log, [worse], when=float(number), keep=3)
    bug = store.bugs()[0][0]
    assert (bug.crashes, bug.kept) == (6, 3)
    crashes = store.crashes(bug.id)
    assert [crash.source for crash in crashes if crash.report] == ["5", "4", "3"]
    assert json.loads(store.blob(crashes[0].report))["title"] == bug.title
    assert store.blob(crashes[0].log) == make_log("alpha", number=5)
    with store.snapshot() as connection:  # three logs, and the report that they share
        assert connection.execute(text("SELECT count(*) FROM blob")).scalar_one() == 4
    pruned = store.prune(1)
    assert (pruned.crashes, pruned.blobs, store.bug(bug.id).kept) == (2, 2, 1)
    assert [crash.source for crash in store.crashes(bug.id) if crash.report] == ["5"]
    assert store.blob(crashes[0].log) == make_log("alpha", number=5)
    assert store.blob(crashes[1].log) is None
    assert store.prune(1).blobs == 0


def test_what_follows_from_a_crash_is_no_bug_of_its_own(store, make_log):
    log = make_log("alpha") + b"[   13.000000] Kernel panic - not syncing: Fatal exception\n"
    assert len(read_crashes(log)) == 2
    add(store, log)
    assert [bug.title for bug in store.bugs()[0]] == [
        "BUG: unable to handle kernel NULL pointer dereference in alpha"
    ]


def test_marks_merge_and_split(store, make_log):
    a, b, c = (
        add(store, make_log(name), when=when).bugs[0]
        for name, when in (("a1", 1.0), ("b1", 2.0), ("c1", 3.0))
    )
    store.mark(a, BugState.FIXED, fixed_by="1234567890ab")
    assert (store.bug(a).state, store.bug(a).fixed_by) == (BugState.FIXED, "1234567890ab")
    store.mark(a, BugState.OPEN)
    assert store.bug(a).fixed_by is None
    store.mark(b, BugState.DUPLICATE, duplicate_of=a)
    for bug, of in ((a, a), (a, b), (a, None), (a, 99)):
        with pytest.raises(UserError):
            store.mark(bug, BugState.DUPLICATE, duplicate_of=of)
    title = store.bug(c).title
    store.merge(c, a)
    assert (store.bug(a).crashes, store.bug(a).last_seen) == (2, 3.0)
    assert title in dict(store.titles(a))
    with pytest.raises(UserError, match="there is no bug"):
        store.bug(c)
    assert add(store, make_log("c1", number=9)).bugs == (a,)
    new = store.split(a, title)
    assert (store.bug(new).crashes, store.bug(a).crashes) == (2, 1)
    assert add(store, make_log("c1", number=10)).bugs == (new,)
    with pytest.raises(UserError):
        store.split(a, store.bug(a).title)
    store.merge(a, new)
    assert store.bug(b).duplicate_of == new


def test_search_by_words_function_and_likeness(store, make_log):
    alpha = add(store, make_log("tcp_alpha", extra="tcp_common")).bugs[0]
    beta = add(store, make_log("udp_beta", extra="tcp_common")).bugs[0]
    gamma = add(store, make_log("ext4_gamma", extra="ext4_common")).bugs[0]
    assert {bug.id for bug in store.bugs(text="NULL tcp_")[0]} == {alpha, beta}
    assert store.bugs(text="100%_sure")[1] == 0
    assert [bug.id for bug in store.bugs(function="ext4_common")[0]] == [gamma]
    ranked = store.similar(["udp_beta", "tcp_common", "do_syscall_64"])
    assert [bug.id for bug, _ in ranked][:2] == [beta, alpha]
    assert ranked[0][1] > 3 * ranked[1][1]
    assert all(bug.id != gamma or likeness < 0.05 for bug, likeness in ranked)
    with pytest.raises(UserError, match="sorted"):
        store.bugs(sort="colour")


def test_findings_replace_themselves_and_name_the_culprit(store, make_log):
    bug = add(store, make_log("alpha")).bugs[0]
    for probability in (0.5, 0.999):
        data = {"culprit": "c" * 40, "probability": probability}
        store.add_finding(FindingKind.BISECTION, "log of it", "found", data, bug=bug, content=b"all of it")
    (finding,) = store.findings(bug)
    assert (finding.data["probability"], store.blob(finding.blob)) == (0.999, b"all of it")
    assert store.bug(bug).culprit == "c" * 40
    with pytest.raises(UserError):
        store.add_finding(FindingKind.MAIL, "x", "", {}, bug=77)


def test_hostile_text_is_kept(store, make_log):
    (crash,) = read_crashes(make_log("alpha"))
    title = "in \0 \udcff <script>" + "x" * 900
    added = store.add_log("so\0urce", b"1", [replace(crash, title=title, kernel="k" * 900)])
    again = store.add_log("source", b"2", [replace(crash, title=title)])
    assert added.bugs == again.bugs
    assert "<script>" in store.bug(added.bugs[0]).title


def test_a_batch_is_kept_whole_or_not_at_all(store, make_log):
    with pytest.raises(ZeroDivisionError), store.batch():
        add(store, make_log("alpha"))
        _ = 1 / 0
    assert store.bugs()[1] == 0


def test_the_migrations_make_what_the_tables_say(store, place):
    open_store(place).close()
    tables = inspect(store.engine)
    for name, table in Base.metadata.tables.items():
        assert {column["name"] for column in tables.get_columns(name)} == set(table.columns.keys())
        made = {tuple(index["column_names"]) for index in tables.get_indexes(name)}
        wanted = {tuple(column.name for column in index.columns) for index in table.indexes}
        assert wanted <= made


def test_what_is_no_store_is_said(tmp_path, capsys):
    for name, content in (("text", b"not a database at all" * 100), ("folder", None)):
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        with pytest.raises(UserError):
            open_store(path)
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (a INTEGER)"))
    engine.dispose()
    with pytest.raises(UserError, match="no case store"):
        open_store(tmp_path / "other.db")
    for place in ("mysql://x/y", "nonsense://", "postgresql://localhost:1/nobody"):
        with pytest.raises(UserError):
            open_store(place)
    assert main(["import", "--case", str(tmp_path / "text"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_of_a_newer_ktriage_is_left_alone(tmp_path):
    open_store(tmp_path / "case.db").close()
    engine = create_engine(f"sqlite:///{tmp_path}/case.db")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(UserError, match="newer ktriage"):
        open_store(tmp_path / "case.db")


def test_a_bug_is_described_by_its_best_crash_and_found_by_all_its_titles(store, make_log):
    log = make_log("alpha", extra="the_caller")
    (crash,) = read_crashes(log)
    bug = store.add_log("1", b"1", [replace(crash, corrupted="it is cut", stack=crash.stack[:1])]).bugs[0]
    assert store.bug(bug).stack == ("alpha",)
    store.add_log("2", log, [replace(crash, alt_titles=(*crash.alt_titles, "stall in gamma"))])
    store.add_log("3", b"3", [replace(crash, corrupted="it is cut", stack=crash.stack[:2])])
    assert store.bug(bug).stack[:2] == ("alpha", "the_caller")
    for words in ("stall in gamma", "the_caller", "NULL alpha"):
        assert [found.id for found in store.bugs(text=words)[0]] == [bug], words


def test_pages_of_crashes_and_of_bugs_follow_on_each_other(store, make_log):
    for number in range(9):
        add(store, make_log("alpha", number=number), when=float(number), keep=4)
        add(store, make_log(f"beta_{'ghijklmno'[number]}", number=number), when=float(number))
    bug = store.bugs(text="alpha")[0][0].id
    whole = store.crashes(bug)
    assert [crash.report is not None for crash in whole] == [True] * 4 + [False] * 5
    assert [crash.when for crash in whole[4:]] == sorted((crash.when for crash in whole[4:]), reverse=True)
    for size in (1, 3, 4, 5, 9):
        pages = [store.crashes(bug, limit=size, offset=start) for start in range(0, 12, size)]
        assert [crash.id for page in pages for crash in page] == [crash.id for crash in whole]
    bugs, total = store.bugs(text="beta", sort="title")
    assert (total, len(bugs)) == (9, 9)
    pages = [store.bugs(text="beta", sort="title", limit=4, offset=start) for start in (0, 4, 8, 12)]
    assert [bug.id for found, count in pages for bug in found if count == 9] == [bug.id for bug in bugs]
    assert pages[-1] == ([], 9)


def test_counts_agree_with_rows_whatever_is_done(store, place, make_log, capsys):
    for number in range(12):
        log = make_log(f"f_{'ghj'[number % 3]}", number=number)
        crashes = [
            replace(crash, alt_titles=("one of many",)) if number % 2 else crash
            for crash in read_crashes(log)
        ]
        store.add_log(str(number), log, crashes, when=100.0 - number, keep=2)
    bugs = sorted(bug.id for bug in store.bugs()[0])
    assert check(store, blobs_too=True) == []
    store.merge(bugs[-1], bugs[0])
    titles = [title for title, count in store.titles(bugs[0]) if count and title != store.bug(bugs[0]).title]
    new = store.split(bugs[0], titles[0])
    assert (store.bug(new).crashes, store.bug(new).stack[0][:2]) == (4, "f_")
    store.prune(1, before=95.0)
    assert check(store, blobs_too=True) == []
    with store.batch() as connection:
        connection.execute(text("UPDATE bug SET crashes = crashes + 1, kept = 7, last_seen = 0"))
        connection.execute(text("UPDATE title SET crashes = 99 WHERE title LIKE 'BUG%'"))
        connection.execute(text("UPDATE log SET findings = 0 WHERE id = 1"))
    assert main(["case", "check", "--case", place]) == 1
    whats = {(wrong.what, wrong.row.split()[0]) for wrong in check(store, mend=True)}
    assert whats == {
        ("crashes", "bug"),
        ("kept", "bug"),
        ("last crash", "bug"),
        ("crashes", "title"),
        ("crashes", "log"),
    }
    assert main(["case", "check", "--mend", "--case", place]) == 0
    assert "0 things do not agree" in capsys.readouterr().out
    with store.batch() as connection:
        connection.execute(text("UPDATE log SET blob = NULL"))
        connection.execute(text("UPDATE blob SET data = :data"), {"data": b"spoilt"})
    assert {wrong.what for wrong in check(store, blobs_too=True)} == {"log", "content"}
