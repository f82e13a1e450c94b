"""How a kernel of one's own boots: as a vmlinux or as a bzImage, found by booting it.

QEMU starts a vmlinux with CONFIG_PVH at its PVH entry (include/xen/interface/hvm/start_info.h), without the
second that real mode and unpacking take; but some (with KASAN, for one: its shadow is set up by code that the
PVH entry does not run through) reset there, and need their bzImage. What came up is remembered by
configuration, compiler and QEMU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from ktriage.cache import cache_root, digest, locked
from ktriage.machine.accel import qemu_version

Image = Literal["vmlinux", "bzImage"]


def _answers() -> Path:
    return cache_root() / "boot.json"


def images_to_try(key: str) -> tuple[Image, Image]:
    """Return the images to try, in order; ``key`` stands for a configuration and a compiler."""
    known = _read().get(digest(key, qemu_version()))
    return ("bzImage", "vmlinux") if known == "bzImage" else ("vmlinux", "bzImage")


def remember(key: str, image: Image) -> None:
    """Keep that a kernel came up as ``image``."""
    key = digest(key, qemu_version())
    if _read().get(key) == image:
        return
    path = _answers()
    with locked(path.with_suffix(".lock")):
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({**_read(), key: image}))
        draft.replace(path)


def _read() -> dict[str, str]:
    try:
        known = json.loads(_answers().read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
