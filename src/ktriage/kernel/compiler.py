"""The compiler that kernels are built with: its name, as a person gives it, and what make is told.

It is a program (``gcc``, ``gcc-12``, ``clang``), or ``LLVM=1``, ``LLVM=-14``, ``LLVM=/opt/llvm/bin/``: clang
with LLVM's linker and tools, as make takes it (Documentation/kbuild/llvm.rst, v6.1).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import lru_cache

from ktriage.errors import UserError

LLVM = re.compile(r"LLVM=(?:1|(?P<suffix>-\d+)|(?P<prefix>/\S*/))")
BUILT_WITH = ".ktriage-compiler"
"""A file in a build folder that has the compiler's name, for what is built against it."""
LLVM_TOOLS = {"ld.lld": "lld", "llvm-ar": "llvm", "llvm-nm": "llvm", "llvm-objcopy": "llvm"}
"""What make takes in place of binutils, with the Debian packages that have them."""


def _llvm(compiler: str, tool: str) -> str:
    matched = LLVM.fullmatch(compiler)
    if matched is None:
        raise UserError(f"{compiler} is no compiler", hint="gcc, clang, LLVM=1 or LLVM=-14")
    return f"{matched['prefix'] or ''}{tool}{matched['suffix'] or ''}"


def program(compiler: str) -> str:
    """Return the program that compiles. Raises UserError where ``LLVM=`` is not as make takes it."""
    return _llvm(compiler, "clang") if compiler.startswith("LLVM=") else compiler


def make_arguments(compiler: str) -> list[str]:
    """Return what make is told; with ccache in front of the compiler where it is installed."""
    called = program(compiler)
    told = [compiler] if called != compiler else []
    if shutil.which("ccache"):
        called = f"ccache {called}"
    elif told:
        return told
    return [*told, f"CC={called}"]


def tools(compiler: str) -> dict[str, str]:
    """Return the programs that a compiler needs beside itself, with the Debian packages that have them."""
    if program(compiler) == compiler:
        return {}
    version = LLVM.fullmatch(compiler)
    suffix = version["suffix"] or "" if version else ""
    return {_llvm(compiler, tool): f"{package}{suffix}" for tool, package in LLVM_TOOLS.items()}


@lru_cache
def compiler_version(compiler: str) -> str:
    """Return what a compiler says of its version; raises UserError where there is none of that name."""
    called = program(compiler)
    if shutil.which(called) is None:
        raise UserError(f"no compiler {called} on this machine", hint=f"apt-get install {called}")
    done = subprocess.run([called, "--version"], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise UserError(f"{called} is no compiler: it does not tell its version")
    # The name tells apart what is linked by whom.
    return done.stdout if called == compiler else f"{done.stdout}{compiler}\n"
