"""MAINTAINERS: who looks after a file, by the rules of the kernel's scripts/get_maintainer.pl.

The rules (as of Linux 6.1): an ``F:`` or ``X:`` line is a pattern in which ``*`` and ``?`` are wild, also
for ``/``; one that ends in ``/``, or names a directory, takes everything below it; any other takes what
begins like it and has as many slashes. Other characters mean what they mean in a regular expression.
``N:`` is a regular expression for the path, ``K:`` one for the content. A section with a matching ``X:``
is left out, whatever else of it matches. Sections are told the more specific one first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TAGGED = re.compile(r"([A-Z]):\s*(.*)")
_SPECIAL = re.compile(r"[*?+\[\](){}|^$\\]")
_WILD = -1
"""Depth of a pattern that begins with a wildcard: the least specific."""


@dataclass(slots=True)
class Section:
    """One entry of MAINTAINERS. Values are as they stand there; ``order`` is its place in the file."""

    name: str
    order: int
    tags: list[tuple[str, str]] = field(default_factory=list)

    def values(self, tag: str) -> list[str]:
        """Return the values of a tag's lines, in order."""
        return [value for name, value in self.tags if name == tag]

    @property
    def status(self) -> str:
        """What ``S:`` says last, or an empty string."""
        return next(reversed(self.values("S")), "")


@dataclass(frozen=True, slots=True)
class _Pattern:
    """An ``F:`` or ``X:`` line. ``line`` is its place among the section's lines, ``section`` its index."""

    section: int
    line: int
    excludes: bool
    text: str
    slashes: int
    depth: int
    regex: re.Pattern[str] | None

    def matches(self, path: str, slashes: int) -> bool:
        if not (path.startswith(self.text) if self.regex is None else self.regex.match(path)):
            return False
        return self.text.endswith("/") or slashes == self.slashes


@dataclass(frozen=True, slots=True)
class Match:
    """A section that is concerned: ``by`` is the tag that said so (F, N or K)."""

    section: Section
    depth: int
    by: str


def read_sections(text: str) -> list[Section]:
    """Return the sections of a MAINTAINERS file; what stands before the first tagged line is no section.

    A section's name is the last line without a tag before it. Blank lines and those that begin with ``#``
    are nothing.
    """
    sections: list[Section] = []
    name, begun = "", False
    for line in text.splitlines():
        match = _TAGGED.match(line)
        if match:
            if not begun:
                sections.append(Section(name, len(sections)))
                begun = True
            sections[-1].tags.append((match[1], match[2]))
        elif line.strip() and not line.lstrip().startswith("#"):
            name, begun = line.strip(), False
    return sections


class Maintainers:
    """A MAINTAINERS file, indexed by directory.

    ``is_directory`` tells whether a path from the top of the tree is one: a pattern that names one takes
    all below it, also where it has no slash at its end.
    """

    def __init__(self, text: str, is_directory: Callable[[str], bool] = lambda _: False) -> None:
        self.sections = read_sections(text)
        self._by_directory: dict[str, list[_Pattern]] = defaultdict(list)
        self._names: list[tuple[int, int, re.Pattern[str]]] = []
        self._keywords: list[tuple[int, re.Pattern[bytes]]] = []
        self._screen: _Screen | None = None
        for section in self.sections:
            for line, (tag, value) in enumerate(section.tags):
                self._add(section.order, line, tag, value, is_directory)

    def _add(
        self, section: int, line: int, tag: str, value: str, is_directory: Callable[[str], bool]
    ) -> None:
        if tag in "FX":
            pattern, directory = _pattern(section, line, tag == "X", value, is_directory)
            self._by_directory[directory].append(pattern)
        elif tag == "N" and (name := _compiled(value)):
            self._names.append((section, line, name))
        elif tag == "K" and (keyword := _compiled_bytes(value)):
            self._keywords.append((section, keyword))

    def match(self, path: str, content: bytes | None = None) -> list[Match]:
        """Return the sections that look after a file, the most specific first, then those by keyword.

        ``path`` is relative to the top of the tree; a directory's ends in ``/``. ``content`` is the file's
        or a patch's, for the ``K:`` lines; None leaves them out.
        """
        slashes = path.count("/")
        found: dict[int, dict[int, tuple[int, str]]] = defaultdict(dict)
        excluded: set[int] = set()
        for directory in _ancestors(path):
            for pattern in self._by_directory.get(directory, ()):
                if pattern.matches(path, slashes):
                    if pattern.excludes:
                        excluded.add(pattern.section)
                    else:
                        found[pattern.section][pattern.line] = (pattern.depth, "F")
        for section, line, name in self._names:
            if name.search(path):
                found[section][line] = (0, "N")
        matches = []
        for section, lines in found.items():
            if section not in excluded:
                # Of several lines that match, the last one tells how specific the section is.
                depth, by = lines[max(lines)]
                matches.append(Match(self.sections[section], depth, by))
        matches.sort(key=lambda match: (-match.depth, match.section.order))
        named = {match.section.order for match in matches}
        return matches + [match for match in self._by_keyword(content) if match.section.order not in named]

    def _by_keyword(self, content: bytes | None) -> Iterator[Match]:
        if content is None:
            return
        told: set[int] = set()
        for place in self._screened(content):
            section, keyword = self._keywords[place]
            if section not in told and keyword.search(content):
                told.add(section)
                yield Match(self.sections[section], 0, "K")

    def _screened(self, content: bytes) -> list[int]:
        """Return the places of the keywords that may be in ``content``: one pass over it finds them."""
        if self._screen is None:
            self._screen = _Screen([keyword.pattern for _, keyword in self._keywords])
        return self._screen.candidates(content)


