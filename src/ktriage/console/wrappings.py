"""What other programs put around a console's lines: journals, syslog, netconsole, mails.

A stretch of a log is wrapped in one way, told from the line that announced its crash. Lines come out as the
console would have printed them; offsets stay those of the log as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

# "> " of a mail, at any depth.
_QUOTE = re.compile(r"^(?:> ?)+")
# journalctl -k, rsyslog, busybox klogd: "Nov 20 05:11:22 host kernel: ", or with an ISO date.
_SYSLOG = re.compile(
    r"^(?:[A-Z][a-z]{2} +\d{1,2} [\d:.]+|\d{4}-\d\d-\d\d[T ][\d:.,+Z-]+) \S+ "
    r"(?:kern\.\w+ )?kernel(?:\[\d+\])?: ?",
    re.ASCII,
)
# journalctl -k -o short-monotonic: the journal's stamp takes the place of the kernel's.
_MONOTONIC = re.compile(r"^(\[ *\d+\.\d+\] )\S+ kernel: ", re.ASCII)
# /dev/kmsg and extended netconsole: "level,sequence,microseconds,flags,caller=T1;text".
_KMSG = re.compile(r"^\d+,\d+,(?P<time>\d+),[^;]*?(?:caller=(?P<caller>[TC]\d+)[^;]*)?;", re.ASCII)
# What conserver, CI systems and the like put before each line.
_DATED = re.compile(r"^\[?\d{4}-\d\d-\d\d[T ][\d:.,+Z-]+\]?:? +", re.ASCII)

Unwrap = Callable[[str], str]


def _quoted(raw: str) -> str:
    return _QUOTE.sub("", raw)


def _syslog(raw: str) -> str:
    return _SYSLOG.sub("", raw, count=1)


def _monotonic(raw: str) -> str:
    return _MONOTONIC.sub(r"\1", raw, count=1)


def _dated(raw: str) -> str:
    return _DATED.sub("", raw, count=1)


def _kmsg(raw: str) -> str:
    match = _KMSG.match(raw)
    if match is None:
        return raw
    return _stamped(int(match["time"]), match["caller"], raw[match.end() :])


def _stamped(microseconds: int, caller: str | None, text: str) -> str:
    who = f"[{caller:>6}]" if caller else ""
    return f"[{microseconds // 1_000_000:5}.{microseconds % 1_000_000:06}]{who} {text}"


def _journal(raw: str) -> str:
    """Return the line of one object of ``journalctl -o json``; nothing if it is not the kernel's."""
    try:
        entry = json.loads(raw)
        message = entry["MESSAGE"]
        if entry.get("_TRANSPORT", "kernel") != "kernel":
            return ""
        if isinstance(message, list):  # bytes that are not UTF-8
            message = bytes(message).decode("latin-1")
        time = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry.get("__MONOTONIC_TIMESTAMP")
        return _stamped(int(time), None, str(message)) if time is not None else str(message)
    except (ValueError, TypeError, KeyError, AttributeError):
        return raw


def wrapping(raw: str) -> Unwrap | None:
    """Return what takes the wrapping off a line like ``raw``, or None where there is none."""
    if raw.startswith("{") and '"MESSAGE"' in raw:
        return _journal
    match = _QUOTE.match(raw)
    if match is not None:
        inner = wrapping(raw[match.end() :])
        return _quoted if inner is None else lambda line: inner(_quoted(line))
    for pattern, unwrap in (
        (_SYSLOG, _syslog),
        (_MONOTONIC, _monotonic),
        (_KMSG, _kmsg),
        (_DATED, _dated),
    ):
        if pattern.match(raw):
            return unwrap
    return None


# Announcements and register lines are longer than a mail's lines; whoever wrapped them broke them at a space.
_BROKEN = re.compile(r"^(?:WARNING: |BUG: |CPU: |Hardware name: |Modules linked in: |Code: |RIP: |INFO: )")
_BREAKS_AT = 50


def rejoined(texts: list[str], stamped: list[bool]) -> None:
    """Put together, in place, lines of a mail that were wrapped; what was moved leaves an empty line.

    ``stamped`` says which lines had a time: where most have, a line without one goes on with the last.
    """
    mostly = sum(stamped) * 2 > len(stamped)
    target = -1
    for index, text in enumerate(texts):
        goes_on = target >= 0 and text and not stamped[index]
        if goes_on and (mostly or _goes_on(texts[target], text)):
            texts[target] = f"{texts[target].rstrip()} {text.strip()}"
            texts[index] = ""
            if not mostly:
                target = -1
            continue
        target = index if text and (stamped[index] if mostly else _BROKEN.match(text)) else -1


def _goes_on(above: str, text: str) -> bool:
    return len(above) >= _BREAKS_AT and not text.startswith((" ", "[", "-")) and not _BROKEN.match(text)
