"""A kernel's configuration: a base and fragments, put together by the tree's own tools, then checked.

kconfig never says no: a symbol whose dependencies are not met is left out without a word (tinyconfig takes
the SLOB allocator, which silently drops KASAN; without SHMEM there is no TMPFS). What was asked for and is
not in the result is an error here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ktriage.errors import UserError
from ktriage.kernel.compiler import make_arguments
from ktriage.kernel.kconfig import SOURCE_ARCH, UNKNOWN, read_kconfig, why_dropped
from ktriage.kernel.make import call_make

SYMBOL = re.compile(r"CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set")

NEEDED = """\
CONFIG_64BIT=y
CONFIG_SMP=y
CONFIG_PRINTK=y
CONFIG_BUG=y
CONFIG_KALLSYMS=y
CONFIG_MULTIUSER=y
CONFIG_FUTEX=y
CONFIG_EPOLL=y
CONFIG_POSIX_TIMERS=y
CONFIG_HIGH_RES_TIMERS=y
CONFIG_BINFMT_ELF=y
CONFIG_BINFMT_SCRIPT=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_PROC_FS=y
CONFIG_PROC_SYSCTL=y
CONFIG_SYSFS=y
CONFIG_DEVTMPFS=y
CONFIG_SHMEM=y
CONFIG_TMPFS=y
CONFIG_DEBUG_FS=y
CONFIG_TTY=y
CONFIG_UNIX98_PTYS=y
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_SERIAL_8250_EXTENDED=y
CONFIG_SERIAL_8250_SHARE_IRQ=y
CONFIG_MAGIC_SYSRQ=y
CONFIG_MAGIC_SYSRQ_SERIAL=y
CONFIG_MODULES=y
CONFIG_MODULE_UNLOAD=y
CONFIG_ACPI=y
CONFIG_DMI=y
CONFIG_PCI=y
CONFIG_BLOCK=y
CONFIG_VIRTIO_MENU=y
CONFIG_VIRTIO_PCI=y
CONFIG_BLK_DEV=y
CONFIG_VIRTIO_BLK=y
CONFIG_PVPANIC=y
CONFIG_PVPANIC_PCI=y
CONFIG_FW_CFG_SYSFS=y
CONFIG_KEXEC=y
CONFIG_NET=y
CONFIG_UNIX=y
CONFIG_INET=y
CONFIG_HYPERVISOR_GUEST=y
CONFIG_PVH=y
"""
"""What a guest of ``ktriage.machine`` needs, with the notes that a dump of its memory is read by.

Its first and third serial line share an interrupt.
"""

RECORDING = """\
CONFIG_VIRTIO_CONSOLE=y
CONFIG_DEBUG_KERNEL=y
CONFIG_KALLSYMS_ALL=y
CONFIG_FTRACE=y
CONFIG_KPROBES=y
CONFIG_KPROBE_EVENTS=y
"""
"""What references are recorded with in a guest: a port to send events on, probes, and the addresses of data
by which the ring buffer is found in the memory of a guest that died."""

SMALL = """\
CONFIG_KERNEL_GZIP=y
CONFIG_EXPERT=y
# CONFIG_VT is not set
# CONFIG_INPUT is not set
# CONFIG_WIRELESS is not set
# CONFIG_WLAN is not set
# CONFIG_ETHERNET is not set
# CONFIG_LOCALVERSION_AUTO is not set
"""
"""What keeps a small kernel small. GZIP because emulated processors unpack XZ slowly; EXPERT because without
it what is not wanted can't be left out."""

PLAIN = """\
CONFIG_KERNEL_GZIP=y
# CONFIG_LOCALVERSION_AUTO is not set
# CONFIG_DEBUG_INFO_BTF is not set
CONFIG_SYSTEM_TRUSTED_KEYS=""
CONFIG_SYSTEM_REVOCATION_KEYS=""
# CONFIG_WERROR is not set
"""
"""What is better otherwise than in a distribution's configuration: keys that are not in the tree, BTF that
takes pahole and half a minute."""

GUEST = NEEDED + SMALL

READABLE = """\
CONFIG_SLUB=y
CONFIG_UNWINDER_ORC=y
"""
"""What the smallest configurations leave out and reports and dumps want: stacks that are not guessed, slabs
that know their objects."""

DEFAULT_BASE = "small"
TINY = ("kernel/configs/tiny.config", f"arch/{SOURCE_ARCH}/configs/tiny.config")
"""What the base ``small`` is made of, besides the defaults."""


@dataclass(frozen=True, slots=True)
class Config:
    """What to configure: a base and fragments on top, each winning over those before it.

    ``base`` is a target of the tree's makefile whose name ends in ``config`` (``defconfig``), or the path of
    a file; ``small`` stands for the defaults with the tree's tiny.config. Fragments are texts in the
    format of .config. Below them stand ``wishes``, which need not come out, and ``needs``, which must where
    the tree has such symbols.
    """

    base: str | Path = DEFAULT_BASE
    fragments: tuple[str, ...] = (GUEST,)
    needs: tuple[str, ...] = ()
    wishes: tuple[str, ...] = ()

    def texts(self) -> tuple[str | bytes, ...]:
        """Return all that it consists of, for a key. Raises UserError where the base is no file."""
        base = _read(self.base) if isinstance(self.base, Path) else self.base
        return (base, *self.wishes, "needs", *self.needs, "fragments", *self.fragments)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = "no such kernel configuration" if isinstance(error, FileNotFoundError) else error.strerror
        raise UserError(f"{what}: {path}") from error


