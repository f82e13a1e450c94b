"""Why a configuration symbol is not as it was asked for, read from a tree's Kconfig files.

Only as much of the language (Documentation/kbuild/kconfig-language.rst) as that takes: who depends on what,
what is selected by whom, what is a choice. Values come from the .config that kconfig itself wrote; a macro
such as ``$(cc-option,-x)`` is not called but quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SOURCE_ARCH = "x86"
LEVELS = {"n": 0, "m": 1, "y": 2}
TOKEN = re.compile(r'\s*(&&|\|\||!=|<=|>=|[=!()<>]|"[^"]*"|\'[^\']*\'|\$\([^)]*\)+|[\w./-]+)')
TYPE = re.compile(r"(?:bool|tristate|string|int|hex)\b\s*(\".*)?")
PROMPT = re.compile(r"prompt\b")
SELECT = re.compile(r"(?:select|imply)\s+(\w+)(?:\s+if\s+(.*))?")
MAX_DEPTH = 32
UNKNOWN = "this tree has no such symbol"


@dataclass(slots=True)
class Definition:
    """One place that defines a symbol: what it depends on there, blocks around it included.

    ``choice`` numbers the choice that it is a member of; ``prompt`` says whether a person may set it.
    """

    depends: tuple[str, ...]
    choice: int | None = None
    prompt: bool = False


@dataclass(slots=True)
class Kconfig:
    """Definitions by symbol; by symbol, ``(who, condition)`` for each select or imply of it."""

    definitions: dict[str, list[Definition]] = field(default_factory=dict)
    selects: dict[str, list[tuple[str, str]]] = field(default_factory=dict)


@dataclass(slots=True)
class _Block:
    kind: str
    depends: tuple[str, ...] = ()
    number: int | None = None


class _Reader:
    """Walk the files from the root, with a stack of the blocks that a line stands in."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.found = Kconfig()
        self.blocks: list[_Block] = []
        self.symbol: str | None = None
        self.definition: Definition | None = None
        self.choices = 0

    def read(self, name: str, depth: int = 0) -> None:
        path = self.tree / name.replace("$(SRCARCH)", SOURCE_ARCH)
        if depth > MAX_DEPTH or not path.is_file():
            return
        for line in _statements(path.read_text(errors="replace")):
            word, _, rest = line.partition(" ")
            if word == "source":
                self._end_entry()
                self.read(rest.strip().strip('"'), depth + 1)
            else:
                self._statement(word, rest.strip(), line)

    def _end_entry(self) -> None:
        self.symbol = self.definition = None

    def _statement(self, word: str, rest: str, line: str) -> None:
        if word in ("config", "menuconfig"):
            choice = next((b.number for b in reversed(self.blocks) if b.kind == "choice"), None)
            around = tuple(one for block in self.blocks for one in block.depends)
            self.symbol, self.definition = rest, Definition(around, choice)
            self.found.definitions.setdefault(rest, []).append(self.definition)
        elif word in ("menu", "choice", "if"):
            self._end_entry()
            self.choices += 1
            self.blocks.append(_Block(word, (rest,) if word == "if" else (), self.choices))
        elif word in ("endmenu", "endchoice", "endif"):
            self._end_entry()
            if self.blocks:
                self.blocks.pop()
        elif word == "comment":
            # A comment's own "depends on" belongs to nothing that we keep.
            self.symbol, self.definition = None, Definition(())
        elif line.startswith("depends on "):
            self._depends(line.removeprefix("depends on ").strip())
        elif self.symbol and self.definition:
            self._attribute(line)

    def _depends(self, expression: str) -> None:
        if self.definition is not None:
            self.definition.depends += (expression,)
        elif self.blocks:
            self.blocks[-1].depends += (expression,)

    def _attribute(self, line: str) -> None:
        assert self.symbol
        assert self.definition
        typed = TYPE.fullmatch(line)
        if (typed and typed[1]) or PROMPT.match(line):
            self.definition.prompt = True
        elif selected := SELECT.fullmatch(line):
            self.found.selects.setdefault(selected[1], []).append((self.symbol, selected[2] or "y"))


def _statements(text: str) -> Iterator[str]:
    """Yield the lines of a Kconfig file that say something: joined, stripped, without help texts."""
    help_indent: int | None = None
    pending = ""
    in_help = False
    for raw in text.expandtabs(8).splitlines():
        indent = len(raw) - len(raw.lstrip())
        if in_help:
            if not raw.strip():
                continue
            if help_indent is None:
                help_indent = indent
            if indent >= help_indent > 0:
                continue
            in_help = False
        line = pending + raw.strip()
        if line.endswith("\\"):
            pending = line[:-1] + " "
            continue
        pending = ""
        line = re.sub(r"\s#[^\"]*$", "", line)
        if line in ("help", "---help---"):
            in_help, help_indent = True, None
        elif line and not line.startswith("#"):
            yield re.sub(r"\s+", " ", line)


