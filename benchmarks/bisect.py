# ruff: noqa: A005 (what follows makes up for it)
"""How few runs and builds a bisection takes; ``bisection.py`` beside this file has it all.

A script's folder comes first when Python looks for modules, and this file has the name of one of the standard
library's. What that has is here as well, so that other scripts in this folder find it.
"""

import importlib
from _bisect import bisect_left, bisect_right, insort_left, insort_right

bisect, insort = bisect_right, insort_right

__all__ = ["bisect", "bisect_left", "bisect_right", "insort", "insort_left", "insort_right"]

if __name__ == "__main__":
    raise SystemExit(importlib.import_module("bisection").main())
