"""The kernel's own log as it stood in the dumped memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn.helpers.linux.printk import get_printk_records

from ktriage.dump.types import LogLine

if TYPE_CHECKING:
    import drgn

MOST_ID = (1 << 62) - 1
"""A record's number has 62 bits (DESC_ID_MASK, kernel/printk/printk_ringbuffer.h)."""


def read_log(program: drgn.Program) -> list[LogLine]:
    """Return the records of the printk buffer, oldest first.

    The caller is ``T`` and the thread's id or ``C`` and the CPU, where the kernel keeps it
    (CONFIG_PRINTK_CALLER). Raises drgn.FaultError where the buffer lies in memory that the dump lacks,
    ValueError where its ends are nonsense: there are more records between them than it has room for.
    """
    _check_ends(program)
    lines = []
    for record in get_printk_records(program):
        caller = None
        if record.caller_tid is not None:
            caller = f"T{record.caller_tid}"
        elif record.caller_cpu is not None:
            caller = f"C{record.caller_cpu}"
        lines.append(
            LogLine(
                seconds=record.timestamp / 1e9,
                level=record.level,
                text=record.text.decode(errors="replace"),
                caller=caller,
            )
        )
    return lines


def log_text(lines: list[LogLine]) -> str:
    """Return the log as dmesg prints it: ``[    1.234567] text``, one line a line of each record."""
    printed = []
    for line in lines:
        stamp = f"[{line.seconds:12.6f}]"
        printed += [f"{stamp} {part}" for part in line.text.split("\n")]
    return "\n".join(printed) + "\n" if printed else ""


def _check_ends(program: drgn.Program) -> None:
    """Check the ends of the ring of records, which drgn walks from one to the other.

    Kernels before commit 896fbe20b4e2 (Linux 5.10) have another buffer.
    """
    try:
        ring = program["prb"].desc_ring
        room = 1 << int(ring.count_bits)
    except (LookupError, AttributeError):
        return
    except ValueError as error:
        raise ValueError(f"the size of the log's ring is nonsense: {error}") from None
    records = (int(ring.head_id.counter) - int(ring.tail_id.counter)) & MOST_ID
    if records >= room:
        raise ValueError(f"the log's ring has room for {room} records, and its ends are {records} apart")
