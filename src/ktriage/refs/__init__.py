"""Reference counts in traces: who took a reference, who dropped it, and which ones were lost."""

from __future__ import annotations

from ktriage.refs.read import read_traces
from ktriage.refs.types import Account, Holder, Unmatched, Wrong

__all__ = ["Account", "Holder", "Unmatched", "Wrong", "read_traces"]
