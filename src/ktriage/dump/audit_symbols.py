"""Debug information of modules that the audit needs, where it lies beside the kernel's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import drgn

from ktriage.dump.core import BROKEN
from ktriage.symbols.program import find_modules, read_layout

if TYPE_CHECKING:
    from ktriage.dump.core import Vmcore

_NAMES = """
8021q act_mirred af_alg arp_tables autofs4 bluetooth bridge cifs configfs dm_mod exfat fat hfs hfsplus
ip6_tables ip_set ip_tables isofs jfs kvm loop macsec macvlan md_mod nbd netconsole nf_tables nfnetlink_log
nfnetlink_queue nft_compat nft_ct nft_log ntfs3 overlay scsi_mod sg snd softdog tap team tipc tun udf vsock
watchdog x_tables zram
"""
NEEDED = frozenset(_NAMES.split())
"""Modules whose own types and variables say who has references: to them, or to what registers with them."""


def load_needed(core: Vmcore) -> None:
    """Load debug information of the modules in ``NEEDED`` that has not been named.

    It is looked for where distributions' packages have it: a vmlinux in ROOT/boot has its modules in
    ROOT/lib/modules/RELEASE. Files of another build are left out: the audit says what it lacks.
    """
    kernel = core.program.main_module().debug_file_path
    if not kernel:
        return
    folder = Path(kernel).parent.parent / "lib" / "modules" / core.release
    if not folder.is_dir():
        return
    files: dict[str, Path] = {}
    try:
        for module in core.program.modules():
            name = module.name.replace("-", "_")
            if name not in NEEDED or not isinstance(module, drgn.RelocatableModule):
                continue
            if module.wants_debug_file():
                files = files or find_modules([folder])
                _load(module, files.get(name))
    except BROKEN as error:
        core.notes.append(f"modules' debug information: {str(error) or type(error).__name__}")


def _load(module: drgn.Module, path: Path | None) -> None:
    if path is None:
        return
    layout = read_layout(path)
    if not module.build_id or not layout.build_id or module.build_id.hex() == layout.build_id:
        module.try_file(path)
