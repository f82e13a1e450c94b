"""Boots that fail, and machines that start over when nobody asked."""

from __future__ import annotations

from ktriage.console.formats.format import Format

FORMATS = (Format("Booting the kernel.", "^Booting the kernel", "unexpected kernel reboot", trace=False),)
