"""The two families of errors, with one root.

``UserError`` is what a person can put right: a missing file, a wrong key, an unknown revision.
``MachineryError`` is what failed under us: a full disk, a QEMU that died, a git that did not answer.
Only ``cli`` turns either into an exit code. Both carry data beside the text, so that a caller
can decide without reading English.
"""

from __future__ import annotations


class KtriageError(Exception):
    """Root of all errors that ktriage raises on purpose.

    ``message`` is one line that says what and where; ``hint``, where there is one, says what to do next.
    ``data`` holds whatever the message was made of, by name.
    """

    def __init__(self, message: str, *, hint: str | None = None, **data: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UserError(KtriageError):
    """Bad input or usage: the person who called can mend it. Exit code 2."""


class MachineryError(KtriageError):
    """Something under ktriage failed: the disk, QEMU, git, the network."""
