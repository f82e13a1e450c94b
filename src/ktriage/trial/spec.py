"""A reproducer's specification: the file ``ktriage.toml``.

Every error names the file, the line and the key.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ktriage.errors import UserError

SIZES = {"M": 1, "G": 1024}
MODULE_NAME = re.compile(r"[A-Za-z0-9_-]+")


def _memory(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*[MG]", text):
        raise ValueError("write a size such as 256M or 2G")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return text


def _module(text: str) -> str:
    if not MODULE_NAME.fullmatch(text):
        raise ValueError("a module's name has letters, digits, - and _")
    return text.replace("-", "_")


Pattern = Annotated[str, AfterValidator(_pattern)]
ModuleName = Annotated[str, AfterValidator(_module)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KernelTable(_Table):
    """[kernel]: a Debian package, or files."""

    package: str | None = None
    image: str | None = None
    release: str | None = None
    modules: str | None = None
    headers: str | None = None
    vmlinux: str | None = None
    cmdline: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.package is None) == (self.image is None):
            raise ValueError("name either a package or an image")
        return self


class ModuleTable(_Table):
    """[module]: the out-of-tree module under test. ``source`` is a folder of the bisected repository."""

    name: ModuleName
    source: str = "."
    parameters: str = ""
    load: bool = True


class GuestTable(_Table):
    """[guest]: the machine and what is in it.

    ``compile`` are C files, compiled statically into /bin; ``files`` maps a path in the guest to one here;
    ``drivers`` are modules of the kernel's own to load. Paths here are relative to the specification.
    """

    memory: Annotated[str, AfterValidator(_memory)] = "256M"
    cpus: int = Field(default=1, ge=1, le=64)
    drivers: tuple[ModuleName, ...] = Field(default=(), strict=False)
    compile: tuple[str, ...] = Field(default=(), strict=False)
    files: dict[str, str] = Field(default_factory=dict)
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    boot_timeout: float = Field(default=60.0, gt=0, strict=False)

    @property
    def memory_mib(self) -> int:
        """The memory in MiB."""
        return int(self.memory[:-1]) * SIZES[self.memory[-1]]


class RunTable(_Table):
    """[run]: shell commands, in order; seconds that all of it may take; seconds to wait for what comes late.

    ``exit_codes`` are those that a command may end with; with any other, and no crash, the reproducer did
    not do its work and the run says nothing of the revision. ``vmcore`` says of which runs the guest's memory
    is kept: never, of those that hung, or of those that hung or crashed.
    """

    commands: tuple[str, ...] = Field(min_length=1, strict=False)
    timeout: float = Field(default=60.0, gt=0, strict=False)
    settle: float = Field(default=0.0, ge=0, le=600, strict=False)
    exit_codes: tuple[int, ...] = Field(default=(0,), strict=False)
    vmcore: Literal["never", "hung", "crashed"] = "hung"


class HuntedTable(_Table):
    """[hunted]: what counts as the crash that is looked for; any one of these.

    ``titles`` are exact (also a crash's alternative titles count), ``patterns`` are searched in the console
    log, ``module_count_below_zero`` names modules whose count in /proc/modules must not be negative, and
    ``hang`` says that a guest that stops answering is it.
    """

    titles: tuple[str, ...] = Field(default=(), strict=False)
    patterns: tuple[Pattern, ...] = Field(default=(), strict=False)
    module_count_below_zero: tuple[ModuleName, ...] = Field(default=(), strict=False)
    hang: bool = False

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.titles or self.patterns or self.module_count_below_zero or self.hang):
            raise ValueError("say what is hunted: titles, patterns, module_count_below_zero or hang")
        return self


class Spec(_Table):
    """A whole specification; ``folder`` is the one that its paths are relative to."""

    kernel: KernelTable
    module: ModuleTable | None = None
    guest: GuestTable = GuestTable()
    run: RunTable
    hunted: HuntedTable
    folder: Path = Field(default=Path(), exclude=True)

    def path(self, text: str) -> Path:
        """Return ``text`` as a path, relative to the specification's folder."""
        return self.folder / Path(text).expanduser()


def load_spec(path: Path) -> Spec:
    """Read a specification; raises UserError with file, line and key where it is not right."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    if "folder" in data:
        raise UserError(f"{path}:{line_of(text, ('folder',))}: folder: unknown key")
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        # A key that is not known explains why another one is missing.
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        keys = tuple(str(part) for part in first["loc"])
        message = {
            "extra_forbidden": "unknown key",
            "missing": "this key is needed",
        }.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise UserError(f"{path}:{line_of(text, keys)}: {'.'.join(keys)}: {message}", keys=keys) from error
    return spec.model_copy(update={"folder": path.resolve().parent})


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the 1-based line of a key in a TOML text: its own, its table's, or the last one.

    Good for errors only: it knows headers and ``key =`` lines, not inline tables.
    """
    best, depth, table = 0, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"\[+\s*([^\]]+?)\s*\]+", stripped):
            table = header[1]
            if keys and table == keys[0] and depth < 1:
                best, depth = number, 1
        elif key := re.match(r"([\w\".-]+)\s*=", stripped):
            name = key[1].strip('"')
            wanted = ".".join(keys[:2]) if table else (keys[0] if keys else "")
            if depth < 2 and (f"{table}.{name}" if table else name) == wanted:
                best, depth = number, 2
    return best or text.count("\n") + 1
