"""A real server in a thread of the tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from ktriage.case.store import Store
from ktriage.web.app import create_app
from ktriage.web.settings import Settings


@contextmanager
def serving(store: Store, settings: Settings) -> Iterator[str]:
    """Serve a store while the block lasts; the address is given."""
    config = uvicorn.Config(create_app(store, settings), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
