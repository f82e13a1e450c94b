"""KVM or TCG: found by booting, remembered per machine.

A /dev/kvm that opens, and a boot sector that runs on it, prove nothing: there are hosts where its ioctls
succeed and every kernel hangs. So the first guest is booted on KVM under a time-out; where it does not come
up and the same guest does on TCG, that is this machine's answer until the kernel, QEMU or the machine change.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

from ktriage.cache import cache_root, digest, locked
from ktriage.errors import UserError
from ktriage.machine.vm import qemu_binary

PROBE_SECONDS = 15.0
"""How long a guest on KVM may take to come up; it takes one to two seconds where KVM works."""

ACCELERATORS = ("auto", "kvm", "tcg")


@lru_cache(maxsize=1)
def qemu_version() -> str:
    """Return the first line of ``qemu-system-x86_64 --version``."""
    done = subprocess.run([qemu_binary(), "--version"], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise UserError(f"{qemu_binary()} does not run: {done.stderr.strip()}")
    return done.stdout.splitlines()[0]


def _machine_key() -> str:
    machine_id = Path("/etc/machine-id")
    name = machine_id.read_text() if machine_id.is_file() else platform.node()
    return digest(name, platform.release(), qemu_version())


def _answers() -> Path:
    return cache_root() / "accel.json"


def remembered() -> str | None:
    """Return this machine's remembered accelerator, or None where it was never probed."""
    try:
        answer = json.loads(_answers().read_text())[_machine_key()]
    except (OSError, ValueError, KeyError):
        return None
    return answer if answer in ("kvm", "tcg") else None


def remember(accel: str) -> None:
    """Keep ``accel`` as this machine's answer."""
    path = _answers()
    with locked(path.with_suffix(".lock")):
        try:
            answers = json.loads(path.read_text())
        except (OSError, ValueError):
            answers = {}
        answers[_machine_key()] = accel
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(answers))
        draft.replace(path)


def candidates(wanted: str = "auto") -> list[str]:
    """Return the accelerators to try, the preferred one first.

    ``wanted`` is one of ``ACCELERATORS``; ``$KTRIAGE_ACCEL`` overrides "auto".
    Raises UserError for any other.
    """
    if wanted == "auto":
        wanted = os.environ.get("KTRIAGE_ACCEL", "auto")
    if wanted not in ACCELERATORS:
        raise UserError(f"no accelerator {wanted!r}: it is one of {', '.join(ACCELERATORS)}")
    if wanted != "auto":
        return [wanted]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ["tcg"]
    answer = remembered()
    return [answer] if answer else ["kvm", "tcg"]
