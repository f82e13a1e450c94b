"""A kernel that runs: the guest's image, QEMU, saved guests, console and vmcore."""

from ktriage.machine.guest import BootFailedError, Guest, GuestSpec, prepare
from ktriage.machine.image import Program
from ktriage.machine.run import End, GuestRun, Plan, Step, not_up, run
from ktriage.machine.vm import kill_all

__all__ = [
    "BootFailedError",
    "End",
    "Guest",
    "GuestRun",
    "GuestSpec",
    "Plan",
    "Program",
    "Step",
    "kill_all",
    "not_up",
    "prepare",
    "run",
]
