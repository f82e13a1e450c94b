"""The small forms in other tools' logs: what a run came to, Go's durations, Go's quoted lists."""

from __future__ import annotations

import re

from ktriage.words import OutcomeKind

_MOST_TITLE = 500

# What the host says of a guest that stopped answering; syzkaller uses it as the title of a crash.
_SILENT = re.compile(
    r"(?:no output(?: from test machine)?|lost connection(?: to test machine)?|timed out"
    r"|test machine is not executing programs)\b"
)
# How titles of kernel crashes begin, or end. Anything else after "basic kernel testing failed" is the
# machinery's: a copy that failed, a connection that was refused.
_TITLE = re.compile(
    r"(?:K[A-Z]{1,2}SAN|KFENCE|UBSAN|BUG|WARNING|INFO|PANIC|ODEBUG|Oops|VFS|INIT|[Kk]ernel|general protection"
    r"|possible deadlock|inconsistent lock|suspicious RCU|unregister_netdevice|memory leak|divide error"
    r"|stack segment|invalid opcode|Internal error|[Uu]nable to handle|double fault|bad page"
    r"|panic|DEADLOCK|SYZFAIL|SYZFATAL)\b|(?:(?!fail).)*\bin \w+$"
)
_KNOWN = (
    *("crashed: ", "boot failed: ", "build failed: ", "basic kernel testing failed: "),
    *("infra problem: ", "ignore: ", "failed: ", "failed to "),
)
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{0,12})?)(ms|us|µs|μs|ns|h|m|s)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def run_result(text: str) -> tuple[OutcomeKind, str | None, str | None]:
    """Return what a run came to, the title of its crash, and a note for a run that says nothing.

    ``text`` is what stands behind ``run #N:`` or ``all runs:``; the words are those of syzkaller's
    pkg/bisect, 2019 to 2025.
    """
    word, _, rest = text.partition(": ")
    rest = rest.strip()[:_MOST_TITLE]
    if text.strip() == "OK":
        return OutcomeKind.OK, None, None
    if word == "crashed" and rest:
        silent = _SILENT.match(rest)
        return OutcomeKind.HUNG if silent else OutcomeKind.CRASHED, rest, None
    if word == "build failed":
        return OutcomeKind.BUILD_FAILED, None, rest
    if word in ("boot failed", "basic kernel testing failed"):
        if _TITLE.match(rest):
            return OutcomeKind.BOOT_FAILED, rest, None
        machinery = word == "basic kernel testing failed" or rest.startswith(("failed to", "create instance"))
        return OutcomeKind.INFRA if machinery else OutcomeKind.BOOT_FAILED, None, rest
    return OutcomeKind.INFRA, None, rest if rest and known_result(text) else text.strip()[:_MOST_TITLE]


def known_result(text: str) -> bool:
    """Return whether ``text`` is one of the forms that ``run_result`` knows."""
    return text.strip() == "OK" or text.startswith(_KNOWN)


def go_seconds(text: str) -> float | None:
    """Return a duration as Go prints it (4h32m25.077414693s) in seconds, None where it is none.

    >>> go_seconds("1h15m16.5s"), go_seconds("500ms"), go_seconds("soon")
    (4516.5, 0.5, None)
    """
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def go_list(text: str) -> tuple[str, ...]:
    r"""Return the strings of a list as Go's %q prints it.

    >>> go_list('["a@b.org" "c \\"d\\""]'), go_list("[]")
    (('a@b.org', 'c "d"'), ())
    """
    return tuple(re.sub(r"\\(.)", r"\1", match) for match in _QUOTED.findall(text))
