"""How numbers are said, and how text out of a log is made safe to show."""

from __future__ import annotations

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def clean(text: str) -> str:
    """Replace what a page or a terminal would act on instead of showing it.

    C0 controls but newline and tab become their Unicode pictures (ESC is U+241B), DEL likewise; C1
    controls, lone surrogates and marks that turn the writing direction become U+FFFD. A carriage return
    before a newline is dropped first.
    """

    def picture(match: re.Match[str]) -> str:
        code = ord(match.group())
        if code < 0x20:
            return chr(0x2400 + code)
        return "\u2421" if code == 0x7F else "\ufffd"

    return _CONTROL.sub(picture, text.replace("\r\n", "\n"))


def percent(probability: float) -> str:
    """Say a probability in percent: as many nines as it has, and never 0% or 100% of what is not.

    >>> [percent(p) for p in (0.5, 0.0123, 0.99871, 0.999996, 0.00001, 0.0, 1.0)]
    ['50%', '1.2%', '99.87%', '> 99.99%', '< 0.01%', '0%', '100%']
    """
    if probability in (0.0, 1.0):
        return f"{probability:.0%}"
    if probability < 0.0001:
        return "< 0.01%"
    if probability > 0.9999:
        return "> 99.99%"
    if probability < 0.01 or probability > 0.99:
        return f"{100 * probability:.2f}%"
    return f"{100 * probability:.1f}".removesuffix(".0") + "%"


def duration(seconds: float) -> str:
    """Say a length of time in the two largest units that matter.

    >>> [duration(s) for s in (0.42, 9.96, 61, 3599.7, 7322)]
    ['0.42 s', '10 s', '1 min 1 s', '1 h 0 min', '2 h 2 min']
    """
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Say a number of bytes in the largest binary unit that leaves at least one whole one."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Say how many of what: ``1 run``, ``2 runs``, ``12,000 runs``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shorten(text: str, width: int) -> str:
    """Cut ``text`` to ``width`` characters, with an ellipsis as the last where something is missing."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
