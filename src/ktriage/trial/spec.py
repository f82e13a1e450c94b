"""A reproducer's specification: the file ``ktriage.toml``.

Every error names the file, the line and the key.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ktriage.errors import UserError
from ktriage.kernel import DEFAULT_BASE
from ktriage.refs.record_events import Wanted, wanted

SIZES = {"M": 1, "G": 1024}
MODULE_NAME = re.compile(r"[A-Za-z0-9_-]+")
OPTION = re.compile(r"(?:CONFIG_)?(\w+)=(\S.*)|#\s*(?:CONFIG_)?(\w+) is not set")
TREE_KEYS = {"config", "options", "fragments", "debuginfo", "compiler", "patch", "jobs", "build_timeout"}
FILE_KEYS = {"release", "modules", "headers", "vmlinux"}


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


def _option(text: str) -> str:
    matched = OPTION.fullmatch(text.strip())
    if matched is None:
        raise ValueError("write CONFIG_NAME=value or # CONFIG_NAME is not set")
    name = matched[1] or matched[3]
    value = "n" if matched[3] else matched[2]
    return f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"


Option = Annotated[str, AfterValidator(_option)]


class RangedTable(_Table):
    """Holds for revisions that contain ``since`` and do not contain ``until``; None is no bound."""

    since: str | None = None
    until: str | None = None


class CompilerTable(RangedTable):
    """[[kernel.compiler]]: the compiler of some revisions."""

    name: str = Field(min_length=1)


class PatchTable(RangedTable):
    """[[kernel.patch]]: a file with a patch, applied on top of some revisions."""

    file: str = Field(min_length=1)


class KernelTable(_Table):
    """[kernel]: a Debian package, or files, or a source tree that it is built from."""

    package: str | None = None
    image: str | None = None
    release: str | None = None
    modules: str | None = None
    headers: str | None = None
    vmlinux: str | None = None
    cmdline: str = ""
    tree: str | None = None
    config: str = Field(default=DEFAULT_BASE, min_length=1)
    options: tuple[Option, ...] = Field(default=(), strict=False)
    fragments: tuple[str, ...] = Field(default=(), strict=False)
    debuginfo: bool | None = None
    compiler: tuple[CompilerTable, ...] = Field(default=(), strict=False)
    patch: tuple[PatchTable, ...] = Field(default=(), strict=False)
    jobs: int | None = Field(default=None, ge=1)
    build_timeout: float = Field(default=7200.0, gt=0, strict=False)

    @field_validator("compiler", mode="before")
    @classmethod
    def _one_compiler(cls, value: object) -> object:
        return [{"name": value}] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.package, self.image, self.tree].count(None) != 2:
            raise ValueError("name one of package, image and tree")
        given = self.model_fields_set
        if self.tree is None and (wrong := sorted(given & TREE_KEYS)):
            raise ValueError(f"{wrong[0]} goes with tree only")
        if self.tree is not None and (wrong := sorted(given & FILE_KEYS)):
            raise ValueError(f"{wrong[0]} goes with image only")
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


class RefsTable(_Table):
    """[refs]: what is recorded of reference counts in each run, kept in the trial's folder with its ledger.

    ``module`` is one whose uses are counted; ``get`` and ``put`` are kernel functions, each
    ``[MODULE:]FUNCTION[:ARGUMENT[+OFFSET]]``, ARGUMENT being which of theirs is the object (1), or ``ret``,
    and OFFSET where in it the count is.
    ``buffer`` is the ring buffer of each processor: what comes faster than the host takes it is lost.
    """

    module: ModuleName | None = None
    get: tuple[str, ...] = Field(default=(), strict=False)
    put: tuple[str, ...] = Field(default=(), strict=False)
    stacks: bool = True
    buffer: Annotated[str, AfterValidator(_memory)] = "8M"

    @field_validator("get", "put", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        try:
            self.wanted()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def wanted(self) -> Wanted:
        """Return what to record."""
        kilobytes = int(self.buffer[:-1]) * SIZES[self.buffer[-1]] << 10
        return wanted(self.module, self.get, self.put, stacks=self.stacks, buffer_kb=kilobytes)


class Spec(_Table):
    """A whole specification; ``folder`` is the one that its paths are relative to."""

    kernel: KernelTable
    module: ModuleTable | None = None
    guest: GuestTable = GuestTable()
    run: RunTable
    hunted: HuntedTable
    refs: RefsTable | None = None
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _one_repository(self) -> Self:
        kernel = self.kernel
        ranges = any(one.since or one.until for one in (*kernel.compiler, *kernel.patch))
        if self.module is not None and (kernel.patch or ranges):
            raise ValueError("with [module] revisions are its own: no kernel.patch, since or until")
        return self

    @property
    def kernel_under_test(self) -> bool:
        """Whether revisions are the kernel's: it has a tree, and there is no module that they are of."""
        return self.kernel.tree is not None and self.module is None

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
        keys = tuple(str(part) for part in first["loc"]) or ("module",)
        message = {
            "extra_forbidden": "unknown key",
            "missing": "this key is needed",
        }.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise UserError(f"{path}:{line_of(text, keys)}: {'.'.join(keys)}: {message}", keys=keys) from error
    return spec.model_copy(update={"folder": path.resolve().parent})


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the 1-based line of a key in a TOML text: its own, its table's, or the last one.

    Good for errors only: it knows headers and ``key =`` lines, not what stands within a value. A number among
    the keys counts the tables of an array.
    """
    best, depth = 0, 0
    table: tuple[str, ...] = ()
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"(\[+)\s*([^\]]+?)\s*\]+", stripped):
            table = place = _parts(header[2])
            if header[1] == "[[":
                table = place = (*table, str(seen.setdefault(table, 0)))
                seen[table[:-1]] += 1
        elif key := re.match(r"([\w\".-]+)\s*=", stripped):
            place = (*table, *_parts(key[1]))
        else:
            continue
        if len(place) > depth and keys[: len(place)] == place:
            best, depth = number, len(place)
    return best or text.count("\n") + 1


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip().strip('"') for part in name.split("."))
