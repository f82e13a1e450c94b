"""What a title format is, and the words that its patterns may use.

A format is a line of data: how the announcing line of a crash looks, what must follow it, which frame
names it, and the title that comes of it. To teach ktriage a new crash, add a ``Format`` to the family
that it belongs to (see docs/console.md).

Patterns are Python regular expressions, searched in one line at a time, with these words of their own:

==========  ==================================================================
``{pc}``    an address in brackets: ``[<ffffffff81000000>]``, ``[80101234]``
``{func}``  a function, captured, before its offset: ``tcp_close+`` or ``foo.isra.0+``
``{at}``    ``{func}`` after "at:", as lockdep prints where a lock was taken
``{src}``   a source line, not captured: ``net/core/dev.c:123``
``{ip}``    the line that has the instruction pointer, on any architecture
==========  ==================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

PC = r"\[<?(?:0x)?[0-9a-f]+>?\]"
FUNC = r"([a-zA-Z0-9_]+)[.+]"
AT = rf"at: (?:{PC} +)?{FUNC}"
SRC = r"[a-zA-Z0-9\-_/.]+\.[a-z]+:[0-9]+"
# x86 prints RIP, EIP or plain IP, powerpc NIP, arm "PC is at", arm64 and loongarch "pc :". An instruction
# pointer with no symbol (a jump to nowhere) counts as found, but names nothing.
IP = (
    r"(?:IP|NIP|pc |PC is at):? "
    rf"(?:(?:[0-9]+:)?(?:{PC} +){{0,2}}{FUNC}"
    r"|(?:[0-9]+:)?0x[0-9a-f]+"
    rf"|(?:[0-9]+:)?{PC} +\[< *\(null\)>\] +\(null\)"
    r"|[0-9]+: +\(null\))"
)
WORDS = {"pc": PC, "func": FUNC, "at": AT, "src": SRC, "ip": IP}

CALL_TRACE = r"Call [Tt]race:|Backtrace:"
STACK = ""
"""In ``Stack.path``: read the stack trace that begins here."""


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return ``pattern`` compiled, with the words above filled in."""
    return re.compile(re.sub(r"\{([a-z]+)\}", lambda word: WORDS[word[1]], pattern), re.ASCII)


@dataclass(frozen=True, slots=True)
class Stack:
    """How to find the frame that names a crash.

    ``path`` is walked from the announcing line on: a pattern moves to the next line that it matches (what
    it captures is a frame), ``STACK`` reads a stack trace. Where that gives no frame, ``otherwise`` is
    walked, and then, in a log without caller ids, ``last``. Frames that match ``skip`` (or the common list
    of functions that only carry the message) never name a crash. ``choose`` says which of the rest does:
    ``first``, ``stall`` (the function that a looping CPU keeps coming back to) or ``hang`` (what a sleeping
    task waits for).
    """

    path: tuple[str, ...]
    otherwise: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    choose: str = "first"
    last: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of crash is announced, and how it is named.

    ``header`` is the text that brings a line up at all; ``line`` is searched in that line, and each pattern
    of ``then`` in the lines after it, in order (``within`` bounds how many lines further each may be).
    ``title`` and ``alt`` are filled with the named groups of ``line`` and ``then``, and with ``frame`` and
    ``origin`` (the frame of a second stack) if there is a ``stack``.
    ``trace`` is false where the kernel prints no stack with it, so that a report without one is whole.
    ``corrupted`` marks what is only ever seen when the real announcement was lost.
    """

    header: str
    line: str
    title: str
    then: tuple[str, ...] = ()
    alt: tuple[str, ...] = ()
    stack: Stack | None = None
    trace: bool = True
    corrupted: bool = False
    within: int | None = None


def traced(*skip: str, choose: str = "first") -> Stack:
    """Return the path to a frame in the stack after "Call Trace:"."""
    return Stack((CALL_TRACE, STACK), skip=skip, choose=choose)


def trapped(*skip: str, choose: str = "first") -> Stack:
    """Return the path to where the instruction pointer stood, or to the stack after it."""
    return Stack(("{ip}", CALL_TRACE, STACK), skip=skip, choose=choose)


def warned(*skip: str) -> Stack:
    """Return the path to a WARN's frame: where it trapped, or in the only stack that older kernels print.

    powerpc has ``--- interrupt: 700 at func`` in place of a register.
    """
    return Stack((r"(?:{ip}|--- interrupt: [0-9]+ at {func})", STACK), (CALL_TRACE, STACK), skip)
