"""The stacks that a report quotes beside its own: who allocated the object that it is about, who freed it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ktriage.console.types import Crash, Frame

HEADING = re.compile(
    r"^(?:\[[^\]]*\] ?)*((?:Allocated|Freed|allocated|freed) by task \d+|Allocated|Freed"
    r"|Last potentially related work creation|Second to last potentially related work creation)\b.*:$"
)
"""mm/kasan/report.c and mm/kfence/report.c, v4.17 to v6.12."""
ALLOCATOR = re.compile(
    r"_*(?:kasan_|kfence_|kmem_cache_|slab_|kmalloc|krealloc|kfree|kzalloc|kvmalloc|kvfree|save_stack|set_track"
    r"|do_kmalloc|do_slab_free|stack_trace_save|kcalloc)\w*(?:\..*)?"
)
"""What such a stack begins with, in every report."""
ENTRY = re.compile(
    r"do_syscall_\w+|entry_\w+|x64_sys_call|ret_from_fork\w*|asm_\w+|el0\w*|el1\w*"
    r"|exit_to_user_mode\w*|syscall_exit_to_user_mode\w*"
)


@dataclass(frozen=True, slots=True)
class Quoted:
    """One quoted stack: its heading as printed, without the colon, and its frames but the allocator's."""

    heading: str
    frames: tuple[Frame, ...]

    def __str__(self) -> str:
        """Return it in one line, innermost function first."""
        ways = [frame.function for frame in self.frames]
        return f"{self.heading[:1].lower()}{self.heading[1:]}: {' ← '.join(ways) or 'no stack'}"


def quoted(crash: Crash) -> tuple[Quoted, ...]:
    """Return the stacks that a crash's report quotes of its object, in the report's order.

    Which frame is whose is told by how many lines with one follow each heading in the report.
    """
    origin = [frame for frame in crash.stack if frame.context == "origin"]
    found = []
    for heading, count in _headings(crash.text):
        frames: list[Frame] = []
        while count and origin:
            frame = origin.pop(0)
            frames.append(frame)
            count -= not frame.inline  # noqa: PLW2901 (what is left of it)
        found.append(Quoted(heading, _telling(frames)))
    return tuple(one for one in found if one.frames)


def own_stack(crash: Crash, others: tuple[Quoted, ...]) -> list[Frame]:
    """Return a crash's stack without the ``others`` that it quotes; all of it where it quotes none."""
    return [frame for frame in crash.stack if not others or frame.context != "origin"]


def _headings(text: str) -> list[tuple[str, int]]:
    """Return each heading of a quoted stack with the number of lines below it that are frames."""
    found: list[tuple[str, int]] = []
    below = False
    for line in text.splitlines():
        if matched := HEADING.match(line):
            found.append((matched[1], 0))
            below = True
        elif below and "+0x" in line:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif below and not line.endswith("[inline]"):
            below = False
    return found


def _telling(frames: list[Frame]) -> tuple[Frame, ...]:
    rest = dropwhile(lambda frame: ALLOCATOR.fullmatch(frame.function), frames)
    return tuple(takewhile(lambda frame: not ENTRY.fullmatch(frame.function), rest))
