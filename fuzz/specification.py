"""Fuzz the loading of specifications: a ``Spec`` or one ``UserError`` that names the file, nothing else.

usage: fuzz/specification.py [--cpu-minutes N] [--max-mb N] [LIBFUZZER-OPTION]... [INPUT]...
"""

from __future__ import annotations

import atheris
from pydantic import BaseModel

with atheris.instrument_imports(include=["ktriage"]):
    from ktriage.errors import UserError
    from ktriage.trial.spec import GuestTable, HuntedTable, KernelTable, ModuleTable, RunTable, load_spec

from console_log import ROOT
from harness import fuzz
from ktriage.cache import cache_root

TABLES: dict[str, type[BaseModel]] = {
    "kernel": KernelTable,
    "module": ModuleTable,
    "guest": GuestTable,
    "run": RunTable,
    "hunted": HuntedTable,
}
WORDS = (
    *(f"\n[{table}]\n" for table in TABLES),
    *(f"\n{key} = " for model in TABLES.values() for key in model.model_fields),
    *('"', '"""', "[]", "{}", "true", "1e400", "-1", "nan", "inf", "0x7fffffffffffffff", '"256M"', '["("]'),
    *("1979-05-27", "\\u0000", "folder = ", "[[run]]", "a.b.c = "),
)
_PLACE = cache_root() / "fuzz" / "specification.toml"


def target(data: bytes) -> None:
    """Load a specification."""
    _PLACE.write_bytes(data)
    try:
        spec = load_spec(_PLACE)
    except UserError as error:
        assert error.message.startswith(f"{_PLACE}:"), error.message
        assert "\n" not in error.message, error.message
        return
    assert spec.guest.memory_mib > 0
    assert spec.run.commands
    for file in (*spec.guest.compile, *spec.guest.files.values()):
        spec.path(file)


if __name__ == "__main__":
    _PLACE.parent.mkdir(parents=True, exist_ok=True)
    fuzz("specification", target, [path.read_bytes() for path in ROOT.glob("examples/*/ktriage.toml")], WORDS)
