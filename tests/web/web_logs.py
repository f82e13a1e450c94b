"""Logs to hand in, and forms as a browser sends them."""

from __future__ import annotations

import re
from typing import Any

from ktriage.case.store import Store
from ktriage.console import read_crashes

OOPS = """[    1.{number:06d}] Linux version 6.1.0 (a@b) #1
[   12.345678] BUG: kernel NULL pointer dereference, address: 0000000000000018
[   12.345680] Oops: 0000 [#1] PREEMPT SMP
[   12.345681] CPU: 0 PID: 81 Comm: {comm} Not tainted 6.1.0 #1
[   12.345682] RIP: 0010:{function}+0x9/0x20
[   12.345683] Call Trace:
[   12.345685]  {caller}+0x1be/0x22c
[   12.345686]  do_syscall_64+0x5d/0x90
"""


def oops(function: str, *, number: int = 0, comm: str = "sh", caller: str = "vfs_write") -> bytes:
    """Return a log with an oops."""
    return OOPS.format(function=function, number=number, comm=comm, caller=caller).encode()


def fill(store: Store) -> None:
    """Put some bugs into a store."""
    for number, function in enumerate(("tcp_alpha", "tcp_alpha", "udp_beta", "ext4_gamma")):
        log = oops(function, number=number, caller="inet_common" if number < 3 else "ext4_common")
        store.add_log(f"/logs/{number}.log", log, read_crashes(log), when=1_700_000_000.0 + number)


def form(client: Any, path: str, files: Any = None, **data: str) -> Any:
    """Load a page with a form, and send it with its token."""
    return client.post(path, data={"csrf": token(client), **data}, files=files)


def token(client: Any) -> str:
    """Return the token of the form that a page has."""
    found = re.search(r'name="csrf" value="([^"]+)"', client.get("/bugs/1").text)
    assert found
    return found[1]
