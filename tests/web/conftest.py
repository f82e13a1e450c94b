"""A store with bugs, and a real server that shows it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from web_logs import fill

from ktriage.case.store import Store, open_store
from ktriage.web.app import create_app
from ktriage.web.settings import Settings


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    """A store with three bugs."""
    opened = open_store(tmp_path / "case.db")
    fill(opened)
    yield opened
    opened.close()


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


@pytest.fixture
def serve(store: Store) -> Iterator[Callable[..., httpx.Client]]:
    """Return what serves the store with other settings, as a client of that."""
    with ExitStack() as stack:

        def start(**settings: object) -> httpx.Client:
            given = {"uploads_a_minute": 1000, **settings}
            address = stack.enter_context(serving(store, Settings(**given)))
            return stack.enter_context(httpx.Client(base_url=address, follow_redirects=True))

        yield start


@pytest.fixture
def client(serve: Callable[..., httpx.Client]) -> httpx.Client:
    """A browser without a screen."""
    return serve()
