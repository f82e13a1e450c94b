"""The words that every room shares: what a run of a reproducer can come to."""

from __future__ import annotations

from enum import StrEnum


class OutcomeKind(StrEnum):
    """What one run of a reproducer at one revision came to."""

    CRASHED = "crashed"
    """The hunted crash."""
    OTHER_CRASH = "other-crash"
    """A crash, but not the hunted one."""
    HUNG = "hung"
    """The guest stopped answering."""
    OK = "ok"
    """The reproducer ran to its end and nothing crashed."""
    BUILD_FAILED = "build-failed"
    BOOT_FAILED = "boot-failed"
    INFRA = "infra"
    """The machine failed us: it says nothing of the revision."""
