"""What a request finds of the application that it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from anyio import CapacityLimiter
from fastapi import Request

from ktriage.web.security import RateLimit

if TYPE_CHECKING:
    from ktriage.case.store import Store
    from ktriage.web.settings import Settings

UPLOADS_AT_ONCE = 4


class Web:
    """The store, the settings, and how much has been uploaded lately."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.takers = CapacityLimiter(UPLOADS_AT_ONCE)
        self.uploads = RateLimit(settings.uploads_a_minute, settings.limits)


def web(request: Request) -> Web:
    """Return the application's own things."""
    return cast("Web", request.app.state.web)
