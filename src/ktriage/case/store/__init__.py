"""What was found, kept: bugs, their crashes and logs, and all that was worked out about them.

``open_store`` opens a store; ``Store`` has what is done with it.
"""

from __future__ import annotations

from ktriage.case.store.database import default_place, open_store
from ktriage.case.store.store import Store

__all__ = ["Store", "default_place", "open_store"]
