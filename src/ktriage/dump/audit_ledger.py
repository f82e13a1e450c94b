"""What a trace's ledger says of modules: the output of ``ktriage refs read --json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ktriage.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 1 << 28


class LedgerUse(BaseModel):
    """References on one call path: held at the trace's end, or taken and never put."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    function: str
    path: tuple[str, ...] = ()
    holder: str = ""
    count: int = 1
    certainty: str | None = None
    static: bool = False


class LedgerEntry(BaseModel):
    """One object of a ledger; for modules ``object`` is the name."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    object: str
    kind: str = "module"
    static_uses: int | None = None
    dynamic_uses: int | None = None
    unmatched_gets: tuple[LedgerUse, ...] = ()
    unmatched_puts: tuple[LedgerUse, ...] = ()
    holders: tuple[LedgerUse, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the object that stands in a module's audit."""
        return self.model_dump(mode="json")


def read_ledger(path: Path) -> dict[str, LedgerEntry]:
    """Return a ledger's modules by name.

    Raises UserError with the line where the file is missing, too large or no ledger.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: too large for a ledger", path=str(path))
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", path=str(path)) from error
    found: dict[str, LedgerEntry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = LedgerEntry.model_validate_json(line)
        except ValidationError as error:
            raise UserError(
                f"{path}:{number}: no ledger: {error.errors(include_url=False)[0]['msg']}",
                hint="`ktriage refs read --json TRACE` writes one",
            ) from error
        if entry.kind == "module":
            found[entry.object.replace("-", "_")] = entry
    return found
