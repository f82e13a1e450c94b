"""Fuzz the reading of journald's exports: no exception, and the same entries from both of its forms.

usage: fuzz/journal.py [--cpu-minutes N] [--max-mb N] [LIBFUZZER-OPTION]... [INPUT]...

It begins with a boot in either form.
"""

from __future__ import annotations

import json

import atheris

with atheris.instrument_imports(include=["ktriage"]):
    from ktriage.console.journal import boots, is_journal, objects, printed

from harness import fuzz

FIELDS = {
    "__CURSOR": "s=1;i=1",
    "__REALTIME_TIMESTAMP": "1700000000000000",
    "__MONOTONIC_TIMESTAMP": "12345678",
    "_BOOT_ID": "0" * 32,
    "_TRANSPORT": "kernel",
    "_HOSTNAME": "box",
    "MESSAGE": "BUG: kernel NULL pointer dereference, address: 0000000000000018",
}
EXPORT = "".join(f"{name}={value}\n" for name, value in FIELDS.items()).encode() + b"\n"
BINARY = EXPORT.replace(b"MESSAGE=BUG", b"MESSAGE\n\x05\0\0\0\0\0\0\0a\n\xff\0b\nNEXT=BUG")
JSON = (
    json.dumps(FIELDS).encode() + b"\n" + json.dumps(FIELDS | {"MESSAGE": [0, 255, 10, 66]}).encode() + b"\n"
)
WORDS = (
    *(f"{name}=" for name in FIELDS),
    *(f'"{name}": "' for name in FIELDS),
    *("\n\n", '"MESSAGE": [', '"MESSAGE": null', "\x05\0\0\0\0\0\0\0", "_SOURCE_MONOTONIC_TIMESTAMP="),
)


def target(data: bytes) -> None:
    """Read an export, as ``ktriage import`` does, and its lines as they come, as ``ktriage watch`` does."""
    is_journal(data)
    found = boots(data)
    assert len({boot.boot for boot in found}) == len(found)
    for boot in found:
        assert boot.text.endswith(b"\n")
        assert boot.when is None or boot.when >= 0
    whole = [printed(entry) for entry in objects(data)]
    assert whole == [printed(entry) for line in data.splitlines(keepends=True) for entry in objects(line)]


if __name__ == "__main__":
    fuzz("journal", target, [EXPORT * 2, BINARY * 2, JSON], WORDS)
