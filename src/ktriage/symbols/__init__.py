"""From ``func+0xoff/0xsize`` and addresses to source lines, and from code bytes to instructions.

``symbolize_crash`` fills in a crash; ``Symbolizer`` keeps the files open for several.
"""

from __future__ import annotations

from ktriage.symbols.symbolize import Symbolizer, symbolize_crash

__all__ = ["Symbolizer", "symbolize_crash"]
