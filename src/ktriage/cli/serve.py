"""``ktriage serve``: the case store in a browser."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from ktriage.errors import MachineryError, UserError

if TYPE_CHECKING:
    import argparse

    import uvicorn

HELP = "Show the case store in a browser and as REST; bound to this machine unless told otherwise."
EXAMPLE = "ktriage serve --port 8017"
MOST_WORKERS = 4
"""Processes at most, unless told otherwise: each takes 100 MB, and connections of its own to PostgreSQL."""

SLOW_START_SECONDS = 60
"""A worker that says nothing for so long is replaced; on a busy machine it takes that to start."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--case", metavar="PLACE", help="the store: a file or a PostgreSQL URL")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8017, help="port to listen on, 0 for a free one (8017)")
    parser.add_argument("--name", metavar="HOST", action="append", default=[],
                        help="a further name that it is called by, behind a proxy say")  # fmt: skip
    parser.add_argument(
        "--upload-mib", metavar="N", type=int, default=32, help="largest log that is taken (32)"
    )
    parser.add_argument("--workers", metavar="N", type=int,
                        help="processes that answer (as many as processors, at most 4)")  # fmt: skip
    parser.add_argument("--new-token", metavar="NAME", help="make a token for uploads, print it, and end")
    parser.add_argument("--drop-token", metavar="NAME", help="take a token back, and end")


def run(args: argparse.Namespace) -> int:
    """Run ``ktriage serve``."""
    from ktriage.case.store import open_store

    workers = args.workers if args.workers is not None else min(os.cpu_count() or 1, MOST_WORKERS)
    if not 0 <= args.port < 65536 or args.upload_mib < 1 or workers < 1:
        raise UserError("--port: 0 to 65535; --upload-mib and --workers: at least 1")
    store = open_store(args.case)
    try:
        if args.new_token:
            sys.stdout.write(f"{store.new_token(args.new_token)}\n")
            return 0
        if args.drop_token:
            if not store.drop_token(args.drop_token):
                raise UserError(f"there is no token {args.drop_token!r}")
            return 0
        place = store.engine.url.render_as_string(hide_password=False)
    finally:
        store.close()
    with tempfile.TemporaryDirectory(prefix="ktriage-serve-") as folder:
        _serve(args, place, workers, f"{folder}/limits")
    return 0


def _serve(args: argparse.Namespace, place: str, workers: int, limits: str) -> None:
    """Listen, say where, and serve until a signal ends it."""
    try:
        import uvicorn
        from uvicorn.config import STARTUP_FAILURE
        from uvicorn.supervisors import Multiprocess

        from ktriage.web.app import serve_store
        from ktriage.web.settings import Settings
    except ImportError as error:
        raise UserError(f"{error.name} is not installed", hint="pip install 'ktriage[web]'") from error
    settings = Settings(
        args.host, args.port, tuple(args.name), upload_bytes=args.upload_mib << 20, limits=limits
    )
    config = uvicorn.Config(
        partial(serve_store, place, settings, os.getpid()), factory=True, workers=workers, host=args.host,
        port=args.port, log_level="warning", server_header=False, timeout_graceful_shutdown=3,
        timeout_worker_healthcheck=SLOW_START_SECONDS,
    )  # fmt: skip
    sock = _listen(config)
    host, port = sock.getsockname()[:2]
    sys.stderr.write(
        f"ktriage serves http://{f'[{host}]' if ':' in host else host}:{port}/ (ctrl-C ends it)\n"
    )
    sys.stderr.flush()
    if workers == 1:
        # uvicorn raises the signal that ended it once more: that is no failure.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: sys.exit(0))
        uvicorn.Server(config).run(sockets=[sock])
        return
    supervisor = Multiprocess(config, sockets=[sock])
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise MachineryError("a worker did not start: it has said why above")


def _listen(config: uvicorn.Config) -> socket.socket:
    try:
        sock = config.bind_socket()
    except SystemExit:
        raise MachineryError(f"{config.host}:{config.port}: can't be listened on; is it in use?") from None
    # asyncio sets this on sockets that say they are TCP's, which those of this one do not; without it each
    # answer on a kept connection waits 40 ms for the acknowledgement of its headers. They inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A connection is handed over with its first request: a worker takes all there are, and would be left with
    # those of many readers who come at once while others have none (tcp(7)).
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
    # Who reads the address may connect at once.
    sock.listen(config.backlog)
    return sock
