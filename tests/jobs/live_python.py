"""What a guest needs to run ktriage itself: the interpreter, its libraries and the modules imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib, json, sys, types
import ktriage
refs = sys.modules["ktriage.refs"] = types.ModuleType("ktriage.refs")
refs.__path__ = [ktriage.__path__[0] + "/refs"]
import argparse, gettext, locale, select, shutil, signal, subprocess
import encodings.ascii, encodings.latin_1, encodings.utf_8
for name in sys.argv[1:]:
    importlib.import_module(name)
files = {m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
print(json.dumps([sys.executable, sorted(files)]))
"""


def libraries(binary: Path) -> set[Path]:
    """Return the shared libraries of a binary, as ldd(1) names them."""
    text = subprocess.run(["ldd", str(binary)], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", text)}


def live_python(*names: str) -> dict[str, bytes | Path]:
    """Return files for a guest in which ``python3`` can import the modules ``names``, and no others.

    The package ``ktriage.refs`` is an empty one there: what it imports brings numpy, which a recorder leaves.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, check=True)
    executable, modules = json.loads(done.stdout)
    real = Path(executable).resolve()
    paths = {Path(module) for module in modules}
    needed = libraries(real)
    for path in paths:
        if path.suffix == ".so":
            needed |= libraries(path)
    files: dict[str, bytes | Path] = {"bin/python3": real}
    files |= {str(path).lstrip("/"): path for path in needed}
    stdlib = Path(json.__file__).parents[1]
    for path in paths:
        # Whatever it was found below on this machine: in the guest it is found on PYTHONPATH.
        roots = [
            root for root in map(Path, [*sys.path, str(stdlib), str(stdlib / "lib-dynload")]) if root.is_dir()
        ]
        inside = [path.relative_to(root) for root in roots if path.is_relative_to(root)]
        if inside:
            files[f"python/{min(inside, key=lambda one: len(one.parts))}"] = path
    return files | {"python/ktriage/refs/__init__.py": b""}
