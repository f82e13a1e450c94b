"""The pages, and what they refuse."""

from __future__ import annotations

import gzip
import html
import json
import os
import re
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete
from web_findings import FIXTURES, place_of, poisoned
from web_logs import form, oops, token

from ktriage.case.store.models import FindingRow
from ktriage.case.store.timeline import timeline
from ktriage.case.store.types import BugState, FindingKind
from ktriage.cli import main
from ktriage.console import read_crashes
from ktriage.web.security import RateLimit

HOSTILE = "</textarea><script>alert(1)</script>"


def text_of(answer) -> str:
    assert answer.status_code == 200, answer.text[:500]
    return answer.text


def test_the_list_filters_sorts_and_links(client, store):
    page = text_of(client.get("/"))
    assert page.count('<a href="/bugs/') == 3
    assert "3 bugs" in page
    page = text_of(client.get("/", params={"q": "null TCP_"}))
    assert re.findall(r'href="/bugs/\d+">([^<]*)', page) == [
        "BUG: unable to handle kernel NULL pointer dereference in tcp_alpha"
    ]
    assert "Nothing matches" in text_of(client.get("/", params={"q": HOSTILE}))
    assert text_of(client.get("/", params={"function": "ext4_common"})).count('<a href="/bugs/') == 1
    store.mark(1, BugState.FIXED, fixed_by="0123456789ab")
    assert "fixed by <code>0123456789ab</code>" in text_of(client.get("/", params={"state": "fixed"}))
    assert client.get("/", params={"sort": "colour"}).status_code == 422


def test_a_bug_shows_what_is_known(client, store):
    store.add_finding(FindingKind.MAIL, "m", "a mail", {}, bug=1, content=b"Subject: <b>\n\nhello")
    page = text_of(client.get("/bugs/1"))
    for words in (
        "tcp_alpha",
        "inet_common",
        "2 crashes",
        "a mail",
        "Subject: &lt;b&gt;",
        "/logs/1.log",
        "udp_beta",
    ):
        assert words in page, words
    assert client.get("/bugs/77").status_code == 404
    assert "there is no bug 77" in client.get("/bugs/77").text
    assert text_of(client.get("/bugs/1.md")).startswith("# BUG: unable to handle")
    entry = store.crashes(1)[0]
    assert "tcp_alpha" in text_of(client.get(f"/crashes/{entry.id}"))
    log = client.get(f"/crashes/{entry.id}/log")
    assert log.headers["content-type"] == "text/plain; charset=utf-8"
    assert log.text.encode() == oops("tcp_alpha", number=1, caller="inet_common")


def test_a_log_is_pasted_and_a_report_comes_back(client, store):
    page = text_of(form(client, "/upload", text=oops("new_bug").decode()))
    assert "1 crash in this log" in page
    assert "new_bug+0x9/0x20" in page
    assert store.bugs()[1] == 4
    again = text_of(form(client, "/upload", text=oops("new_bug").decode()))
    assert "read before" in again
    packed = text_of(form(client, "/upload", files={"file": ("a.gz", gzip.compress(oops("packed")))}))
    assert "packed+0x9" in packed
    assert "No crash in this log" in text_of(form(client, "/upload", text="all is well"))
    assert form(client, "/upload", text=" ").status_code == 422
    assert (
        form(client, "/upload", files={"file": ("a.gz", gzip.compress(b"x" * 9999)[:-9])}).status_code == 422
    )


def test_what_a_log_says_is_never_markup(client, store):
    log = oops("evil", comm="<script>alert(1)</script>", caller="a<img src=x onerror=alert(1)>b")
    page = text_of(form(client, "/upload", text=log.decode()))
    number = store.bugs(text="evil")[0][0].id
    for text in (page, text_of(client.get(f"/bugs/{number}")), text_of(client.get("/"))):
        assert "<script>alert" not in text
        assert "<img" not in text
    crash = store.crashes(number)[0].id
    log_page = client.get(f"/crashes/{crash}/log")
    assert log_page.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in log_page.headers["content-security-policy"]


