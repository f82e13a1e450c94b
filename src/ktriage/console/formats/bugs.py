"""BUG_ON and other announcements with BUG. Order matters: what is left over comes last."""

from __future__ import annotations

from ktriage.console.formats.format import Format, traced, trapped

FORMATS = (
    Format(
        "kernel BUG",
        r"kernel BUG at lib/list_debug\.c",
        "BUG: corrupted list in {frame}",
        alt=("bad-access in {frame}",),
        stack=traced(),
    ),
    # An skb's own checks fail for its user's sake.
    Format("kernel BUG", "kernel BUG at ", "kernel BUG in {frame}", stack=trapped("^skb_")),
    Format("Kernel BUG", "Kernel BUG (?P<rest>.*)", "kernel BUG {rest}"),
    Format(
        "BUG:",
        # The file system and its device are left out: the same bug comes on any of them.
        r"BUG: Dentry .* still in use \([0-9]+\) +\[(?P<what>unmount) of (?P<where>[^\]]+)\]",
        "BUG: Dentry still in use in {what}",
        alt=("BUG: Dentry still in use [{what} of {where}]",),
    ),
    Format("BUG:", "(?P<all>BUG: Dentry .* still in use.*)", "{all}", corrupted=True),
    Format("BUG:", r"BUG:\s*$", "BUG: corrupted", corrupted=True),
    Format("INFO:", r"INFO:\s*$", "INFO: corrupted", corrupted=True),
)
