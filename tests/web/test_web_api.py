"""REST: by hand, and by everything that its description allows."""

from __future__ import annotations

import lzma
import subprocess
import sys
from pathlib import Path

from kcidb_io.schema import V5_3
from web_logs import fill, oops
from web_server import serving

from ktriage.case.store import open_store
from ktriage.web.settings import Settings


def test_bugs_crashes_and_exports(client):
    data = client.get("/api/v1/bugs", params={"q": "tcp"}).json()
    assert data["total"] == 1
    bug = data["bugs"][0]
    assert (bug["title"][-9:], bug["crashes"], bug["state"]) == ("tcp_alpha", 2, "open")
    full = client.get(f"/api/v1/bugs/{bug['id']}").json()
    assert full["titles"][bug["title"]] == 2
    crashes = client.get(f"/api/v1/bugs/{bug['id']}/crashes").json()
    assert [crash["source"] for crash in crashes] == ["/logs/1.log", "/logs/0.log"]
    crash = client.get(f"/api/v1/crashes/{crashes[0]['id']}").json()
    assert crash["report"]["frame"] == "tcp_alpha"
    assert client.get(f"/api/v1/crashes/{crashes[0]['id']}/log").content == oops(
        "tcp_alpha", number=1, caller="inet_common"
    )
    V5_3.validate(client.get(f"/api/v1/bugs/{bug['id']}/export", params={"form": "kcidb"}).json())
    alike = client.post("/api/v1/similar", json={"stack": ["udp_beta"]}).json()
    assert alike[0]["bug"]["title"].endswith("udp_beta")
    missing = client.get("/api/v1/bugs/99")
    assert (missing.status_code, missing.json()) == (404, {"detail": "there is no bug 99"})


def test_a_token_lets_logs_in(client, store):
    log = oops("by_token")
    assert client.post("/api/v1/logs", content=log).status_code == 401
    assert client.post("/api/v1/logs", content=log, headers={"Authorization": "Bearer x"}).status_code == 401
    token = store.new_token("ci")
    mine = {"Authorization": f"Bearer {token}"}
    first = client.post("/api/v1/logs?name=a", content=lzma.compress(log), headers=mine)
    assert (first.status_code, len(first.json()["new"]), first.json()["known"]) == (201, 1, False)
    assert client.post("/api/v1/logs", content=log, headers=mine).json()["known"]
    number = first.json()["bugs"][0]
    assert client.patch(f"/api/v1/bugs/{number}", json={"state": "invalid"}).status_code == 401
    changed = client.patch(f"/api/v1/bugs/{number}", json={"state": "fixed", "fixed_by": "abc"}, headers=mine)
    assert (changed.json()["state"], changed.json()["fixed_by"]) == ("fixed", "abc")
    with store.snapshot() as connection:
        kept = str(connection.exec_driver_sql("SELECT * FROM token").all())
    assert token not in kept
    assert store.new_token("ci") != token
    assert client.post("/api/v1/logs", content=log, headers=mine).status_code == 401
    assert store.drop_token("ci")
    assert not store.drop_token("ci")


CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_nothing_that_is_allowed_breaks_it(tmp_path):
    store = open_store(tmp_path / "case.db")
    fill(store)
    token = store.new_token("anyone")
    with serving(store, Settings(uploads_a_minute=1_000_000)) as address:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"), "run", f"{address}/api/openapi.json",
                "--checks", CHECKS, "--header", f"Authorization: Bearer {token}", "--max-examples", "30",
                "--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--no-color",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    store.close()