def test_every_answer_has_its_headers(client):
    for path in ("/", "/bugs/1", "/bugs/9", "/style.css", "/static/live.js", "/api/v1/bugs", "/nowhere"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"


def test_forms_from_elsewhere_are_refused(client, store):
    mine = token(client)
    bad = [
        ({"csrf": "x" * 43}, {}),
        ({"csrf": "-"}, {}),
        ({"csrf": mine}, {"sec-fetch-site": "cross-site"}),
    ]
    for data, headers in bad:
        answer = client.post("/bugs/1/mark", data={"state": "invalid", **data}, headers=headers)
        assert answer.status_code == 403, data
    assert (
        httpx.post(f"{client.base_url}/bugs/1/mark", data={"state": "invalid", "csrf": mine}).status_code
        == 403
    )
    assert store.bug(1).state == BugState.OPEN
    answer = client.post("/bugs/1/mark", data={"state": "invalid", "csrf": mine})
    assert "invalid" in text_of(answer)
    assert store.bug(1).state == BugState.INVALID
    assert client.post("/bugs/1/mark", data={"state": "nonsense", "csrf": mine}).status_code == 422


def test_a_foreign_name_is_not_answered(client):
    assert client.get("/", headers={"host": "evil.example.org"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:8017"}).status_code == 200


def test_from_other_machines_only_tokens_upload(serve):
    client = serve(host="0.0.0.0", hosts=("lab",))
    assert client.get("/", headers={"host": "lab"}).status_code == 200
    assert "<textarea" not in client.get("/upload").text
    assert "<form" not in client.get("/bugs/1").text
    # Whoever has a cookie of ours can make the form himself: it is refused all the same.
    for path, fields in (("/upload", {"text": "x"}), ("/bugs/1/mark", {"state": "invalid"})):
        mine = {**fields, "csrf": client.cookies.get("ktriage_csrf") or ""}
        assert client.post(path, data=mine).status_code == 403


def test_what_is_too_long_or_too_much_is_refused(serve):
    client = serve(upload_bytes=100_000, uploads_a_minute=3)
    long = form(client, "/upload", text="x" * 200_000)
    assert long.status_code in (400, 413)
    answers = [form(client, "/upload", text=f"log {number}").status_code for number in range(6)]
    assert answers[:2] == [200, 200]
    assert 429 in answers


def test_the_limit_fills_again(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ktriage.web.security.time.monotonic", lambda: now[0])
    limit = RateLimit(2)
    assert [limit.take("a"), limit.take("a")] == [0.0, 0.0]
    assert limit.take("a") == pytest.approx(30.0)
    assert limit.take("b") == 0.0
    now[0] = 31.0
    assert limit.take("a") == 0.0


def test_search_by_a_pasted_report_or_by_functions(client):
    page = text_of(client.get("/search", params={"stack": oops("udp_beta", caller="inet_common").decode()}))
    assert re.findall(r'href="/bugs/\d+">([^<]*)', page)[0].endswith("udp_beta")
    page = text_of(client.get("/search", params={"stack": "? ext4_common+0x1/0x2"}))
    assert re.findall(r'href="/bugs/\d+">([^<]*)', page)[0].endswith("ext4_gamma")
    assert "No bug shares" in text_of(client.get("/search", params={"stack": HOSTILE}))


def test_a_bug_shows_all_that_was_found(client, found):
    page = plain(text_of(client.get(f"/bugs/{found}")))
    for words in (
        "66.7% of the runs crash (2 of 3, 1 more tell nothing; 95% interval: 9.4% to 99.16%)",
        "Command ulp-storm",
        "repro/ulp-storm.c",
        "857 WARN_ON(atomic_dec_if_positive(&module->refcnt) < 0);",
        "The culprit",
        "change 5",
        "+ 5 bad",
        "257 gets, 262 puts; count 1 to -1",
        "put too often 4 ulp-storm-85 tcp_cleanup_ulp ← tcp_v4_destroy_sock",
        "work resetnic_reset() (struct resetnic_priv.reset_wk) crashed while resetnic_remove()",
        "write at queue->head (0x198): queue is NULL",
        "Queued by resetnic_intr → resetnic_intr_handle_misc → resetnic_schedule_reset",
        "held by the task that crashed",
        "narcissus (90) D 0.032 s mutex lock_c [standstill]",
        "ulp_tally -1 0 0 -1 put by someone who had no reference",
        "To Tomas <tomas@example.com> wrote the commit",
        "this was bisected.",
    ):
        assert words in page, words
    assert 'aria-label="Crash rate 66.7%, 95% interval' in text_of(client.get(f"/bugs/{found}"))


def plain(page: str) -> str:
    """Return a page's text as it is read: without markup and drawings."""
    text = re.sub(r"<(svg|style|head)\b.*?</\1>", " ", page, flags=re.DOTALL)
    text = re.sub(r"</?(?:code|span|strong|a)\b[^>]*>", "", text)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_findings_are_to_be_had_as_json(client, found):
    full = {one["kind"]: client.get(f"/api/v1/findings/{one['id']}").json()
            for one in client.get(f"/api/v1/bugs/{found}").json()["findings"]}  # fmt: skip
    assert full["ledger"]["document"]["accounts"][0]["object"] == "ulp_tally"
    assert full["bisection"]["document"]["change"]["subject"] == "change 5"
    assert full["trials"]["document"]["commands"] == ["ulp-storm"]
    assert full["mail"]["text"].startswith("From: Me")
    assert client.get("/api/v1/findings/999").status_code == 404


def test_findings_are_text_whatever_is_in_them(client, store, found):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    poisoned(store, found, hostile)
    pages = [text_of(client.get(f"/bugs/{found}")), text_of(client.get("/findings"))]
    pages += [text_of(client.get(f"/findings/{one.id}")) for one in store.findings(found)]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
    assert sum(page.count("&lt;script&gt;alert(1)") for page in pages) > 300
    mails = [one.id for one in store.findings(found, FindingKind.MAIL)]
    for number in mails:
        answer = client.get(f"/findings/{number}/text")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert "this was bisected." in answer.text


def test_source_lines_of_another_kernel_are_not_shown(client, store, found):
    (source,) = store.findings(found, FindingKind.SOURCE)
    document = json.loads(store.blob(source.blob))
    text = json.dumps({**document, "kernel": "5.10.0"}).encode()
    store.add_finding(FindingKind.SOURCE, "other", "", {}, bug=found, content=text)
    assert text_of(client.get(f"/bugs/{found}")).count("WARN_ON(atomic_dec") == 1
    with store.batch() as connection:
        connection.execute(delete(FindingRow).where(FindingRow.id == source.id))
    assert "WARN_ON(atomic_dec" not in text_of(client.get(f"/bugs/{found}"))


def test_findings_of_another_version_do_no_harm(client, store):
    for kind in FindingKind:
        for number, content in enumerate(
            (b"{", b"[]", b'{"accounts": 1}', b"\xff\0", b'{"a": NaN, "b": "\\ud800"}', None)
        ):
            data = {"recipients": []} if number else {}
            store.add_finding(kind, f"{kind}{number}", f"odd {kind}", data, bug=1, content=content)
    assert "odd dump" in text_of(client.get("/bugs/1"))
    for one in store.findings(1):
        assert client.get(f"/api/v1/findings/{one.id}").status_code == 200
        status = client.get(f"/findings/{one.id}").status_code
        assert status == 404 if one.kind is FindingKind.BISECTION else status == 200, one


def test_a_finding_of_no_bug_is_given_one(client, store, capsys):
    trace = FIXTURES / "refs" / "forgotten-put.txt.zst"
    assert main(["refs", "read", "--case", place_of(store), str(trace)]) == 0
    capsys.readouterr()
    assert "forgetful" in text_of(client.get("/findings"))
    assert "belong to no bug" in text_of(client.get("/"))
    (one,) = store.findings(kind=FindingKind.LEDGER)
    assert form(client, f"/findings/{one.id}/bug", bug="77").status_code == 404
    assert form(client, f"/findings/{one.id}/bug", bug="0").status_code == 422
    assert client.post(f"/findings/{one.id}/bug", data={"bug": 2, "csrf": "x" * 43}).status_code == 403
    page = text_of(form(client, f"/findings/{one.id}/bug", bug="2"))
    assert "Who holds the reference" in page
    assert "There are none" in text_of(client.get("/findings"))


def test_a_bisection_that_was_given_up_is_not_under_way(client, store, found):
    (finding,) = store.findings(found, FindingKind.BISECTION)
    log = Path(finding.data["log"])
    cut = log.with_name("cut.jsonl")
    cut.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    data = {"log": str(cut), "runs": 1}
    store.add_finding(FindingKind.BISECTION, "cut", "a bisection", data, bug=found)
    assert "is under way" in text_of(client.get(f"/bugs/{found}"))
    assert "Under way: 12 runs" in text_of(client.get(f"/bisections/{store.findings(found)[0].id}"))
    os.utime(cut, (1_700_000_000, 1_700_000_000))
    assert "is under way" not in text_of(client.get(f"/bugs/{found}"))


def test_crashes_over_time_are_counted(client, store):
    for number in range(60):
        log = oops("often", number=100 + number, comm=f"t{number}")
        if number % 3 == 0:
            log = log.replace(b"6.1.0", b"5.10.0")
        store.add_log(f"/often/{number}", log, read_crashes(log), when=1_700_000_000.0 + number % 7 * 86400)
    (bug,), _ = store.bugs(text="often")
    line = timeline(store, bug.id)
    assert line is not None
    assert (line.width, line.bins, line.crashes) == (21600, 25, 60)
    assert sum(count for _, _, kernel, count in line.counts if kernel == "5.10.0") == 20
    page = text_of(client.get(f"/bugs/{bug.id}"))
    assert "Each bar is 6 hours." in page
    assert "2023-11-14 18:00: 6 crashes" in page
    assert re.findall(r"<tr><td>([^<]+)</td><td class=\"num\">(\d+)</td>", page)[-1] == (
        "2023-11-14 18:00",
        "9",
    )
