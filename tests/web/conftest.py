"""A store with bugs, and a real server that shows it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import httpx
import pytest
from web_findings import fill_findings
from web_logs import fill
from web_server import serving

from ktriage.case.store import Store, open_store
from ktriage.web.settings import Settings


@pytest.fixture(scope="session")
def filled(tmp_path_factory) -> tuple[Path, int]:
    """A file with three bugs and one with findings of each kind, whose number is given: made once."""
    folder = tmp_path_factory.mktemp("found")
    opened = open_store(folder / "case.db")
    fill(opened)
    with redirect_stdout(io.StringIO()):
        number = fill_findings(opened, folder)
    opened.close()
    return folder / "case.db", number


@pytest.fixture
def found(filled: tuple[Path, int]) -> int:
    """The number of the bug with findings of each kind, which the store then has."""
    return filled[1]


@pytest.fixture
def store(tmp_path, request) -> Iterator[Store]:
    """A store with three bugs; of its own, whatever a test does to it."""
    path = tmp_path / "case.db"
    if has_found := "found" in request.fixturenames:
        shutil.copy(request.getfixturevalue("filled")[0], path)
    opened = open_store(path)
    if not has_found:
        fill(opened)
    yield opened
    opened.close()


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
