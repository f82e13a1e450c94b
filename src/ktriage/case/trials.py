"""What a trial left in its directory, read back."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ktriage.errors import UserError
from ktriage.trial.outcome import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import TypeAdapter


@cache
def _adapter() -> TypeAdapter[Outcome]:
    # pydantic takes 100 ms to load, which who has no outcome to read need not pay.
    from pydantic import TypeAdapter

    return TypeAdapter(Outcome)


def load_outcome(directory: Path) -> Outcome:
    """Return the outcome that a trial left in ``directory``.

    Keys that are not known are passed over. Raises UserError where there is none, or it is not one.
    """
    from pydantic import ValidationError

    path = directory / "outcome.json"
    try:
        return _adapter().validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", path=str(path)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: not the outcome of a trial: {where}: {first['msg']}", path=str(path)
        ) from None