class _Screen:
    """Many regular expressions as one Vectorscan database, which may say yes too often and never no."""

    def __init__(self, patterns: list[bytes]) -> None:
        import hyperscan

        self._all = list(range(len(patterns)))
        self._database: hyperscan.Database | None = None
        flags = hyperscan.HS_FLAG_PREFILTER | hyperscan.HS_FLAG_SINGLEMATCH
        database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        try:
            if patterns:
                expressions = [b"(?x)" + pattern for pattern in patterns]
                database.compile(expressions=expressions, ids=self._all, flags=[flags] * len(patterns))
                self._database = database
        except hyperscan.error:
            # One that it can't take: then each is tried by itself.
            self._database = None

    def candidates(self, content: bytes) -> list[int]:
        """Return the places of the patterns that may match, in order."""
        if self._database is None:
            return self._all
        found: set[int] = set()

        def note(place: int, _start: int, _end: int, _flags: int, _context: object) -> None:
            found.add(place)

        self._database.scan(content, match_event_handler=note)
        return sorted(found)


def _ancestors(path: str) -> Iterator[str]:
    """Yield the directories above a path, the top (an empty string) first, each with its slash."""
    yield ""
    place = path.find("/")
    while place >= 0:
        yield path[: place + 1]
        place = path.find("/", place + 1)


def _pattern(
    section: int, line: int, excludes: bool, value: str, is_directory: Callable[[str], bool]
) -> tuple[_Pattern, str]:
    """Return a pattern and the directory that everything it can match is in or below."""
    value = value.strip()
    if not value.endswith("/") and "." not in value and is_directory(value):
        value += "/"
    special = _SPECIAL.search(value)
    literal = value if special is None else value[: special.start()]
    if special and special[0] in "+{":
        # A quantifier: the character before it need not be there.
        literal = literal[:-1]
    regex = None
    if special:
        translated = value.replace(".", r"\.").replace("*", ".*").replace("?", ".")
        regex = _compiled(translated, flags=0)
    slashes = value.count("/")
    depth = slashes if value.endswith("/") else slashes + 1
    pattern = _Pattern(
        section=section,
        line=line,
        excludes=excludes,
        text=value,
        slashes=slashes,
        depth=_WILD if value.startswith("*") else depth,
        regex=regex or (re.compile(re.escape(value)) if special else None),
    )
    return pattern, literal[: literal.rfind("/") + 1]


def _compiled(value: str, flags: int = re.VERBOSE) -> re.Pattern[str] | None:
    """Compile a line's regular expression; None for one that is none: the line then matches nothing."""
    try:
        return re.compile(value, flags | re.ASCII)
    except re.error:
        return None


def _compiled_bytes(value: str) -> re.Pattern[bytes] | None:
    try:
        return re.compile(value.encode(), re.VERBOSE)
    except re.error:
        return None
