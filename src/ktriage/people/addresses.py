"""Addresses as MAINTAINERS, .mailmap and device tree bindings have them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED = re.compile(r"([^<]+)<(.+@.*)>.*")
_BARE = re.compile(r"\s*<?(\S+@[^\s>]+)")
_SEVERAL = re.compile(r">\s*,\s*")
_MAILMAP = re.compile(r"(?P<name>[^<]*)<(?P<address>[^>]+)>(?:(?P<old_name>[^<]*)<(?P<old>[^>]+)>)?$")
_IN_FILE = re.compile(
    rb"[A-Za-z\x80-\xc3\"' ,.+-]*\s*,*\s*[(<{]?[A-Za-z0-9_.+-]+@[A-Za-z0-9.-]+\.[A-Za-z0-9]+[)>}]?"
)
_ADDRESS = re.compile(r"[(<{]?([A-Za-z0-9_.+-]+@[A-Za-z0-9.-]+)[)>}]?")


def split_address(text: str) -> tuple[str, str]:
    """Return (name, address) of ``Name <address>`` or a bare address; both empty where there is none."""
    match = _NAMED.fullmatch(text.strip())
    if match:
        return match[1].strip().strip('"').strip(), match[2].strip()
    bare = _BARE.match(text)
    return ("", bare[1]) if bare else ("", "")


def split_addresses(text: str) -> list[tuple[str, str]]:
    """Return the (name, address) of each address in a line that may have several, parted by commas."""
    if text.count("<") < 2:
        found = [split_address(text)]
    else:
        parts = _SEVERAL.split(text)
        found = [split_address(part if part.endswith(">") else f"{part}>") for part in parts]
    return [(name, address) for name, address in found if address]


class Mailmap:
    """A .mailmap (gitmailmap(5)): who is who, and under which address they want mail."""

    def __init__(self, text: str = "") -> None:
        self._by_address: dict[str, tuple[str, str]] = {}
        self._by_both: dict[tuple[str, str], tuple[str, str]] = {}
        for line in text.splitlines():
            match = _MAILMAP.fullmatch(line.partition("#")[0].strip())
            if match:
                self._add(match)

    def _add(self, match: re.Match[str]) -> None:
        name, address = match["name"].strip(), match["address"].strip()
        if match["old"] is None:
            self._learn(address, name, "")
        elif (match["old_name"] or "").strip():
            self._by_both[match["old_name"].strip().lower(), match["old"].strip().lower()] = (name, address)
        else:
            self._learn(match["old"].strip(), name, address)

    def _learn(self, old: str, name: str, address: str) -> None:
        known = self._by_address.get(old.lower(), ("", ""))
        self._by_address[old.lower()] = (name or known[0], address or known[1])

    def map(self, name: str, address: str) -> tuple[str, str]:
        """Return the name and address that someone goes by now."""
        found = self._by_both.get((name.lower(), address.lower())) or self._by_address.get(address.lower())
        return (found[0] or name, found[1] or address) if found else (name, address)


def addresses_in(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the (name, address) that stand in a file, as device tree bindings name their maintainers."""
    for found in _IN_FILE.findall(content):
        name, address = split_address(_ADDRESS.sub(r"<\1>", found.decode("utf-8", "replace"), count=1))
        if address:
            yield _tidy(name), address


def _tidy(name: str) -> str:
    """Return the last two or, with an initial among them, three words of what stands before an address."""
    words = re.split(r"[^\w'.,+-]", name)
    if len(words) > 2:
        first, middle, _ = words[-3:]
        initial = re.fullmatch(r"[A-Za-z]|.\.", first) or re.fullmatch(r".\.?", middle)
        name = " ".join(words[-3:] if initial else words[-2:])
    return name.strip(",. ")
