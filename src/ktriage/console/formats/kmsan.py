"""KMSAN: uses of memory that nobody initialized, and its leaks to user space or a device.

The report's first stack says where the value was used, the second where the memory came from.
"""

from __future__ import annotations

from ktriage.console.formats.format import STACK, Format, Stack

ORIGIN = "Local variable .* created at:|Uninit was created at:"
USB = (
    "alloc_skb",
    "usb_submit_urb",
    "usb_start_wait_urb",
    "usb_bulk_msg",
    "usb_interrupt_msg",
    "usb_control_msg",
)

FORMATS = (
    Format(
        "BUG:",
        "BUG: KMSAN: kernel-usb-infoleak in {func}",
        "KMSAN: kernel-usb-infoleak in {frame}",
        alt=("KMSAN origin in {origin}",),
        stack=Stack((STACK, ORIGIN, STACK), skip=USB),
        trace=False,
    ),
    Format(
        "BUG:",
        "BUG: KMSAN: (?P<kind>[a-z-]+) in {func}",
        "KMSAN: {kind} in {frame}",
        alt=("bad-access in {frame}",),
        stack=Stack(
            (STACK, ORIGIN, STACK),
            # Ciphers and the netlink core only touch what their callers hand them.
            skip=("alloc_skb", "netlink_ack", "netlink_rcv_skb", "_encrypt$", "^(?:crypto|cipher|drbg|rng)_"),
        ),
        trace=False,
    ),
    Format("BUG:", "(?P<all>BUG: KMSAN: .*)", "{all}", corrupted=True),
)
