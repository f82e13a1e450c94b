"""What a store holds, in forms that others read: KCIDB, syzbot's JSON, JUnit, Markdown, mbox."""

from __future__ import annotations

from ktriage.case.formats.bundle import BugBundle, bundle

__all__ = ["BugBundle", "bundle"]
