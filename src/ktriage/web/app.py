"""The web application: pages, REST and what they share."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ktriage import __version__
from ktriage.case.store import open_store
from ktriage.errors import KtriageError, MachineryError, UserError
from ktriage.web import api, pages
from ktriage.web.context import Web
from ktriage.web.render import page, warm
from ktriage.web.security import SecurityHeaders
from ktriage.web.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ktriage.case.store import Store

STATIC = Path(__file__).parent / "static"
CASE_STYLE = Path(__file__).parents[1] / "case" / "templates" / "page.css"
THREADS = 3
"""Requests that a process answers at once: of more, all would end late, for there is one interpreter."""
RETRY_SECONDS = 2.0
FORM_ROOM = 64 << 10
"""Bytes of a form beside the log in it."""


def create_app(store: Store, settings: Settings | None = None) -> FastAPI:
    """Return the application that shows ``store``."""
    settings = settings or Settings()
    app = FastAPI(
        title="ktriage",
        version=__version__,
        description="Kernel bugs, their crashes and what was found about them. Reading needs no token; "
        "uploads and changes need `Authorization: Bearer TOKEN`.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_few_threads,
    )
    app.state.web = Web(store, settings)
    app.include_router(pages.router)
    app.include_router(api.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_api_route("/style.css", _style, include_in_schema=False)
    app.add_api_route("/favicon.ico", _icon, include_in_schema=False)
    app.add_exception_handler(UserError, _bad)
    app.add_exception_handler(MachineryError, _failed)
    app.add_exception_handler(OperationalError, _failed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.allowed_hosts)
    app.add_middleware(SecurityHeaders, most=settings.upload_bytes + FORM_ROOM)
    return app


def serve_store(place: str, settings: Settings, parent: int) -> FastAPI:
    """Return the application for one process of a server, which ends with its ``parent``.

    Ends the process where the store can't be opened: the parent starts another one.
    """
    if os.getpid() != parent:
        # PR_SET_PDEATHSIG (prctl(2)): without a parent nobody would end this process, and it has the port.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)
    try:
        return create_app(open_store(place), settings)
    except KtriageError as error:
        sys.stderr.write(f"ktriage serve: {error}\n")
        time.sleep(RETRY_SECONDS)
        sys.exit(1)


@asynccontextmanager
async def _few_threads(_: FastAPI) -> AsyncIterator[None]:
    """Set how many threads answer, and make ready what they need."""
    current_default_thread_limiter().total_tokens = THREADS
    await to_thread.run_sync(warm)
    yield


def _style() -> Response:
    return PlainTextResponse(
        CASE_STYLE.read_text() + (STATIC / "web.css").read_text(),
        media_type="text/css",
        headers={"Cache-Control": "max-age=300"},
    )


def _icon() -> Response:
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def _bad(request: Request, error: Exception) -> Response:
    """Answer what a person got wrong: a bug that is not there, a word that is not known."""
    assert isinstance(error, UserError)
    missing = error.message.startswith("there is no ")
    return _answer(request, 404 if missing else 422, str(error))


def _failed(request: Request, _: Exception) -> Response:
    return _answer(request, 503, "The store does not answer just now: try again.")


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _answer(request, error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if request.url.path.startswith("/api/"):
        return await request_validation_exception_handler(request, error)
    first = error.errors()[0]
    return _answer(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")


def _answer(request: Request, status: int, text: str) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": text}, status)
    return page(request, "error.html.j2", status, status_code=status, text=text)
