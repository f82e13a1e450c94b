"""The people of a source tree: its MAINTAINERS, .mailmap and .get_maintainer.ignore together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ktriage.people.addresses import Mailmap, addresses_in, split_address, split_addresses
from ktriage.people.maintainers import Maintainers
from ktriage.people.recipients import CC, TO, Recipients

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ktriage.people.maintainers import Section

CHIEF = "buried alive in reporters"
"""The status of THE REST: its maintainer gets no mail for being the last resort."""
SUBSCRIBERS_ONLY = "subscribers-only"
ROLES = {
    "supported": "supports",
    "maintained": "maintains",
    "odd fixes": "does odd fixes to",
    "orphan": "minds the orphaned",
    "obsolete": "minds the obsolete",
}


@dataclass(frozen=True, slots=True)
class People:
    """Who looks after the files of a tree.

    ``ignored`` are addresses that want no mail but what they stand for in MAINTAINERS.
    """

    maintainers: Maintainers
    mailmap: Mailmap
    ignored: tuple[str, ...] = ()

    @classmethod
    def of_folder(cls, root: Path) -> People:
        """Read the people of a tree on disk. Files that are not there are empty."""
        return cls.of_files(lambda name: _text(root / name), lambda path: (root / path).is_dir())

    @classmethod
    def of_files(cls, read: Callable[[str], str], is_directory: Callable[[str], bool]) -> People:
        """Read the people of a tree whose files ``read`` returns by name, empty where there is none."""
        ignored = (split_address(line)[1] for line in read(".get_maintainer.ignore").splitlines())
        return cls(
            Maintainers(read("MAINTAINERS"), is_directory),
            Mailmap(read(".mailmap")),
            tuple(address for address in ignored if address),
        )

    def collect(
        self,
        files: Mapping[str, bytes | None],
        *,
        maintainers: str = TO,
        into: Recipients | None = None,
    ) -> Recipients:
        """Collect who looks after files: maintainers into the field ``maintainers``, others into Cc.

        ``files`` are paths from the top of the tree, with their contents where these are to count.
        """
        found = into or Recipients(unless_listed=self.ignored)
        concerned: dict[int, tuple[Section, list[str]]] = {}
        for path, content in files.items():
            for match in self.maintainers.match(path, content):
                note = f"a keyword in {path}" if match.by == "K" else path
                concerned.setdefault(match.section.order, (match.section, []))[1].append(note)
        for section, paths in concerned.values():
            self._section(found, section, _paths(paths), maintainers)
        for path, content in files.items():
            self.named_in(path, content or b"", maintainers, found)
        self._lists(found, [section for section, _ in concerned.values()])
        return found

    def named_in(self, path: str, content: bytes, field: str, into: Recipients) -> None:
        """Collect whom a device tree binding names as its maintainers; other files name nobody."""
        if path.endswith(".yaml"):
            for name, address in addresses_in(content):
                into.add(*self.mailmap.map(name, address), field, f"is named in {path}")

    def _section(self, found: Recipients, section: Section, paths: str, field: str) -> None:
        role = ROLES.get(section.status.lower(), "looks after")
        for tag, value in section.tags:
            if tag == "M" and section.status.lower() != CHIEF:
                self._add(found, value, field, f"{role} {section.name} ({paths})")
            elif tag == "R":
                self._add(found, value, CC, f"reviews {section.name} ({paths})")

    def _lists(self, found: Recipients, sections: list[Section]) -> None:
        """Add the lists after all people; those for subscribers only take no mail from others."""
        for section in sections:
            for value in section.values("L"):
                # Of a list that is named as people are, get_maintainer.pl makes its first word: no address.
                address = value.split(" ")[0]
                if "@" in address and SUBSCRIBERS_ONLY not in value:
                    everything = section.name == "THE REST"
                    reason = "is the list for everything" if everything else f"is the list of {section.name}"
                    found.add(*self.mailmap.map("", address), CC, reason, listed=True)

    def _add(self, found: Recipients, value: str, field: str, reason: str) -> None:
        for name, address in split_addresses(value):
            found.add(*self.mailmap.map(name, address), field, reason, listed=True)


def _paths(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
