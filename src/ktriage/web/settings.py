"""How the web part is set up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

LOCAL = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where it listens and what it takes.

    ``hosts`` are the names by which it may be called: others are refused, so that no foreign page can reach
    it by a name that it made point here. ``upload_bytes`` bounds a log, ``uploads_a_minute`` what one address
    may send; ``limits`` is the file by which all processes of a server know how much that was.
    """

    host: str = "127.0.0.1"
    port: int = 8017
    hosts: tuple[str, ...] = ()
    upload_bytes: int = 32 << 20
    uploads_a_minute: int = 60
    keep: int = 40
    limits: str = ":memory:"

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it; then a form may upload without a token."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def allowed_hosts(self) -> list[str]:
        """Return the names of Host that are answered."""
        mine = {*LOCAL, *self.hosts}
        if not self.local and self.host not in ("0.0.0.0", "::"):  # noqa: S104 (only compared)
            mine.add(self.host)
        return sorted(mine)
