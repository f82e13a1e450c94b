"""A server that is killed with uploads under way: what it acknowledged is there, and nothing by halves."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from sqlalchemy import text
from web_logs import oops

from ktriage.case.store import Store, open_store
from ktriage.case.store.check import check

FUNCTIONS = ("tcp_alpha", "udp_beta", "ext4_gamma")


@contextmanager
def serving(place: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``ktriage serve`` while the block lasts, unless it is killed before; its address is given."""
    command = [sys.executable, "-m", "ktriage", "serve", "--case", place, "--port", "0", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        yield server, next(word for word in server.stderr.readline().split() if word.startswith("http"))
    finally:
        server.terminate()
        assert server.wait(30) in (0, -signal.SIGKILL)


def workers_of(server: subprocess.Popen[str]) -> list[int]:
    """Return the processes that answer."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            if (
                int(parent) == server.pid
                and state != "Z"
                and b"spawn_main" in (place / "cmdline").read_bytes()
            ):
                found.append(int(place.name))
        except OSError:
            continue
    return found


@dataclass
class Uploads:
    """Machines that send log after log, and what was said to be kept of that."""

    store: Store
    sent: dict[str, bytes] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    ends: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, address: str, machines: int = 3) -> None:
        """Begin to send."""
        self.ends.clear()
        tokens = [self.store.new_token(f"machine {len(self.sent)} {number}") for number in range(machines)]
        self.threads = [threading.Thread(target=self._send, args=(address, token)) for token in tokens]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Send no more."""
        self.ends.set()
        for thread in self.threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until so many more were said to be kept."""
        wanted, deadline = len(self.kept) + count, time.monotonic() + 120
        while len(self.kept) < wanted:
            assert time.monotonic() < deadline, "uploads are not answered"
            time.sleep(0.002)

    def _send(self, address: str, token: str) -> None:
        with httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60
        ) as client:
            while not self.ends.is_set():
                number = len(self.sent)
                log = oops(FUNCTIONS[number % 3], number=number) + f"{token}\n".encode()
                digest = hashlib.sha256(log).hexdigest()
                self.sent[digest] = log
                try:
                    answer = client.post("/api/v1/logs", content=log)
                except httpx.TransportError:
                    # The server is gone, or starts anew.
                    time.sleep(0.05)
                    continue
                if answer.status_code == 429:
                    return
                assert answer.status_code == 201, answer.text
                self.kept.add(digest)

    def verify(self) -> int:
        """Hold what is kept against what was said; return how many logs are."""
        assert check(self.store, blobs_too=True) == []
        with self.store.snapshot() as connection:
            rows = connection.execute(
                text(
                    "SELECT log.digest, log.blob, crash.report, title"
                    " FROM log LEFT JOIN crash ON crash.log_id = log.id"
                )
            ).all()
        there = {row.digest for row in rows}
        assert self.kept <= there <= set(self.sent)
        assert len(rows) == len(there)
        for row in rows:
            assert row.report is not None
            assert self.store.blob(row.blob) == self.sent[row.digest]
            assert row.title.rpartition(" ")[2].encode() in self.sent[row.digest]
        assert sum(bug.crashes for bug in self.store.bugs()[0]) == len(rows)
        return len(rows)


def test_killed_at_any_moment_it_has_all_that_it_acknowledged(tmp_path):
    store = open_store(tmp_path / "case.db")
    uploads = Uploads(store)
    for count in (1, 9):
        with serving(tmp_path / "case.db", "--workers", "2") as (server, address):
            uploads.start(address)
            uploads.wait_for(count)
            workers = workers_of(server)
            os.kill(server.pid, signal.SIGKILL)
            uploads.stop()
            assert workers
            deadline = time.monotonic() + 30
            while any(Path(f"/proc/{worker}").exists() for worker in workers):
                assert time.monotonic() < deadline, "a worker outlived its server"
                time.sleep(0.02)
        uploads.verify()
    with serving(tmp_path / "case.db", "--workers", "1") as (_, address):
        token = {"Authorization": f"Bearer {store.new_token('again')}"}
        for digest in uploads.sent.keys() - uploads.kept:
            assert (
                httpx.post(f"{address}api/v1/logs", content=uploads.sent[digest], headers=token).status_code
                == 201
            )
    assert uploads.verify() == len(uploads.sent)
    store.close()


def test_a_worker_that_is_killed_is_replaced(tmp_path):
    store = open_store(tmp_path / "case.db")
    uploads = Uploads(store)
    with serving(tmp_path / "case.db", "--workers", "2") as (server, address):
        uploads.start(address)
        uploads.wait_for(3)
        first = workers_of(server)
        for worker in first:
            os.kill(worker, signal.SIGKILL)
        uploads.wait_for(3)
        uploads.stop()
        assert not set(first) & set(workers_of(server))
    uploads.verify()
    store.close()


def test_all_workers_hold_one_limit(tmp_path):
    store = open_store(tmp_path / "case.db")
    mine = {"Authorization": f"Bearer {store.new_token('eager')}"}
    store.close()
    with serving(tmp_path / "case.db", "--workers", "3") as (_, address):
        httpx.get(address, timeout=60)
        began = time.monotonic()
        # On a connection each: any of the workers may take it.
        answers = [
            httpx.post(f"{address}api/v1/logs", content=b"x", headers=mine, timeout=60).status_code
            for _ in range(150)
        ]
        took = time.monotonic() - began
    assert set(answers) == {201, 429}
    # 60 a minute, and what the bucket gained meanwhile.
    assert 60 <= answers.count(201) <= 62 + took