def read_kconfig(tree: Path) -> Kconfig:
    """Return what the Kconfig files of ``tree`` define, for x86."""
    reader = _Reader(tree)
    reader.read("Kconfig")
    return reader.found


class _Expression:
    """Evaluate an expression of kconfig's with the values of a .config: 0 is n, 1 m, 2 y."""

    def __init__(self, text: str, values: Mapping[str, str]) -> None:
        self.tokens = [token[1] for token in TOKEN.finditer(text)]
        self.values = values
        self.at = 0

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self.at += 1
        return token

    def either(self) -> int:
        value = self.both()
        while self._peek() == "||":
            self._next()
            value = max(value, self.both())
        return value

    def both(self) -> int:
        value = self.one()
        while self._peek() == "&&":
            self._next()
            value = min(value, self.one())
        return value

    def one(self) -> int:
        token = self._next()
        if token == "!":  # noqa: S105 - a token of a language, not a secret
            return 2 - self.one()
        if token == "(":  # noqa: S105 - as above
            value = self.either()
            self._next()
            return value
        left = self._text(token)
        if self._peek() in ("=", "!="):
            same = self._next() == "="
            return 2 if (left == self._text(self._next())) is same else 0
        if self._peek() in ("<", ">", "<=", ">="):
            # Numbers such as GCC_VERSION: what they are compared with is not what a person can mend.
            self._next()
            self._next()
            return 2
        return 2 if token.startswith("$(") else LEVELS.get(left, 2 if left else 0)

    def _text(self, token: str) -> str:
        if token in LEVELS:
            return token
        if token[:1] in ("'", '"'):
            return token[1:-1]
        if token[:1] == "$" or token[:1].isdigit():
            return token
        return self.values.get(token, "n").strip('"')


def evaluate(expression: str, values: Mapping[str, str]) -> int:
    """Return what a dependency comes to: 0 for n, 1 for m, 2 for y. Macros count as y."""
    return _Expression(expression, values).either()


def split_and(expression: str) -> list[str]:
    """Return the terms that an expression joins by ``&&``, without brackets around the whole."""
    text = expression.strip()
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0 and text.startswith("||", at):
            return [text]
        if depth == 0 and text.startswith("&&", at):
            parts.append(text[start:at].strip())
            start = at + 2
    parts.append(text[start:].strip())
    return parts


def why_dropped(kconfig: Kconfig, symbol: str, wanted: str, values: Mapping[str, str]) -> str:
    """Return in words why ``symbol`` is not ``wanted`` in the configuration ``values``."""
    definitions = kconfig.definitions.get(symbol)
    if not definitions:
        return UNKNOWN
    if wanted == "n":
        return _selected_by(kconfig, symbol, values)
    reasons = [_unmet(definition, wanted, values) for definition in definitions]
    if all(reasons):
        return "it needs " + ", or ".join(dict.fromkeys(reasons))
    for definition in definitions:
        taken = _taken(kconfig, definition, symbol, values)
        if taken:
            return f"it is one of a choice, and {taken} is taken"
    if not any(definition.prompt for definition in definitions):
        who = " or ".join(dict.fromkeys(name for name, _ in kconfig.selects.get(symbol, [])))
        return f"it can't be set, only selected, by {who}" if who else "it can't be set: it has a fixed value"
    return "its dependencies are met, as far as the Kconfig files tell"


def _selected_by(kconfig: Kconfig, symbol: str, values: Mapping[str, str]) -> str:
    who = [
        name
        for name, condition in kconfig.selects.get(symbol, [])
        if LEVELS.get(values.get(name, "n"), 0) and evaluate(condition, values)
    ]
    return f"it is selected by {' and '.join(dict.fromkeys(who))}" if who else "it is always set here"


def _unmet(definition: Definition, wanted: str, values: Mapping[str, str]) -> str:
    """Return the terms of a definition's dependencies that keep it below ``wanted``, with their values."""
    level = LEVELS.get(wanted, 1)
    terms = [
        term
        for expression in definition.depends
        for term in split_and(expression)
        if evaluate(term, values) < level
    ]
    return " and ".join(dict.fromkeys(_with_values(term, values) for term in terms))


def _with_values(term: str, values: Mapping[str, str]) -> str:
    plain = re.sub(r"\$\([^)]*\)|\"[^\"]*\"", "", term)
    names = dict.fromkeys(re.findall(r"\b[A-Z0-9]\w*", plain))
    known = ", ".join(f"{name}={values.get(name, 'n')}" for name in names if not name.isdigit())
    return f"{term} ({known})" if known else term


def _taken(kconfig: Kconfig, definition: Definition, symbol: str, values: Mapping[str, str]) -> str | None:
    if definition.choice is None:
        return None
    for name, others in kconfig.definitions.items():
        member = any(other.choice == definition.choice for other in others)
        if member and name != symbol and values.get(name) == "y":
            return name
    return None
