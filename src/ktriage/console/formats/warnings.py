"""WARN_ON and its relatives. Order matters: the plain WARNING comes last."""

from __future__ import annotations

from ktriage.console.formats.format import Format, warned

URB = ("usb_submit_urb", "usb_start_wait_urb", "usb_bulk_msg", "usb_interrupt_msg", "usb_control_msg")
PLAIN = "WARNING in {frame}"

FORMATS = (
    Format(
        "WARNING:",
        r"WARNING: .*fs/proc/generic\.c.* (?:proc_register|at)",
        "WARNING: proc registration bug in {frame}",
        stack=warned("proc_"),
    ),
    # The check is usb_submit_urb's, the bad URB is its caller's.
    Format("WARNING:", "WARNING: .* usb_submit_urb", "WARNING in {frame}/usb_submit_urb", stack=warned(*URB)),
    Format("WARNING:", r"WARNING: {src} at 0x\d+, CPU#\d+", PLAIN, stack=warned()),
    Format("WARNING:", "WARNING: .* at {src} {func}", PLAIN, stack=warned()),
    # Since 2025 the function comes after "at": "WARNING: fs/x.c:12 at f+0x1/0x2, CPU#1: comm/123".
    Format("WARNING:", r"WARNING: (?:\[.*\] )?{src} at {func}", PLAIN, stack=warned()),
    Format(
        "WARNING:",
        "WARNING: kernel stack regs at [0-9a-f]+ in [^ ]* has bad '(?P<register>[^']+)' value",
        "WARNING: kernel stack regs has bad '{register}' value",
        trace=False,
    ),
    Format(
        "WARNING:",
        "WARNING: kernel stack frame pointer at [0-9a-f]+ in [^ ]* has bad value",
        "WARNING: kernel stack frame pointer has bad value",
        trace=False,
    ),
    Format(
        "WARNING:",
        "WARNING: kernel stack (?:regs .* has bad 'bp'|frame pointer .* has bad) value",
        "WARNING: kernel stack regs has bad value",
        trace=False,
    ),
    Format("WARNING:", r"WARNING:\s*$", "WARNING: corrupted", corrupted=True),
)
