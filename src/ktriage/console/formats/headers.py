"""The texts that announce a crash, and the lines that have them and mean nothing.

A line is read on only if it has one of these texts; the first in this order that it has decides which
formats are tried. ``NOISE`` patterns take a line back.
"""

from __future__ import annotations

import re

from ktriage.console.formats.format import compiled

HEADERS = (
    "BUG:",
    "WARNING:",
    "INFO:",
    "Unable to handle kernel",
    "general protection fault",
    "stack segment: ",
    "Kernel panic",
    "PANIC: double fault",
    "rust_kernel: panicked",
    "kernel BUG",
    "Kernel BUG",
    "BUG kmalloc-",
    "divide error:",
    "divide_error:",
    "int3:",
    "invalid opcode:",
    "UBSAN:",
    "Booting the kernel.",
    "unregister_netdevice: waiting for",
    "tried to init an initialized object",
    "VFS: Close: file count is 0",
    "VFS: Busy inodes after unmount",
    "Internal error:",
    "Unhandled fault:",
    "Alignment trap:",
    "trusty: panic",
    "fatal error:",
    "SYZFAIL:",
    "SYZFATAL:",
    "panic:",
)

NOISE: dict[str, tuple[str, ...]] = {
    "BUG:": (
        # Words that only end in BUG, from debugobjects and Android.
        "DEBUG:",
        "xlog_status:",
        "BUG: no syscalls can create resource",
    ),
    "WARNING:": (
        "WARNING: /etc/ssh/moduli does not exist, using fixed modulus",
        "WARNING: workqueue cpumask: online intersect > possible intersect",
        "WARNING: [Tt]he mand mount option",
        r"WARNING: Unsupported flag value\(s\) of 0x%x in DT_FLAGS_1",
        "WARNING: Unprivileged eBPF is enabled with eIBRS",
        "WARNING: fbcon: Driver '.*' missed to adjust virtual screen size",
        "WARNING: See https.* for mitigation options",
        "WARNING: kernel not compiled with CPU_SRSO",
        r"EXT4-[Ff][Ss](?: \(.*\))?:",
        "(?i:warning: .* uses (?:deprecated v2 capabilities|wireless extensions))",
        r"XFS \(\w+\): WARNING",
    ),
    "INFO:": (
        "INFO: lockdep is turned off",
        "INFO: Stall ended before state dump start",
        "INFO: NMI handler",
        "INFO: recovery required on readonly filesystem",
        "(?:handler|interrupt).*took too long",
        "INFO: sys_.* is not present in /proc/kallsyms",
        "INFO: no syscalls can create resource",
        "rmt_storage:INFO:",
        # "INVALID BTF_INFO:2" and other names that end in INFO.
        "_INFO:",
    ),
    "general protection fault": (
        # A process that died of it, not the kernel.
        r"general protection fault .* error:\d+ in ",
    ),
    "Booting the kernel.": (
        # A fuzzer that read the boot messages back from the console and mounted with them.
        "Parsing ELF|Decompressing Linux|Unknown parameter '",
    ),
    "fatal error:": ("ALSA", "fatal error: cannot create timer"),
    # Functions: skb_panic, skb_over_panic.
    "panic:": ("_panic:", "xlog_status:", r"ddb\.onpanic:", "evtlog_status:"),
}

_NOISE = {header: re.compile("|".join(patterns), re.ASCII) for header, patterns in NOISE.items()}

# These may stand in the middle of another report: they are part of it, not the start of the next.
PART = compiled(
    "invalid opcode: 0000|Kernel panic - not syncing|unregister_netdevice: waiting for|PANIC: double fault"
    "|Internal error:|INFO: task .* is blocked on a"
)

# These go on with a report whose announcement stands a few lines above: the trap behind a BUG, the oops
# behind a fault, the holder of a hung task's lock, the rest of SLUB's own reports.
CONTINUES = compiled(
    "invalid opcode: 0000|Internal error:|INFO: task .* is blocked on a"
    "|INFO: (?:0x|Slab|Object|Allocated in|Freed in)"
)

# No crash, but printed with a stack: in the middle of a report, it may have given its frames to it.
INFORMATION = (
    "vmalloc: allocation failure:",
    "FAULT_INJECTION: forcing a failure",
    "FAULT_FLAG_ALLOW_RETRY missing",
)


def announced(line: str) -> str | None:
    """Return the header that ``line`` is announced by, or None."""
    for header in HEADERS:
        if header in line:
            noise = _NOISE.get(header)
            if noise is None or not noise.search(line):
                return header
    return None
