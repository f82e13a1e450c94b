"""Making a reproducer shorter: what its pieces are, what is taken out, and how often that goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktriage.trial.pieces import Piece, c_guards, c_pieces, c_wrappings, cut, line_pieces
from ktriage.trial.sequential import KEPT, WRONG_NO, WRONG_YES, Counts, decide
from ktriage.trial.shrink import shrink

PROGRAM = b"""\
// SPDX-License-Identifier: GPL-2.0-only
/* What this is. */
#include <stdio.h>

struct pair {
	int a;
	int b;	/* goes with its line */
};

/* Says it. */
static void say(const char *what)
{
	puts(what);
}

int main(void)
{
	int x = 1, y = 2;
	int list[] = { 1, 2, 3 };

	// about the loop
	for (int i = 0; i < 3; i++) {
		if (list[i] == 2)
			say("two");
	}
	return x + y - 3;
}
"""


def texts(split: Callable[[bytes], list[Piece]], depth: int) -> list[bytes]:
    """Return what is cut out for each piece of a depth."""
    return [
        b"".join(PROGRAM[start:end] for start, end in piece.cuts)
        for piece in split(PROGRAM)
        if piece.depth == depth
    ]


def test_pieces_of_a_program():
    top = texts(c_pieces, 1)
    assert top[0] == b"#include <stdio.h>\n"
    assert top[2].startswith(b"/* Says it. */\nstatic void say(")
    assert [text.split(b"(")[0] for text in top[2:]] == [b"/* Says it. */\nstatic void say", b"int main"]
    inner = texts(c_pieces, 2)
    assert b"\tint b;\t/* goes with its line */\n" in inner
    assert any(text.startswith(b"\t// about the loop\n\tfor (int i") for text in inner)
    assert b"\tputs(what);\n" in inner
    deepest = texts(c_pieces, 3)
    assert b"x = 1, " in deepest
    assert b", y = 2" in deepest
    assert b"3" not in deepest  # the last entry goes with the comma before it
    assert b", 3" in deepest


def test_every_piece_can_be_taken_out_and_the_rest_is_the_same():
    for piece in (*c_pieces(PROGRAM), *c_wrappings(PROGRAM)):
        left = cut(PROGRAM, [piece])
        gone = sum(end - start for start, end in piece.cuts)
        assert len(left) == len(PROGRAM) - gone
        assert gone


def test_what_an_if_or_a_loop_holds_can_stay():
    wrappings = c_wrappings(PROGRAM)
    without_loop = cut(PROGRAM, [wrappings[0]])
    assert b"for (" not in without_loop
    # One level less deep.
    assert b'\n\tif (list[i] == 2)\n\t\tsay("two");\n' in without_loop
    without_if = cut(PROGRAM, [wrappings[1]])
    assert b'{\n\t\tsay("two");\n\t}\n' in without_if


def test_of_an_if_its_condition_can_stay():
    text = (
        b"int f(int fd)\n{\n\tif (close(fd)) {\n\t\treturn 1;\n\t}\n\tif (a)\n\t\tb();\n\telse\n\t\tc();\n}\n"
    )
    (guard,) = c_guards(text)
    assert b"{\n\tclose(fd);\n\tif (a)" in cut(text, [guard])


def test_an_if_with_an_else_stays_whole():
    assert c_wrappings(b"int f(int a) { if (a) { g(); } else { h(); } return 0; }") == []


@pytest.mark.parametrize(
    "text", [b"", b"}{", b"int main(", b"#if X\nint a;\n#else\nint b;\n#endif\n", b"\xff\x00"]
)
def test_what_does_not_compile_has_pieces_too(text):
    for piece in (*c_pieces(text), *c_wrappings(text), *c_guards(text)):
        assert all(0 <= start < end <= len(text) for start, end in piece.cuts)


def test_lines_of_a_script():
    script = b"#!/bin/sh\n# what\necho a\n\necho b"
    assert [script[slice(*piece.cuts[0])] for piece in line_pieces(script)] == [b"echo a\n", b"echo b"]
    assert len(line_pieces(script, comments=False)) == 4


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_what_is_needed_stays_and_nothing_else(needed: list[bool]):
    lines = [f"line {number}\n".encode() for number in range(len(needed))]
    must = [line for line, stays in zip(lines, needed, strict=True) if stays]
    asked: list[bytes] = []

    def keeps(text: bytes) -> bool:
        asked.append(text)
        return all(line in text for line in must)

    assert shrink(b"".join(lines), [line_pieces], keeps) == b"".join(must)


def test_few_questions_for_few_needed_lines():
    lines = [f"line {number}\n".encode() for number in range(256)]
    asked: set[bytes] = set()

    def keeps(text: bytes) -> bool:
        asked.add(text)
        return lines[17] in text and lines[200] in text

    shrink(b"".join(lines), [line_pieces], keeps)
    assert len(asked) < 2 * 2 * 8 + 8


def test_two_lines_that_go_only_together():
    lines = [b"open\n", b"x\n", b"close\n", b"crash\n"]

    def keeps(text: bytes) -> bool:
        return b"crash" in text and (b"open" in text) == (b"close" in text)

    assert b"x\n" not in shrink(b"".join(lines), [line_pieces], keeps)


@pytest.mark.parametrize("rate", [0.97, 0.8, 0.4, 0.15])
def test_the_test_errs_as_seldom_as_it_says(rate: float):
    dice = random.Random(1)

    def asked(true_rate: float) -> tuple[bool, int]:
        seen = Counts()
        while (decision := decide(seen, rate)) is None:
            seen.add(dice.random() < true_rate)
        return decision, seen.runs

    tries = 2000
    same = [asked(rate) for _ in range(tries)]
    fewer = [asked(rate * KEPT) for _ in range(tries)]
    gone = [asked(0.0) for _ in range(tries)]
    # Wald's bounds hold for the sum of both; three standard errors for the tries.
    assert sum(not kept for kept, _ in same) / tries < WRONG_NO + 0.02
    assert sum(kept for kept, _ in fewer) / tries < WRONG_YES + 0.015
    assert not any(kept for kept, _ in gone)
    # What no longer crashes at all is seen sooner than with ten runs, or than a rate of 0.15 allows.
    assert max(runs for _, runs in gone) <= max(2, 4 / rate)


def test_a_certain_crash_costs_three_runs_and_a_lost_one_costs_one():
    rate = Counts(6, 6).rate
    assert [decide(Counts(runs, runs), rate) for runs in (1, 2, 3)] == [None, None, True]
    assert decide(Counts(0, 2), rate) is False
