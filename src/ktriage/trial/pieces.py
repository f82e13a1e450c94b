"""What of a reproducer's text can be taken out by itself: statements of a C program, lines of anything else.

A C program is read by tree-sitter, which also reads what does not compile. Its pieces are nested: a loop is
one, and so is each statement in it. Comments are none; those right above a piece go with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tree_sitter import Node, Parser

HOLDERS = {
    "translation_unit",
    "compound_statement",
    "case_statement",
    "initializer_list",
    "field_declaration_list",
    "enumerator_list",
    "preproc_if",
    "preproc_ifdef",
}
"""Nodes of tree-sitter's C grammar whose children are pieces."""
LISTED = {"initializer_list", "enumerator_list", "declaration"}
"""Those whose children are parted by commas."""
WRAPPERS = {"if_statement", "for_statement", "while_statement", "do_statement", "compound_statement"}
"""Statements that hold others, which may do without them."""
BODIES = ("consequence", "body")
_NO_PIECES = {"comment"}
_CONDITIONS = ("value", "condition", "name", "alternative")


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that can be taken out: ``cuts`` are its bytes, as (start, end) in order.

    ``depth`` says in how many other pieces it can lie. ``fill`` comes in the place of the last cut.
    """

    cuts: tuple[tuple[int, int], ...]
    depth: int
    fill: bytes = b""


def cut(text: bytes, pieces: Iterable[Piece]) -> bytes:
    """Return ``text`` without some pieces, which may lie in each other."""
    spans = [
        (start, end, piece.fill if (start, end) == piece.cuts[-1] else b"")
        for piece in pieces
        for start, end in piece.cuts
    ]
    kept, at = [], 0
    for start, end, fill in sorted(spans):
        kept += [text[at : max(at, start)], fill]
        at = max(at, end)
    return b"".join([*kept, text[at:]])


def line_pieces(text: bytes, *, comments: bool = True) -> list[Piece]:
    """Return the lines of a text as pieces: no empty ones and, with ``comments``, none that begin with #."""
    pieces, at = [], 0
    for line in text.splitlines(keepends=True):
        if line.strip() and not (comments and line.lstrip().startswith(b"#")):
            pieces.append(Piece(((at, at + len(line)),), 1))
        at += len(line)
    return pieces


def c_pieces(text: bytes) -> list[Piece]:
    """Return the pieces of a C program, in the order in which they begin."""
    root = _parser().parse(text).root_node
    heading = 0
    for child in root.named_children:
        if child.type != "comment":
            break
        heading = child.end_byte
    return sorted(_walk(root, text, heading, 0), key=lambda piece: (piece.cuts, piece.depth))


def c_wrappings(text: bytes) -> list[Piece]:
    """Return what of a C program stands around other statements: an ``if`` without what it guards, a loop."""
    return sorted(_wrappings(_parser().parse(text).root_node, text, 0), key=lambda piece: piece.cuts)


def c_guards(text: bytes) -> list[Piece]:
    """Return what makes of an ``if`` its condition alone: it is asked, and nothing comes of the answer."""
    return sorted(_guards(_parser().parse(text).root_node, 0), key=lambda piece: piece.cuts)


@cache
def _parser() -> Parser:
    # Loaded where a C program is shortened, and nowhere else.
    import tree_sitter
    import tree_sitter_c

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))


def _walk(node: Node, text: bytes, heading: int, depth: int) -> Iterator[Piece]:
    """Yield the pieces below a node; comments that end by ``heading`` are about the whole file."""
    children = node.named_children
    parts = _parts(node)
    depth += bool(parts)
    for child in parts:
        place = children.index(child)
        yield Piece((_span(children, place, text, heading, listed=node.type in LISTED),), depth)
    for child in children:
        yield from _walk(child, text, heading, depth)


def _parts(node: Node) -> list[Node]:
    """Return the children of a node that are pieces."""
    if node.type == "declaration":
        declared = node.children_by_field_name("declarator")
        return declared if len(declared) > 1 else []
    if node.type not in HOLDERS:
        return []
    fixed = [node.child_by_field_name(field) for field in _CONDITIONS]
    return [child for child in node.named_children if child.type not in _NO_PIECES and child not in fixed]


