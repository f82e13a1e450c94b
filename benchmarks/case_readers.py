"""Readers of a store's pages and a machine that uploads; used by ``case.py``.

All readers are in one thread, each with a connection that is kept, over bare sockets: they share the
processors with the server, and a client that parses would take more of them than the server does.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = 1 << 18
ARRIVAL = 0.5
"""Seconds within which readers who do not wait come."""
Request = tuple[str, bytes]
"""What is asked for, by the name under which its times are counted, and the bytes that ask."""


@dataclass(slots=True)
class Reader:
    """A connection, and the answer that is under way on it; ``due`` is when it asks next."""

    number: int
    sock: socket.socket
    asked: int = 0
    name: str = ""
    began: float = 0.0
    due: float | None = None
    got: bytearray = field(default_factory=bytearray)

    def ask(self, request: Request) -> None:
        """Send a request."""
        self.name, data = request
        self.asked += 1
        self.due = None
        self.got.clear()
        self.began = time.monotonic()
        self.sock.setblocking(True)
        self.sock.sendall(data)
        self.sock.setblocking(False)

    def take(self) -> bool:
        """Take what has come; return whether it is the whole answer. Raises ConnectionError for a bad one."""
        data = self.sock.recv(ROOM)
        if not data:
            raise ConnectionError("the server closed a connection")
        self.got += data
        end = self.got.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self.got[:end]).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self.got) < end + 4 + length:
            return False
        if not head.startswith((b"http/1.1 200", b"http/1.1 201")):
            raise ConnectionError(head.split(b"\r\n")[0].decode())
        return True


def measure(
    address: str,
    readers: int,
    seconds: float,
    request: Callable[[int, int, str], Request],
    *,
    pause: float = 0.0,
    upload: Callable[[int, str], Request] | None = None,
    upload_seconds: float = 1.0,
) -> dict[str, list[float]]:
    """Let readers read for some seconds; return milliseconds by the name of what was asked for, sorted.

    ``request`` gives what reader ``n`` asks for as its ``k``-th; it waits ``pause`` seconds before the next.
    ``upload`` gives what a further connection sends, one in ``upload_seconds``.
    """
    where = urlsplit(address)
    assert where.hostname
    all_ = [
        Reader(n, socket.create_connection((where.hostname, where.port or 80))) for n in range(readers + 1)
    ]
    times: dict[str, list[float]] = defaultdict(list)
    with selectors.DefaultSelector() as selector:
        now = time.monotonic()
        for reader in all_[:readers]:
            reader.due = now + (pause or ARRIVAL) * reader.number / readers
        all_[-1].due = now if upload is not None else None
        for reader in all_:
            selector.register(reader.sock, selectors.EVENT_READ, reader)
        end = now + seconds
        while now < end or any(reader.due is None and reader.name for reader in all_):
            for reader in all_:
                if reader.due is not None and reader.due <= now < end:
                    last = reader is all_[-1]
                    assert not last or upload is not None
                    reader.ask(upload(reader.asked, where.netloc) if last and upload
                               else request(reader.number, reader.asked, where.netloc))  # fmt: skip
            dues = [reader.due - now for reader in all_ if reader.due is not None and now < end]
            for key, _ in selector.select(max(0.0, min(dues, default=0.2))):
                reader = key.data
                if reader.take():
                    now = time.monotonic()
                    times[reader.name].append(1000 * (now - reader.began))
                    reader.name = ""
                    last = reader is all_[-1]
                    reader.due = max(now, reader.began + upload_seconds) if last else now + pause
            now = time.monotonic()
    for reader in all_:
        reader.sock.close()
    return {name: sorted(taken) for name, taken in times.items()}


def told(times: list[float]) -> str:
    """Say how long something took: the median, and how long all but one in twenty took at most."""
    late = times[min(len(times) - 1, int(len(times) * 0.95))]
    return f"median {statistics.median(times):5.0f} ms, 95% within {late:5.0f} ms ({len(times)})"
