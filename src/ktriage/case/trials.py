"""What a trial left in its directory, read back."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ktriage.console.types import Crash, Frame
from ktriage.errors import UserError
from ktriage.trial.outcome import Outcome
from ktriage.words import OutcomeKind

_FRAME = {field.name for field in fields(Frame)}
_CRASH = {field.name for field in fields(Crash)}
_TUPLES = ("alt_titles", "modules")


def crash_from_json(data: dict[str, Any]) -> Crash:
    """Return the crash that ``Crash.to_json`` made ``data`` of; keys that are not known are passed over."""
    values = {key: value for key, value in data.items() if key in _CRASH}
    stack = values.pop("stack", None) or []
    for key in _TUPLES:
        values[key] = tuple(values.get(key) or ())
    frames = tuple(Frame(**{key: value for key, value in frame.items() if key in _FRAME}) for frame in stack)
    return Crash(**values, stack=frames)


def load_outcome(directory: Path) -> Outcome:
    """Return the outcome that a trial left in ``directory``.

    Raises UserError where there is none, or it is not one.
    """
    path = directory / "outcome.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        crash = crash_from_json(data["crash"]) if data.get("crash") else None
        known = {field.name for field in fields(Outcome)} - {"kind", "crash"}
        values = {key: value for key, value in data.items() if key in known}
        for key in ("evidence", "titles"):
            values[key] = tuple(values.get(key) or ())
        return Outcome(kind=OutcomeKind(data["kind"]), crash=crash, **values)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", path=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the outcome of a trial: {error}", path=str(path)) from error
