"""KCSAN: data races. The kernel's own line already names both sides."""

from __future__ import annotations

from ktriage.console.formats.format import Format

FORMATS = (Format("BUG:", "BUG: KCSAN: (?P<race>.*)", "KCSAN: {race}", trace=False),)