def _span(
    children: Sequence[Node], place: int, text: bytes, heading: int, *, listed: bool
) -> tuple[int, int]:
    """Return where a piece begins and ends: with its comma, with comments right above, by whole lines."""
    start, end = children[place].start_byte, children[place].end_byte
    if listed:
        start, end = _with_comma(text, start, end)
    if (line := _line_start(text, start)) is not None:
        start = line
        for before in reversed(children[:place]):
            above = _line_start(text, before.start_byte)
            gap = text[before.end_byte : start]
            own = before.type == "comment" and before.end_byte > heading
            if not own or above is None or gap.strip() or gap.count(b"\n") > 1:
                break
            start = above
    return start, _line_end(text, start, end)


def _with_comma(text: bytes, start: int, end: int) -> tuple[int, int]:
    """Return a list's entry with the comma and space behind it, or else with the comma before it."""
    rest = text[end:].lstrip()
    if rest.startswith(b","):
        stop = len(text) - len(rest) + 1
        return start, stop + (text[stop : stop + 1] == b" ")
    before = text[:start].rstrip()
    return (len(before) - 1, end) if before.endswith(b",") else (start, end)


def _line_start(text: bytes, at: int) -> int | None:
    """Return where the line of ``at`` begins, or None where something stands before it."""
    line = text.rfind(b"\n", 0, at) + 1
    return line if not text[line:at].strip() else None


def _line_end(text: bytes, start: int, end: int) -> int:
    """Return the end of the line where a piece has it to itself but for a comment behind it; else ``end``."""
    if start and text[start - 1 : start] != b"\n":
        return end
    if text[end - 1 : end] == b"\n":
        return end
    stop = text.find(b"\n", end)
    stop = len(text) if stop < 0 else stop + 1
    rest = text[end:stop].strip()
    comment = rest.startswith(b"//") or (rest.startswith(b"/*") and rest.find(b"*/") == len(rest) - 2)
    return stop if not rest or comment else end


def _wrappings(node: Node, text: bytes, depth: int) -> Iterator[Piece]:
    wraps = node.type in WRAPPERS and (node.type != "compound_statement" or _is_block(node))
    depth += wraps
    if wraps and (inner := _inner(node)) is not None:
        yield Piece(_unwrapped(text, (node.start_byte, node.end_byte), inner), depth)
    for child in node.named_children:
        yield from _wrappings(child, text, depth)


def _guards(node: Node, depth: int) -> Iterator[Piece]:
    asks = node.type == "if_statement" and node.child_by_field_name("alternative") is None
    condition = node.child_by_field_name("condition") if asks else None
    if condition is not None:
        depth += 1
        before = (node.start_byte, condition.start_byte + 1)
        yield Piece((before, (condition.end_byte - 1, node.end_byte)), depth, fill=b";")
    for child in node.named_children:
        yield from _guards(child, depth)


def _is_block(node: Node) -> bool:
    """Tell whether braces stand by themselves, as no statement's body."""
    return node.parent is not None and node.parent.type == "compound_statement"


def _inner(node: Node) -> tuple[int, int] | None:
    """Return where the statements begin and end that a statement holds; None with an else, or without any."""
    body = node if node.type == "compound_statement" else None
    for field in BODIES:
        body = body or node.child_by_field_name(field)
    if body is None or node.child_by_field_name("alternative") is not None:
        return None
    if body.type != "compound_statement":
        return body.start_byte, body.end_byte
    held = body.named_children
    return (held[0].start_byte, held[-1].end_byte) if held else None


def _unwrapped(text: bytes, outer: tuple[int, int], inner: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return what is to be cut around ``inner``, and off the beginnings of its lines."""
    outer_line, inner_line = _line_start(text, outer[0]), _line_start(text, inner[0])
    if outer_line is None or inner_line is None:
        return (outer[0], inner[0]), (inner[1], outer[1])
    deeper = (inner[0] - inner_line) - (outer[0] - outer_line)
    cuts = [(outer[0], inner[0])]
    at = text.find(b"\n", inner[0], inner[1])
    while deeper > 0 and at >= 0:
        if text[at + 1 : at + 1 + deeper].isspace():
            cuts.append((at + 1, at + 1 + deeper))
        at = text.find(b"\n", at + 1, inner[1])
    return (*cuts, (inner[1], outer[1]))
