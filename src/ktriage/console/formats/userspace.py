"""What a fuzzer's own processes say when they die; kept because syzbot files them too."""

from __future__ import annotations

from ktriage.console.formats.format import Format

FORMATS = (
    Format("fatal error:", "fatal error:", "go runtime error", trace=False),
    Format("SYZFAIL:", "SYZFAIL:(?P<rest>.*)", "SYZFAIL:{rest}", trace=False),
    Format("SYZFATAL:", "SYZFATAL:(?P<rest>.*)", "SYZFATAL:{rest}", alt=("SYZFATAL",), trace=False),
    Format(
        "panic:", "panic: Sentry detected .* stuck task", "panic: Sentry detected stuck tasks", trace=False
    ),
    Format("panic:", "panic:(?P<rest>.*)", "panic:{rest}", trace=False),
)
