"""Panics. A panic that only follows from another crash is a title of last resort."""

from __future__ import annotations

from ktriage.console.formats.format import Format, traced

NOT_SYNCING = "Kernel panic - not syncing: "


def _panic(text: str, title: str, *, corrupted: bool = False) -> Format:
    return Format("Kernel panic", NOT_SYNCING + text, title, corrupted=corrupted)


FORMATS = (
    Format(
        "Kernel panic",
        NOT_SYNCING + "stack-protector: Kernel stack is corrupted in: (?P<frame>[a-zA-Z0-9_]+)[.+]",
        "kernel panic: stack is corrupted in {frame}",
        trace=False,
    ),
    Format(
        "Kernel panic",
        NOT_SYNCING + "stack-protector: Kernel stack is corrupted in: [a-f0-9]+",
        "kernel panic: stack is corrupted in {frame}",
        stack=traced("stack_chk"),
    ),
    Format(
        "Kernel panic",
        NOT_SYNCING + "corrupted stack end detected inside scheduler",
        "kernel panic: corrupted stack end in {frame}",
        alt=("stack-overflow in {frame}",),
        stack=traced("schedule", "retint_kernel", choose="stall"),
    ),
    Format(
        "Kernel panic",
        NOT_SYNCING + "kernel stack overflow",
        "kernel stack overflow in {frame}",
        alt=("stack-overflow in {frame}",),
        stack=traced("bad_stack", choose="stall"),
    ),
    _panic("Attempted to kill init!", "kernel panic: Attempted to kill init!"),
    _panic(
        "Couldn't open N_TTY ldisc for [^ ]+ --- error -[0-9]+", "kernel panic: Couldn't open N_TTY ldisc"
    ),
    # These follow an oops, a warning, a hung task: seen first, they mean that its announcement was lost.
    _panic("Fatal exception", "kernel panic: Fatal exception", corrupted=True),
    _panic("panic_on_warn set", "kernel panic: panic_on_warn set", corrupted=True),
    _panic("hung_task: blocked tasks", "kernel panic: hung_task: blocked tasks", corrupted=True),
    _panic("(?P<rest>.*)", "kernel panic: {rest}"),
    Format(
        "rust_kernel: panicked",
        "rust_kernel: panicked at ",
        "{message} in {frame}",
        then=("^(?P<message>.+)$",),
        stack=traced("__rustc::rust_begin_unwind"),
    ),
    Format(
        "trusty: panic",
        r"trusty: panic \(.*?\):(?: DEBUG)? ASSERT FAILED at \(.*?\): (?P<what>.+)",
        "trusty: ASSERT FAILED: {what}",
        trace=False,
    ),
    Format(
        "trusty: panic",
        "trusty: panic.* ASSERT FAILED.*: *(?P<what>.*)",
        "trusty: ASSERT FAILED: {what}",
        corrupted=True,
    ),
    Format("trusty: panic", r"trusty: panic \(.*?\): (?P<what>.+)", "trusty: panic: {what}", trace=False),
)