@dataclass(frozen=True, slots=True)
class Dropped:
    """A symbol (without ``CONFIG_``) that is not as it was asked for, and why not."""

    symbol: str
    wanted: str
    got: str
    why: str

    @property
    def unknown(self) -> bool:
        """Whether the tree has no such symbol."""
        return self.why == UNKNOWN

    def __str__(self) -> str:
        return f"{self.symbol}={self.wanted} became {self.got}: {self.why}"


def parse_config(text: str) -> dict[str, str]:
    """Return the value of each symbol in the text of a .config or a fragment; ``n`` where it is not set.

    Raises UserError with the line where it is neither a symbol nor a comment.
    """
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if matched := SYMBOL.fullmatch(stripped):
            values[matched[1] or matched[3]] = matched[2] if matched[1] else "n"
        elif stripped and not stripped.startswith("#"):
            raise UserError(f"line {number} of a kernel configuration is no CONFIG_NAME=value: {stripped}")
    return values


def configure(
    tree: Path, out: Path, config: Config, *, compiler: str = "gcc", lenient: bool = False
) -> dict[str, str]:
    """Write ``out``/.config for the kernel source in ``tree`` and return its symbols.

    Raises UserError where a fragment is not well formed, where the base is not there, or where something that
    was asked for is not in the result; its ``data["dropped"]`` then holds a ``Dropped`` for each. With
    ``lenient``, symbols that the tree does not have are passed over. Raises MachineryError where the tree's
    tools fail.
    """
    wishes, needs, asked = (_merged(texts) for texts in (config.wishes, config.needs, config.fragments))
    wanted = {**wishes, **needs, **asked}
    check_tree(tree)
    out.mkdir(parents=True, exist_ok=True)
    make = ["make", "-s", "-C", str(tree), f"O={out}", *make_arguments(compiler)]
    target = out / ".config"
    draft = out / ".config.draft"
    if isinstance(config.base, Path):
        draft.write_bytes(_read(config.base))
    elif config.base == DEFAULT_BASE:
        # With the defaults, for tinyconfig has none of them: programs miss what they have everywhere.
        draft.write_text("".join(_text(tree / name) for name in TINY))
        call_make([*make, f"KCONFIG_CONFIG={draft}", "olddefconfig"], out)
    elif re.fullmatch(r"\w+config", config.base):
        with _set_aside(target):
            call_make([*make, f"KCONFIG_CONFIG={target}", config.base], out)
            target.replace(draft)
    else:
        raise UserError(f"no base of a configuration: {config.base}", hint="small, defconfig, or a file")
    # Of the members of a choice the last one that is set wins, so the fragments come last.
    base = {name: value for name, value in _base(draft, config.base).items() if name not in wanted}
    draft.write_text("".join(f"CONFIG_{name}={value}\n" for name, value in {**base, **wanted}.items()))
    call_make([*make, f"KCONFIG_CONFIG={draft}", "olddefconfig"], out)
    text = draft.read_text()
    for left in (draft, draft.with_name(draft.name + ".old")):
        left.unlink(missing_ok=True)
    values = parse_config(text)
    must = {**needs, **asked}
    dropped = tuple(
        one
        for one in find_dropped(tree, must, values)
        if not (one.unknown and (lenient or one.symbol not in asked))
    )
    if dropped:
        more = f" (and {len(dropped) - 3} more)" if len(dropped) > 3 else ""
        what = "; ".join(str(one) for one in dropped[:3])
        raise UserError(
            f"the kernel's configuration is not what was asked for: {what}{more}", dropped=dropped
        )
    # What depends on the file's time would be built again where nothing changed.
    if not target.is_file() or target.read_text() != text:
        target.write_text(text)
    return values


@contextmanager
def _set_aside(path: Path) -> Iterator[None]:
    """Move a file away for as long as the block takes, and back with the time that it had.

    The kernel's tinyconfig merges its fragment into ``.config``, whatever KCONFIG_CONFIG says
    (scripts/kconfig/Makefile, "%.config"), so a target has to make its result there, and from nothing: with
    the last one there, the next would be another.
    """
    aside = path.with_name(path.name + ".aside")
    if path.exists():
        path.replace(aside)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".old").unlink(missing_ok=True)
        if aside.exists():
            aside.replace(path)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _merged(texts: tuple[str, ...]) -> dict[str, str]:
    return {name: value for text in texts for name, value in parse_config(text).items()}


def _base(draft: Path, base: str | Path) -> dict[str, str]:
    try:
        return parse_config(draft.read_text())
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(
            f"{base}: {error.message if isinstance(error, UserError) else 'not UTF-8'}"
        ) from error


def check_tree(tree: Path) -> None:
    """Raise UserError where ``tree`` holds no kernel source that can be built out of tree."""
    if not (tree / "Kconfig").is_file() or not (tree / "scripts/kconfig/merge_config.sh").is_file():
        raise UserError(f"no kernel source in {tree}")
    if (tree / ".config").exists() or (tree / "include/config").exists():
        raise UserError(
            f"{tree} was built in place: it can't be built out of tree", hint=f"make -C {tree} mrproper"
        )


def find_dropped(tree: Path, wanted: dict[str, str], values: dict[str, str]) -> tuple[Dropped, ...]:
    """Return what of ``wanted`` is not in ``values``, with the reasons from the tree's Kconfig files."""
    wrong = {name: value for name, value in wanted.items() if values.get(name, "n") != value}
    if not wrong:
        return ()
    kconfig = read_kconfig(tree)
    return tuple(
        Dropped(name, value, values.get(name, "n"), why_dropped(kconfig, name, value, values))
        for name, value in wrong.items()
    )
