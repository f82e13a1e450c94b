"""What keeps the web part safe: headers, tokens, forms that only our own pages can send, and limits."""

from __future__ import annotations

import hmac
import secrets
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from fastapi import Request, Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ktriage.case.store import Store

CSRF_COOKIE = "ktriage_csrf"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Puts the headers on every answer, and refuses bodies that are too long while they come in."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most:
                raise HTTPException(413, f"over {self.most >> 20} MiB")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, bounded, with_headers)


class RateLimit:
    """So many calls a minute from each caller: a bucket that fills steadily.

    ``place`` is a file, for processes that share the limit, or ``:memory:``. It is an SQLite database, whose
    locks the kernel takes back from a process that is killed.
    """

    def __init__(self, a_minute: int, place: str = ":memory:") -> None:
        self.a_minute = a_minute
        self._lock = threading.Lock()
        self._file = sqlite3.connect(place, check_same_thread=False, isolation_level=None)
        # Nothing in it outlives the server: it need not reach a disk.
        for pragma in ("journal_mode=MEMORY", "synchronous=OFF"):
            self._file.execute(f"PRAGMA {pragma}")
        self._file.execute(
            "CREATE TABLE IF NOT EXISTS bucket (caller TEXT PRIMARY KEY, fill REAL, last REAL)"
        )

    def take(self, caller: str) -> float:
        """Take one; return 0, or the seconds after which there is one."""
        most = float(self.a_minute)
        # One clock for all processes of a machine (clock_gettime(2)).
        now = time.monotonic()
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            row = self._file.execute("SELECT fill, last FROM bucket WHERE caller = ?", (caller,)).fetchone()
            fill, last = row or (most, now)
            fill = min(most, fill + max(0.0, now - last) * most / 60)
            wait = 0.0 if fill >= 1 else (1 - fill) * 60 / most
            if row is None:
                # A bucket that nothing was taken from for a minute is full, as one that is not there.
                self._file.execute("DELETE FROM bucket WHERE last < ?", (now - 60,))
            self._file.execute(
                "INSERT OR REPLACE INTO bucket VALUES (?, ?, ?)",
                (caller, fill - 1 if fill >= 1 else fill, now),
            )
            self._file.execute("COMMIT")
            return wait


def csrf_token(request: Request) -> str:
    """Return the token that a form of ours has to bring back; the cookie's, or a new one."""
    token = request.cookies.get(CSRF_COOKIE, "")
    return (
        token
        if len(token) == 43 and token.replace("-", "").replace("_", "").isalnum()
        else secrets.token_urlsafe(32)
    )


def set_csrf(response: Response, token: str) -> None:
    """Give the browser the cookie that its form will be compared with."""
    response.set_cookie(CSRF_COOKIE, token, httponly=True, samesite="strict", path="/")


def check_form(request: Request, token: str) -> None:
    """Raise HTTPException unless the form was one of ours, sent from one of our pages."""
    sent = request.cookies.get(CSRF_COOKIE, "")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if (
        not sent
        or not hmac.compare_digest(sent.encode(), token.encode())
        or site not in ("same-origin", "none")
    ):
        raise HTTPException(403, "This form was not sent from here, or cookies are off: load the page again.")


def bearer(request: Request, store: Store) -> str:
    """Return the name of the token that the request brings; raises HTTPException where it brings none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    name = store.token_name(token.strip()) if scheme.lower() == "bearer" and token else None
    if name is None:
        raise HTTPException(
            401,
            "A token is needed: `ktriage serve --new-token NAME` makes one.",
            {"WWW-Authenticate": "Bearer"},
        )
    return name


def limited(request: Request, limit: RateLimit, caller: str | None = None) -> None:
    """Raise HTTPException where a caller sends too much."""
    address = request.client.host if request.client else "?"
    wait = limit.take(caller or address)
    if wait:
        raise HTTPException(429, "Too many uploads: wait a little.", {"Retry-After": str(int(wait) + 1)})
